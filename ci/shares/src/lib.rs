//! Measures whether anybody can take more than its share of a CPU.
//!
//! It is a root task of its own. A thread of low priority counts how often it goes round: first alone, then
//! while others, of higher priority, take all that they can get. What it does then, in proportion, is what they leave. Time is
//! the machine's counter; where that counts instructions, every run measures the same. Lines in the log:
//! `shares: NAME: N of 1000 left, N promised`, and at the end `shares: done` or `shares: FAILED WHY`.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
mod flood;
#[cfg(target_os = "none")]
mod measure;

#[cfg(target_os = "none")]
pub use measure::run;
