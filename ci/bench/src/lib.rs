//! Measures what isolation costs: system calls, IPC, system calls that are told to a handler, VM exits; and whether IPC on
//! one CPU costs the others anything.
//!
//! It is a root task of its own, so that nothing else runs. Each row is one line in the log,
//! `bench: NAME min median p99 max count first`, in ticks of the machine's counter with the cost of
//! reading it subtracted; under `qemu -icount` and in Bochs a tick is an instruction.
//!
//! The rows `exit`, `inject` and `guest` are measured by a guest ([`exit`], and the crate `bench-guest`, whose `Row` says what
//! each of them is).
//!
//! The rows `throughput.OPERATION.cpusN` are instructions of one operation while each of the machine's `N` CPUs repeats it,
//! with a client and servers of its own: `ipc.same_domain` and `ipc.other_domain` are calls without words in the UTCB,
//! `ipc.utcb_words` calls with some, which take the general path, and `signal_wait` signals a notification and takes
//! the signal back. They are a little more than the same operation's on its own, by the registers that the loop around it
//! saves. Where they are the same for every `N`, throughput grows as the number of CPUs does.
//!
//! Two emulators see two things. In Bochs the CPUs go on side by side, a few instructions each in turn, inside the kernel
//! too: who waits for a lock there executes more instructions. QEMU's, when it counts instructions, go on in turns, which
//! here end in user mode and so never inside the kernel: a lock is always free, and what shows is a path that gets longer
//! with the number of CPUs, as by work for each of them. Neither has caches: what a cache line costs that several CPUs
//! write is not seen; that there is none, the tests see with a plugin of QEMU (`ci/plugin`). On a machine of several CPUs nothing else is measured, as all CPUs count.
#![cfg_attr(target_os = "none", no_std)]

/// Where each client of a pair writes to in its own space when its loop begins, and when it ends: for who watches the
/// machine from outside.
pub const LOOP_BEGINS: u64 = 0x5002_0000;
/// As [`LOOP_BEGINS`].
pub const LOOP_ENDS: u64 = LOOP_BEGINS + 8;

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
