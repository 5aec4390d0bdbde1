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
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
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
    pub const RBX: usize = offset_of!(Frame, rbx);
    /// `rbp`.
    pub const RBP: usize = offset_of!(Frame, rbp);
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
        self.args()[index]
    }

    /// All arguments.
    pub fn args(&mut self) -> [u64; 9] {
        [self.rdi, self.rsi, self.rdx, self.r8, self.r9, self.r10, self.r12, self.r13, self.r14]
    }

    /// Sets result register `index` (0 to 8).
    pub fn set_arg(&mut self, index: usize, value: u64) {
        let register = match index {
            0 => &mut self.rdi,
            1 => &mut self.rsi,
            2 => &mut self.rdx,
            3 => &mut self.r8,
            4 => &mut self.r9,
            5 => &mut self.r10,
            6 => &mut self.r12,
            7 => &mut self.r13,
            _ => &mut self.r14,
        };
        *register = value;
    }

    /// Operation and length.
    pub fn tag(&self) -> Tag {
        Tag(self.rax)
    }

    /// Sets the status of the system call.
    pub fn set_result(&mut self, status: Status) {
        self.set_result_tag(Tag::result(status, 0));
    }

    /// Sets the status and what else the tag of a result says.
    pub fn set_result_tag(&mut self, tag: Tag) {
        self.rax = tag.0;
    }

    /// The message in registers.
    pub fn message(&self) -> [u64; REGISTER_WORDS] {
        [self.rsi, self.rdx, self.r8, self.r9, self.r10, self.r12, self.r13, self.r14]
    }

    /// Sets the message.
    pub fn set_message(&mut self, words: &[u64; REGISTER_WORDS]) {
        [self.rsi, self.rdx, self.r8, self.r9, self.r10, self.r12, self.r13, self.r14] = *words;
    }

    /// Clears what a call or reply leaves undefined.
    pub fn scrub(&mut self) {
        (self.rbx, self.rbp, self.r15) = (0, 0, 0);
    }

    /// A handler's registers when it is called, but for the message.
    pub fn receive(&mut self, identity: u64, words: usize, items: usize) {
        self.scrub();
        self.rdi = identity;
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

    /// Sets instruction pointer, stack pointer and flags from a handler's reply. Addresses outside user
    /// space become 0, which faults.
    pub fn set_user(&mut self, ip: u64, sp: u64, flags: u64) {
        self.rip = if ip < USER_END { ip } else { 0 };
        self.rsp = if sp <= USER_END { sp } else { 0 };
        self.rflags = flags & USER_FLAGS | FIXED_FLAGS;
        // The registers that SYSRET would take for these are the user's own.
        self.vector = 0;
    }

    /// General registers in the order of their encoding.
    pub fn gprs(&self) -> [u64; exception::GPRS] {
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ]
    }

    /// Sets the general registers, but not the stack pointer.
    pub fn set_gprs(&mut self, gprs: &[u64; exception::GPRS]) {
        let sp = self.rsp;
        [
            self.rax, self.rcx, self.rdx, self.rbx, self.rsp, self.rbp, self.rsi, self.rdi,
            self.r8, self.r9, self.r10, self.r11, self.r12, self.r13, self.r14, self.r15,
        ] = *gprs;
        self.rsp = sp;
        self.vector = 0;
    }

    /// Sets the first argument of a thread that has not run.
    pub fn set_start_argument(&mut self, value: u64) {
        self.rdi = value;
    }
}
