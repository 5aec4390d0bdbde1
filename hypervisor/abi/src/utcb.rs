//! The user thread control block (UTCB): a page that a thread shares with the kernel, for
//! messages that do not fit into registers.

use crate::syscall::DelegateFlags;
use crate::{Rights, Selector};

/// Message words in a UTCB.
pub const WORDS: usize = 504;

/// Message words that travel in registers.
pub const REGISTER_WORDS: usize = 8;

/// Layout of a UTCB page.
#[repr(C, align(4096))]
pub struct Utcb {
    /// The [`Window`] for capabilities that others send to this thread, as [`Window::to_word`] has it.
    pub window: u64,
    /// Reserved; the kernel neither reads nor writes it.
    pub reserved: [u64; 7],
    /// Message words; the last ones are the [`Item`]s of a message that has such.
    pub words: [u64; WORDS],
}

/// Most capabilities of a message.
pub const ITEMS: usize = 4;
/// Words of an [`Item`].
pub const ITEM_WORDS: usize = 3;

/// A capability that is sent with a message: what [`crate::Op::Delegate`] is told, but for the place, which the receiver's
/// [`Window`] gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The capability, in the sender's table.
    pub source: Selector,
    /// Rights that the receiver gets, if the sender has them.
    pub rights: u16,
    /// [`crate::syscall::DelegateFlags`].
    pub flags: u16,
    /// Memory: offset. Notification: badge.
    pub first: u64,
    /// Memory: size.
    pub second: u64,
}

impl Item {
    /// Index in [`Utcb::words`] of the first word of item `number` (0 to [`ITEMS`] − 1): items lie at the end, the
    /// first one last.
    pub const fn place(number: usize) -> usize {
        WORDS - ITEM_WORDS * (number + 1)
    }

    /// Message words that are left beside `count` items.
    pub const fn words_beside(count: usize) -> usize {
        WORDS.saturating_sub(ITEM_WORDS * count)
    }

    /// Rights and flags, unless they have bits that mean nothing.
    pub fn terms(self) -> Option<(Rights, DelegateFlags)> {
        let rights = Rights::from_bits(self.rights)?;
        Some((rights, DelegateFlags::from_bits(self.flags.into())?))
    }

    /// As it is in the UTCB.
    pub const fn to_words(self) -> [u64; ITEM_WORDS] {
        [
            self.source.0 as u64 | (self.rights as u64) << 32 | (self.flags as u64) << 48,
            self.first,
            self.second,
        ]
    }

    /// From the words in a UTCB. Any value is an item.
    pub const fn from_words(words: [u64; ITEM_WORDS]) -> Item {
        Item {
            source: Selector(words[0] as u32),
            rights: (words[0] >> 32) as u16,
            flags: (words[0] >> 48) as u16,
            first: words[1],
            second: words[2],
        }
    }
}

/// Where a thread takes capabilities: slots of its domain's table, filled from the first on by each message. A window that
/// is empty takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// The first slot.
    pub base: u32,
    /// Number of slots.
    pub slots: u32,
}

impl Window {
    /// As it is in the UTCB.
    pub const fn to_word(self) -> u64 {
        self.base as u64 | (self.slots as u64) << 32
    }

    /// From the word in a UTCB.
    pub const fn from_word(word: u64) -> Window {
        Window { base: word as u32, slots: (word >> 32) as u32 }
    }
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
