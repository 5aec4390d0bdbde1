//! The words of system calls: enumerations and flags among their arguments, and the tag.

use crate::codes::{codes, flags};
use crate::{Op, Status};

codes! {
    /// What [`Op::Power`] does.
    pub enum PowerAction: u64 {
        /// Switches the machine off (PSCI SYSTEM_OFF).
        Off = 0,
        /// Resets it (PSCI SYSTEM_RESET).
        Reset = 1,
    }
}

codes! {
    /// Kind of an address space ([`Op::CreateSpace`]).
    pub enum SpaceKind: u64 {
        /// User virtual addresses of native programs, and their I/O ports on x86.
        Host = 0,
        /// Guest-physical addresses of a VM.
        Guest = 1,
        /// Addresses that a device uses, in the format of guest spaces. No thread or vCPU runs in it.
        Device = 2,
    }
}

/// Most windows of a cyclic schedule ([`Op::SetSchedule`]).
pub const MAX_WINDOWS: usize = 16;
/// Words of the UTCB that describe a window.
pub const WINDOW_WORDS: usize = 3;

/// Most doorbells of a space ([`Op::BindDoorbell`]).
pub const MAX_DOORBELLS: usize = 128;

codes! {
    /// What the range of a doorbell is of ([`Op::BindDoorbell`]).
    pub enum DoorbellKind: u64 {
        /// Guest-physical addresses.
        Memory = 0,
        /// I/O ports; there are none on Arm.
        Ports = 1,
    }
}

codes! {
    /// How a mapping is cached ([`Op::Map`]). Where the processor combines it with what a guest asks for, the guest may get
    /// less caching than this, never more.
    ///
    /// Of RAM that is mapped in different ways, programs see a write through one of them by another only after they have cleaned or
    /// invalidated the caches as their processor's manual has it.
    pub enum Caching: u64 {
        /// By the kind of the memory: RAM and firmware's tables write-back, device memory uncached.
        Natural = 0,
        /// Each access goes to the memory or device, in the order of the program. Arm: device memory nGnRE, in which
        /// accesses have to be aligned.
        Uncached = 1,
        /// Not cached, but writes may be gathered and accesses reordered. Arm: normal memory, non-cacheable.
        WriteCombining = 2,
    }
}

impl Caching {
    /// In its place in `a6` of [`Op::Map`].
    pub const fn bits(self) -> u64 {
        (self as u64) << Caching::SHIFT
    }

    /// Its place in `a6` of [`Op::Map`].
    pub const SHIFT: u32 = 16;
}

codes! {
    /// Trigger mode of an interrupt line ([`Op::InterruptBind`]).
    pub enum TriggerMode: u64 {
        /// What the firmware's tables say of the line; ISA default edge, active high.
        Default = 0,
        /// Edge, active high.
        Edge = 1,
        /// Level, active low.
        Level = 2,
    }
}

flags! {
    /// Flags of [`Op::CreateThread`], in their places in `a4`. A thread keeps them as long as it lives.
    #[derive(Default)]
    pub struct ThreadFlags: u64 {
        /// The thread's system calls are not the kernel's: each of them, whatever its number and arguments, is told to
        /// the handler of the thread's exceptions as [`crate::utcb::exception::SYSTEM_CALL`]. So the thread can
        /// neither call nor be called.
        const FOREIGN = 1 << 32;
    }
}

flags! {
    /// Flags of [`Op::Delegate`].
    pub struct DelegateFlags: u64 {
        /// Grant: the capability moves, with its place in the tree; `a3`–`a5` are ignored.
        const GRANT = 1 << 0;
    }
}

/// `rax` or `x0` on entry and on return: operation or status (bits 0–7), the number of capabilities (bits 8–11) and of words in the
/// UTCB (bits 16–31) of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// The tag of operation `op` with `words` words in the UTCB.
    pub const fn new(op: Op, words: u16) -> Tag {
        Tag(op as u64 | (words as u64) << 16)
    }

    /// The tag of a result.
    pub const fn result(status: Status, words: u16) -> Tag {
        Tag(status as u64 | (words as u64) << 16)
    }

    /// The operation's number.
    pub const fn op(self) -> u8 {
        self.0 as u8
    }

    /// The status of a result.
    pub const fn status(self) -> Status {
        Status::from_code(self.0 as u8)
    }

    /// Words of the UTCB that belong to the message; at most [`crate::utcb::WORDS`].
    pub const fn utcb_words(self) -> usize {
        (self.0 >> 16) as u16 as usize
    }

    /// The same tag for a message with `items` capabilities; at most [`crate::utcb::ITEMS`].
    pub const fn with_items(self, items: usize) -> Tag {
        Tag(self.0 & !(0xf << 8) | ((items & 0xf) as u64) << 8)
    }

    /// Capabilities that belong to the message ([`crate::utcb::Item`]).
    pub const fn items(self) -> usize {
        (self.0 >> 8 & 0xf) as usize
    }

    /// Whether a reserved bit is set.
    pub const fn has_reserved(self) -> bool {
        self.0 & !0xffff_0fff != 0
    }
}
