//! The Bulkhead microhypervisor: all privileged code, and nothing else.
#![cfg_attr(not(test), no_std)]

pub mod addr;
#[cfg(target_os = "none")]
pub mod arch;
pub mod boot;
