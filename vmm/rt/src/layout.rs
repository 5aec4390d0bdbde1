//! Where things are in a program's address space and capability table. The root task builds programs so.
//!
//! The root task itself is built by the kernel, as [`abi::boot`] says.
use abi::Selector;

/// Address of the environment pages (read-only).
pub const ENVIRONMENT_ADDRESS: u64 = 0x2000_0000;
/// Most bytes of the environment pages.
pub const ENVIRONMENT_MAX: u64 = 0x1_0000;
/// Address of the first thread's UTCB.
pub const UTCB_ADDRESS: u64 = 0x2002_0000;
/// End of the first thread's stack; the pages below it are not mapped.
pub const STACK_TOP: u64 = 0x2018_0000;
/// Addresses of further threads' UTCBs, one page each.
pub const UTCB_RANGE: core::ops::Range<u64> = 0x2018_0000..0x2020_0000;
/// Address of the heap.
pub const HEAP_ADDRESS: u64 = 0x4000_0000;
/// Addresses of the bundle's files that the program was given.
pub const FILES: core::ops::Range<u64> = 0x8000_0000..0x1_0000_0000;
/// Addresses that a program maps memory at as it likes.
pub const FREE_ADDRESSES: core::ops::Range<u64> = 0x1_0000_0000..0x7f_0000_0000;

/// The program's own domain.
pub const DOMAIN: Selector = Selector(1);
/// The program's host space.
pub const SPACE: Selector = Selector(2);
/// The program's first thread.
pub const THREAD: Selector = Selector(3);
/// The log.
pub const LOG: Selector = Selector(4);
/// The supervisor's portal, on the first thread's CPU.
pub const SUPERVISOR: Selector = Selector(5);
/// The portal for exceptions of threads on CPU 0; CPU `n` at `+ n`, present for CPUs that the
/// program was given.
pub const EXCEPTION_PORTALS: Selector = Selector(8);
/// First selector for capabilities that depend on the program's role.
pub const ROLE_SELECTORS: Selector = Selector(128);
