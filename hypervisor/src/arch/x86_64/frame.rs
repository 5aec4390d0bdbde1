//! User registers of a thread that is not running.

use super::gdt;
use abi::syscall::Tag;
use abi::utcb::{REGISTER_WORDS, exception};
use abi::{Status, USER_END};

/// What `vector` holds after a system call; no processor vector.
pub const SYSCALL: u64 = 0x100;

/// RFLAGS bits that a user program may have set: the arithmetic flags, TF, DF, RF, AC and ID.
const USER_FLAGS: u64 = 0x0025_0dd5;
/// IF and the bit that is always one.
const FIXED_FLAGS: u64 = 0x202;
/// Bytes in a `SYSCALL` instruction.
const SYSCALL_LENGTH: u64 = 2;

/// User registers, in the order in which the entry code pushes them.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Frame {
    /// All but `rsp`, in the opposite order of their encoding.
    gprs: [u64; exception::GPRS - 1],
    /// Processor vector, or [`SYSCALL`].
    pub vector: u64,
    /// Error code.
    pub error: u64,
    pub(super) rip: u64,
    cs: u64,
    rflags: u64,
    pub(super) rsp: u64,
    ss: u64,
}

/// Places of general registers in [`Frame::gprs`].
mod at {
    pub const R15: usize = 0;
    pub const R14: usize = 1;
    pub const R13: usize = 2;
    pub const R12: usize = 3;
    pub const R10: usize = 5;
    pub const R9: usize = 6;
    pub const R8: usize = 7;
    pub const RDI: usize = 8;
    pub const RSI: usize = 9;
    pub const RBP: usize = 10;
    pub const RBX: usize = 11;
    pub const RDX: usize = 12;
    pub const RAX: usize = 14;
}

/// Places of the arguments there.
const ARGUMENTS: [usize; 9] = [
    at::RDI,
    at::RSI,
    at::RDX,
    at::R8,
    at::R9,
    at::R10,
    at::R12,
    at::R13,
    at::R14,
];

/// Offsets for the fast path.
pub mod offset {
    use super::Frame;
    use core::mem::offset_of;
    /// `vector`.
    pub const VECTOR: usize = offset_of!(Frame, vector);
    /// `rip`.
    pub const RIP: usize = offset_of!(Frame, rip);
    /// `rflags`.
    pub const RFLAGS: usize = offset_of!(Frame, rflags);
    /// `rsp`.
    pub const RSP: usize = offset_of!(Frame, rsp);
    /// `rbx`.
    pub const RBX: usize = offset_of!(Frame, gprs) + 8 * super::at::RBX;
    /// `rbp`.
    pub const RBP: usize = offset_of!(Frame, gprs) + 8 * super::at::RBP;
}

impl Frame {
    /// Registers of a thread that starts at `ip`.
    pub fn user(ip: u64, sp: u64) -> Frame {
        Frame {
            rip: ip,
            rsp: sp,
            cs: gdt::USER_CODE.bits() as u64,
            ss: gdt::USER_DATA.bits() as u64,
            rflags: FIXED_FLAGS,
            ..Frame::default()
        }
    }

    /// Argument `index` (0 to 8).
    pub fn arg(&mut self, index: usize) -> u64 {
        self.gprs[ARGUMENTS[index]]
    }

    /// All arguments.
    #[inline(always)]
    pub fn args(&mut self) -> [u64; 9] {
        let [a, b, c, d, e, f, g, h] = self.message();
        [self.gprs[at::RDI], a, b, c, d, e, f, g, h]
    }

    /// Sets result register `index` (0 to 8).
    pub fn set_arg(&mut self, index: usize, value: u64) {
        self.gprs[ARGUMENTS[index]] = value;
    }

    /// Operation and length.
    pub fn tag(&self) -> Tag {
        Tag(self.gprs[at::RAX])
    }

    /// Sets the status of the system call.
    pub fn set_result(&mut self, status: Status) {
        self.set_result_tag(Tag::result(status, 0));
    }

    /// Sets the status and what else the tag of a result says.
    pub fn set_result_tag(&mut self, tag: Tag) {
        self.gprs[at::RAX] = tag.0;
    }

    /// The message in registers.
    #[inline(always)]
    pub fn message(&self) -> [u64; REGISTER_WORDS] {
        let [_, r14, r13, r12, _, r10, r9, r8, _, rsi, _, _, rdx, ..] = self.gprs;
        [rsi, rdx, r8, r9, r10, r12, r13, r14]
    }

    /// Sets the message.
    #[inline(always)]
    pub fn set_message(&mut self, words: &[u64; REGISTER_WORDS]) {
        let [_, r14, r13, r12, _, r10, r9, r8, _, rsi, _, _, rdx, ..] = &mut self.gprs;
        [*rsi, *rdx, *r8, *r9, *r10, *r12, *r13, *r14] = *words;
    }

    /// Clears what a call or reply leaves undefined.
    pub fn scrub(&mut self) {
        self.gprs[at::RBX] = 0;
        self.gprs[at::RBP] = 0;
        self.gprs[at::R15] = 0;
    }

    /// A handler's registers when it is called, but for the message.
    pub fn receive(&mut self, identity: u64, words: usize, items: usize) {
        self.scrub();
        self.gprs[at::RDI] = identity;
        self.set_result_tag(Tag::result(Status::Success, words as u16).with_items(items));
    }

    /// Has the system call executed again.
    pub fn restart(&mut self) {
        self.rip = self.rip.wrapping_sub(SYSCALL_LENGTH);
    }

    /// Instruction pointer.
    pub fn ip(&self) -> u64 {
        self.rip
    }

    /// Stack pointer.
    pub fn sp(&self) -> u64 {
        self.rsp
    }

    /// Flags.
    pub fn flags(&self) -> u64 {
        self.rflags
    }

    /// Whether it was user code that was interrupted.
    pub fn is_user(&self) -> bool {
        self.cs & 3 == 3
    }

    /// Sets instruction pointer, stack pointer and flags from a handler's reply. Addresses outside user
    /// space become 0, which faults.
    pub fn set_user(&mut self, ip: u64, sp: u64, flags: u64) {
        self.rip = if ip < USER_END { ip } else { 0 };
        self.rsp = if sp <= USER_END { sp } else { 0 };
        self.rflags = flags & USER_FLAGS | FIXED_FLAGS;
        // The registers that SYSRET would take for these are the user's own.
        self.vector = 0;
    }

    /// Place in `gprs` of the general register with this encoding; none of the stack pointer.
    fn place(register: usize) -> Option<usize> {
        const SP: usize = 4;
        match register {
            ..SP => Some(exception::GPRS - 2 - register),
            SP => None,
            _ => Some(exception::GPRS - 1 - register),
        }
    }

    /// General registers in the order of their encoding.
    pub fn gprs(&self) -> [u64; exception::GPRS] {
        core::array::from_fn(|i| Frame::place(i).map_or(self.rsp, |at| self.gprs[at]))
    }

    /// Sets the general registers, but not the stack pointer.
    pub fn set_gprs(&mut self, gprs: &[u64; exception::GPRS]) {
        for (i, &value) in gprs.iter().enumerate() {
            if let Some(at) = Frame::place(i) {
                self.gprs[at] = value;
            }
        }
        self.vector = 0;
    }

    /// Sets the first argument of a thread that has not run.
    pub fn set_start_argument(&mut self, value: u64) {
        self.gprs[at::RDI] = value;
    }
}
