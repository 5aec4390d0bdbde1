//! The Bulkhead microhypervisor: all privileged code, and nothing else.
//!
//! The portable core is one file per kernel object and one per mechanism; what differs between
//! architectures is behind [`arch`].
#![cfg_attr(not(test), no_std)]

pub mod addr;
#[cfg(target_os = "none")]
pub mod arch;
pub mod boot;
#[cfg(target_os = "none")]
pub mod cell;
#[cfg(target_os = "none")]
pub mod context;
#[cfg(target_os = "none")]
pub mod cpu;
#[cfg(target_os = "none")]
pub mod create;
#[cfg(target_os = "none")]
pub mod destroy;
#[cfg(target_os = "none")]
pub mod domain;
#[cfg(target_os = "none")]
pub mod epoch;
#[cfg(target_os = "none")]
pub mod interrupt;
#[cfg(target_os = "none")]
pub mod ipc;
#[cfg(target_os = "none")]
pub mod logring;
#[cfg(target_os = "none")]
pub mod mem;
#[cfg(target_os = "none")]
pub mod notification;
#[cfg(target_os = "none")]
pub mod object;
#[cfg(target_os = "none")]
pub mod portal;
#[cfg(target_os = "none")]
pub mod root;
#[cfg(target_os = "none")]
pub mod sched;
#[cfg(target_os = "none")]
pub mod slot;
#[cfg(target_os = "none")]
pub mod space;
#[cfg(target_os = "none")]
pub mod syscall;
#[cfg(target_os = "none")]
pub mod thread;
#[cfg(target_os = "none")]
pub mod timeout;
#[cfg(target_os = "none")]
pub mod vcpu;
