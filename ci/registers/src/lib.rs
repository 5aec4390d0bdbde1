//! Guests keep their registers to themselves, and their monitor is not harmed by what they write to them.
//!
//! Two vCPUs of one CPU take turns. Each fills every register that a guest can write without an exit with patterns of
//! its own, lets the other one run, and looks whether its patterns are still there; in between their monitor, this
//! program, checks that its own state is as it should be. At last there is a guest that gets nowhere, which must not keep the CPU from
//! others. It is a root task of its own; it ends with `registers: done` or
//! `registers: FAILED` in the log.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod arch;
#[cfg(target_os = "none")]
pub mod turns;
