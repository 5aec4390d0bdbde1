//! What depends on the processor: the system-call instruction, entry points, the counter, caches, I/O ports.

#[cfg(all(target_os = "none", target_arch = "x86_64"))]
mod x86_64;
#[cfg(all(target_os = "none", target_arch = "x86_64"))]
pub use x86_64::*;

#[cfg(all(target_os = "none", target_arch = "aarch64"))]
mod aarch64;
#[cfg(all(target_os = "none", target_arch = "aarch64"))]
pub use aarch64::*;

#[cfg(not(target_os = "none"))]
mod hosted;
#[cfg(not(target_os = "none"))]
pub use hosted::*;

use abi::operation::{Operation, Registers as _};
use abi::{Status, Tag};

/// The registers of a system call: on entry operation and arguments, on return status and results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// Operation or status ([`abi::Tag`]).
    pub tag: u64,
    /// `a0`, or the identity of the portal that was called.
    pub first: u64,
    /// `a1`–`a8`, or message words 0–7.
    pub words: [u64; abi::utcb::REGISTER_WORDS],
}

impl Registers {
    /// Those of a system call.
    #[inline(always)]
    pub fn new<T: Operation>(operation: &T) -> Registers {
        let (tag, [first, words @ ..]) = operation.encode();
        Registers { tag: tag.0, first, words }
    }

    /// What they say after one.
    #[inline(always)]
    pub fn results<T: Operation>(&self) -> Result<T::Results, Status> {
        match Tag(self.tag).status() {
            Status::Success => {
                let mut words = [self.first; 9];
                words[1..].copy_from_slice(&self.words);
                // The kernel returns nothing else.
                T::Results::decode(&words).ok_or(Status::Unknown)
            }
            status => Err(status),
        }
    }
}

#[cfg(target_os = "none")]
unsafe extern "Rust" {
    /// Defined by [`crate::program!`] or [`crate::root_task!`].
    fn bulkhead_main(argument: u64) -> !;
}
