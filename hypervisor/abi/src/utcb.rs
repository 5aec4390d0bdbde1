//! The user thread control block (UTCB): a page that a thread shares with the kernel, for
//! messages that do not fit into registers.

/// Message words in a UTCB.
pub const WORDS: usize = 504;

/// Message words that travel in registers.
pub const REGISTER_WORDS: usize = 8;

/// Layout of a UTCB page.
#[repr(C, align(4096))]
pub struct Utcb {
    /// Reserved; the kernel neither reads nor writes it.
    pub reserved: [u64; 8],
    /// Message words.
    pub words: [u64; WORDS],
}

/// Exception message: what a thread's exception portal receives.
///
/// Register words: 0 = vector, 1 = error code, 2 = fault address, 3 = instruction pointer,
/// 4 = stack pointer, 5 = flags; UTCB words 0–15 = `rax rcx rdx rbx rsp rbp rsi rdi r8`–`r15`. Arm: 0 = exception
/// class (ESR_EL2.EC), 1 = ESR_EL2, 2 = FAR_EL2, 5 = SPSR_EL2; UTCB words 0–30 = `x0`–`x30`.
///
/// A system call of a thread that is marked [`crate::syscall::ThreadFlags::FOREIGN`] comes as such a message too, with
/// [`SYSTEM_CALL`](exception::SYSTEM_CALL) in word 0, 0 (Arm: ESR_EL2, with the number in the instruction) in word 1, 0 in
/// word 2, and in word 3 the address past the instruction. All registers are as the thread left them, but for those that
/// the processor sets: `rcx` = instruction pointer, `r11` = flags on x86; they are so again when the thread is resumed
/// without `SET_GPRS` and `SET_FRAME`.
///
/// Reply: register word 0 = [`ExceptionReply`] bits, words 3–5 as in the message.
pub mod exception {
    bitflags::bitflags! {
        /// What the kernel does with the thread.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct ExceptionReply: u64 {
            /// Resume; without it the thread never runs again.
            const RESUME = 1 << 0;
            /// Take instruction pointer, stack pointer and flags from words 3–5.
            const SET_FRAME = 1 << 1;
            /// Take the general registers from the UTCB words.
            const SET_GPRS = 1 << 2;
        }
    }

    /// Number of general registers in the UTCB part.
    pub const GPRS: usize = 16;
    /// The same on AArch64.
    pub const GPRS_AARCH64: usize = 31;

    /// In the place of a vector or class, none of which is as large: a system call.
    pub const SYSTEM_CALL: u64 = 0x100;
}
