//! AArch64 guests.
//!
//! [`vcpu`] emulates what belongs to the processor ([`id`], [`gic`], [`psci`], [`clock`]) and finds the device for
//! an address. [`boot`] and [`device_tree`] build what a guest finds in its memory when it starts.

pub mod boot;
pub mod clock;
pub mod device_tree;
pub mod exception;
pub mod exits;
pub mod gic;
pub mod id;
pub mod layout;
pub mod psci;
#[cfg(target_os = "none")]
pub mod setup;
pub mod state;
pub mod syndrome;
pub mod vcpu;
pub mod vm;
