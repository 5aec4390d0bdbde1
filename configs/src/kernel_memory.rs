//! The memory that the kernel makes its objects of: how much of it a system needs.
//!
//! The kernel takes it when it starts, in one piece, and the quotas of all domains together never exceed it.

use image::system::System;

/// The least that a machine has: what the kernel takes unless it is told.
const LEAST: u64 = 8 << 20;
/// The most that the kernel takes.
pub const MOST: u64 = 1 << 30;
/// What kernel and root task need for themselves.
const OWN: u64 = 1 << 20;
/// What they need for each CPU, which is the most on x86: some 64 KiB; and the root task for each program.
const EACH: u64 = 128 << 10;

/// What `system` needs on a machine with so many CPUs, in bytes: a multiple of 1 MiB. Beyond [`MOST`] it cannot be had.
pub fn needed(system: &System, cpus: u32) -> u64 {
    let quotas = system.compartments().map(|c| c.quota.bytes());
    let count = u64::from(cpus) + system.compartments().count() as u64;
    let needed = quotas.sum::<u64>() + OWN + EACH * count;
    needed.next_multiple_of(1 << 20).max(LEAST)
}
