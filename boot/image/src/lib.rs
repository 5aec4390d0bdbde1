//! The boot bundle: kernel and root task find everything else of a running system in it.
//!
//! A bundle starts with the [`abi::bundle::Head`] that the kernel reads. Behind it lie the segments
//! of the root task, the segments of the other programs, files (guest kernels, initial RAM disks) and
//! the *directory*, which says where each of them is and holds the checked description of the system
//! ([`system::System`]). [`bundle::Bundle`] reads a bundle; `pack` writes one.
#![cfg_attr(not(any(test, feature = "pack")), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bundle;
#[cfg(any(test, feature = "pack"))]
pub mod pack;
pub mod system;
