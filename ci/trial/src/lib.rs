//! What the root tasks that measure and try the hypervisor have in common. Each is all that runs on its machine; its
//! objects are in the root domain.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
mod root;

#[cfg(target_os = "none")]
pub use arch::{echo, initial_state};
#[cfg(target_os = "none")]
pub use root::{
    Heap, Stack, claim_heap, create_thread, map_code, map_head, open_bundle, place_code, ram, rest,
    start,
};
