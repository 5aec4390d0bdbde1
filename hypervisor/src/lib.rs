//! The Bulkhead microhypervisor: all privileged code, and nothing else.
//!
//! The portable core is one file per kernel object and one per mechanism; what differs between
//! architectures is behind [`arch`].
#![cfg_attr(target_os = "none", no_std)]

pub mod addr;
pub mod arch;
pub mod binding;
pub mod boot;
pub mod cell;
pub mod context;
pub mod cpu;
pub mod create;
pub mod cyclic;
pub mod delegate;
pub mod destroy;
pub mod domain;
pub mod doorbell;
pub mod epoch;
pub mod interrupt;
pub mod ipc;
pub mod latency;
pub mod log;
pub mod logring;
pub mod lookup;
pub mod mem;
pub mod migrate;
pub mod notification;
pub mod object;
pub mod overrun;
#[cfg(target_os = "none")]
pub mod panic;
pub mod portal;
pub mod ring;
pub mod root;
#[cfg(target_os = "none")]
pub mod run;
pub mod sched;
pub mod slot;
pub mod space;
pub mod speculation;
pub mod sync;
pub mod syscall;
pub mod tables;
pub mod tags;
pub mod thread;
pub mod time;
pub mod timeout;
pub mod vcpu;

#[cfg(test)]
mod tests;
