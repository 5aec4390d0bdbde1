//! Runtime of Bulkhead's user programs: start-up, system calls, heap, typed IPC, logging.
//!
//! A program is a `no_std` binary that names its main function with [`program!`]. The root task starts
//! it with an [`env::Environment`] that says who it is and which capabilities it holds; [`start`]
//! turns that into a heap, a log and typed handles, and calls the main function.
//!
//! The crate also compiles for the developer's machine, so that libraries which use it can be tested there.
//! System calls then return [`abi::Status::Unsupported`].
#![cfg_attr(target_os = "none", no_std)]

extern crate alloc;

pub mod arch;
pub mod env;
pub mod exception;
pub mod handler;
pub mod heap;
pub mod ipc;
pub mod layout;
pub mod log;
pub mod mapping;
pub mod mmio;
pub mod program;
pub mod protocol;
pub mod selectors;
pub mod shared;
pub mod start;
pub mod syscall;
pub mod thread;

pub use ::log as logging;
pub use abi;
