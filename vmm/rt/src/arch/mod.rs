//! What depends on the processor: the system-call instruction, entry points, the counter, I/O ports.

#[cfg(target_os = "none")]
mod x86_64;
#[cfg(target_os = "none")]
pub use x86_64::*;

#[cfg(not(target_os = "none"))]
mod hosted;
#[cfg(not(target_os = "none"))]
pub use hosted::*;

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
