//! Measures what isolation costs: system calls, IPC, system calls that are told to a handler, VM exits.
//!
//! It is a root task of its own, so that nothing else runs. Each row is one line in the log,
//! `bench: NAME min median p99 max count first`, in ticks of the machine's counter with the cost of
//! reading it subtracted; under `qemu -icount` and in Bochs a tick is an instruction.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
pub mod exit;
#[cfg(target_os = "none")]
pub mod foreign;
#[cfg(target_os = "none")]
pub mod ipc;
#[cfg(target_os = "none")]
pub mod stats;
#[cfg(target_os = "none")]
pub mod throughput;
