//! Hostile programs: random system calls and forbidden instructions, from domains that are ended while they run.
//!
//! It is a root task of its own. Each round makes a few domains with a small quota, has them do their worst for some
//! milliseconds, ends them, and looks whether the kernel gave back exactly what it took. Lines in the log:
//! `hostile: N rounds, M calls`, `hostile: FAILED WHY` and, at the end, `hostile: done M calls`. A text `settings` in the bundle
//! says how long runs are and what they follow from.
#![cfg_attr(target_os = "none", no_std)]

pub mod calls;
pub mod random;

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod driver;
#[cfg(target_os = "none")]
pub mod monitor;
#[cfg(target_os = "none")]
pub mod place;
#[cfg(target_os = "none")]
pub mod victim;
