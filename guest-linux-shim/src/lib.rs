//! What runs inside a Linux guest of Bulkhead, and the definitions that guest and monitor share.
//!
//! [`kvm`] are the paravirtual interfaces that stock kernels already speak. [`initramfs`] is the content
//! of the default initial RAM disk, which the `bulkhead` command packs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod initramfs;
pub mod kvm;
