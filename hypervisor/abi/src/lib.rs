//! The system-call ABI of the Bulkhead microhypervisor.
//!
//! Kernel and user programs compile this one definition: the operations with their arguments, rights, conditions, statuses
//! and costs ([`call`]), status codes, capability rights, the layouts of the pages that both sides read and
//! write ([`utcb`], [`vcpu`], [`boot`]) and the head of the boot bundle ([`bundle`]). From the table in [`call`] come the
//! kernel's decoder, the system calls of programs, and what `hypervisor/SPEC.md` says of operations.
//!
//! # Registers (x86-64, `SYSCALL`)
//!
//! | register | on entry | on return |
//! | --- | --- | --- |
//! | `rax` | bits 0–7 [`Op`]; bits 16–31 UTCB words to send ([`Tag`]) | bits 0–7 [`Status`]; bits 16–31 UTCB words received |
//! | `rdi` | `a0` | `a0`, or the identity of the portal that was called |
//! | `rsi rdx r8 r9 r10 r12 r13 r14` | `a1`–`a8`, or message words 0–7 | the same |
//! | `rcx`, `r11` | – | scrubbed |
//! | `rbx`, `rbp`, `r15` | – | preserved, except by [`Op::Call`] and [`Op::ReplyWait`]: scrubbed |
//! | `rsp`, `rip` | | preserved |
//!
//! # Registers (AArch64, `SVC #0`)
//!
//! | register | on entry | on return |
//! | --- | --- | --- |
//! | `x0` | bits 0–7 [`Op`]; bits 16–31 UTCB words to send ([`Tag`]) | bits 0–7 [`Status`]; bits 16–31 UTCB words received |
//! | `x1` | `a0` | `a0`, or the identity of the portal that was called |
//! | `x2`–`x9` | `a1`–`a8`, or message words 0–7 | the same |
//! | `x10`–`x18` | – | preserved, except by [`Op::Call`] and [`Op::ReplyWait`]: scrubbed |
//! | `x19`–`x30`, `sp` | – | preserved |
//! | flags | – | preserved, except by [`Op::Call`] and [`Op::ReplyWait`]: undefined |
//!
//! Vector registers are not available to threads: their first use is an exception.
//!
//! Threads that are marked [`syscall::ThreadFlags::FOREIGN`] make none of these calls: what they mean by the instruction is
//! for the handler of their exceptions to say ([`utcb::exception`]).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod argument;
pub mod boot;
pub mod bundle;
pub mod call;
pub mod cap;
pub mod codes;
pub mod kind;
pub mod operation;
pub mod status;
pub mod syscall;
pub mod text;
pub mod utcb;
pub mod vcpu;

pub use call::Op;
pub use cap::{Badge, Kind, Rights, Selector};
pub use status::Status;
pub use syscall::Tag;

/// Version of this ABI, to which `hypervisor/CHANGELOG.md` says what has changed. The kernel puts it in
/// [`boot::BootInfo::abi_version`].
pub const VERSION: u32 = 1;

/// Bytes in a page, the unit of memory delegation and of kernel-memory quota.
pub const PAGE_SIZE: usize = 4096;

/// Number of priorities of scheduling contexts; 0 is the lowest.
pub const PRIORITIES: usize = 128;

/// Most slots of a domain's capability table.
pub const MAX_SLOTS: u32 = 1 << 15;

/// Most pages of a domain's quota.
pub const MAX_QUOTA: u64 = 1 << 40;

/// How deep domains nest: the root domain is at depth 0, and a new one below those that make it and pay for it.
pub const MAX_DOMAIN_DEPTH: u8 = 8;

/// Most bytes that one operation moves to or from the log.
pub const LOG_CHUNK: usize = 56;

/// Number of partitions of cyclic schedules.
pub const PARTITIONS: usize = 8;

/// Longest chain of nested calls. A call that would exceed it returns [`Status::Depth`].
pub const MAX_CALL_DEPTH: usize = 16;

/// First address that user mappings cannot use: 39 bits, what stage 2 of every 64-bit Arm core with 40
/// bits of physical addresses translates from one table, less a page, so that no x86 `SYSCALL` can end at an
/// address past it.
pub const USER_END: u64 = 0x7f_ffff_f000;
