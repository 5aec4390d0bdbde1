//! User registers of a thread that is not running.

use abi::syscall::Tag;
use abi::utcb::{REGISTER_WORDS, exception};
use abi::{Status, USER_END};

/// Bytes in an `SVC` instruction.
const SYSCALL_LENGTH: u64 = 4;
/// SPSR bits that a user program may have set: the condition flags.
const USER_FLAGS: u64 = 0xf000_0000;
/// Place of `a0` among the registers; the other arguments follow.
const ARGUMENTS: usize = 1;

/// User registers.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Frame {
    x: [u64; exception::GPRS_AARCH64],
    sp: u64,
    elr: u64,
    /// SPSR_EL2: EL0t, AArch64, nothing masked, but for the condition flags.
    spsr: u64,
}

/// Offsets for the entry code.
pub mod offset {
    use super::Frame;
    use core::mem::offset_of;
    /// SP_EL0, followed by ELR_EL2.
    pub const SP: usize = offset_of!(Frame, sp);
    /// ELR_EL2, followed by SPSR_EL2.
    pub const ELR: usize = offset_of!(Frame, elr);
    /// x30, followed by `sp`.
    pub const X30: usize = 30 * 8;
}

impl Frame {
    /// Registers of a thread that starts at `ip`.
    pub fn user(ip: u64, sp: u64) -> Frame {
        Frame { elr: ip, sp, ..Frame::default() }
    }

    /// Argument `index` (0 to 8).
    pub fn arg(&mut self, index: usize) -> u64 {
        self.x[ARGUMENTS + index]
    }

    /// All arguments.
    #[inline(always)]
    pub fn args(&mut self) -> [u64; 9] {
        let [_, a, b, c, d, e, f, g, h, i, ..] = self.x;
        [a, b, c, d, e, f, g, h, i]
    }

    /// Sets result register `index` (0 to 8).
    pub fn set_arg(&mut self, index: usize, value: u64) {
        self.x[ARGUMENTS + index] = value;
    }

    /// Operation and length.
    pub fn tag(&self) -> Tag {
        Tag(self.x[0])
    }

    /// Sets the status of the system call.
    pub fn set_result(&mut self, status: Status) {
        self.set_result_tag(Tag::result(status, 0));
    }

    /// Sets the status and what else the tag of a result says.
    pub fn set_result_tag(&mut self, tag: Tag) {
        self.x[0] = tag.0;
    }

    /// The message in registers.
    #[inline(always)]
    pub fn message(&self) -> [u64; REGISTER_WORDS] {
        let [_, _, b, c, d, e, f, g, h, i, ..] = self.x;
        [b, c, d, e, f, g, h, i]
    }

    /// Sets the message.
    pub fn set_message(&mut self, words: &[u64; REGISTER_WORDS]) {
        let [_, _, b, c, d, e, f, g, h, i, ..] = &mut self.x;
        [*b, *c, *d, *e, *f, *g, *h, *i] = *words;
    }

    /// Clears what a call or reply leaves undefined.
    pub fn scrub(&mut self) {
        self.x[10..=18].fill(0);
    }

    /// A handler's registers when it is called, but for the message.
    pub fn receive(&mut self, identity: u64, words: usize, items: usize) {
        self.scrub();
        self.set_arg(0, identity);
        self.set_result_tag(Tag::result(Status::Success, words as u16).with_items(items));
    }

    /// Has the system call executed again.
    pub fn restart(&mut self) {
        self.elr = self.elr.wrapping_sub(SYSCALL_LENGTH);
    }

    /// Instruction pointer.
    pub fn ip(&self) -> u64 {
        self.elr
    }

    /// Stack pointer.
    pub fn sp(&self) -> u64 {
        self.sp
    }

    /// Flags.
    pub fn flags(&self) -> u64 {
        self.spsr
    }

    /// Sets instruction pointer, stack pointer and flags from a handler's reply. Addresses outside user
    /// space become 0, which faults.
    pub fn set_user(&mut self, ip: u64, sp: u64, flags: u64) {
        self.elr = if ip < USER_END { ip } else { 0 };
        self.sp = if sp <= USER_END { sp } else { 0 };
        self.spsr = flags & USER_FLAGS;
    }

    /// General registers.
    pub fn gprs(&self) -> [u64; exception::GPRS_AARCH64] {
        self.x
    }

    /// Sets the general registers.
    pub fn set_gprs(&mut self, gprs: &[u64; exception::GPRS_AARCH64]) {
        self.x = *gprs;
    }

    /// Sets the first argument of a thread that has not run.
    pub fn set_start_argument(&mut self, value: u64) {
        self.set_arg(0, value);
    }
}
