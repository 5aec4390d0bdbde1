//! User registers of a thread that is not running: sixteen, of which nine are arguments.

use abi::status::StatusSet;
use abi::syscall::Tag;
use abi::utcb::{REGISTER_WORDS, exception};
use abi::{Op, Status, USER_END};

/// Places of `a0` to `a8`.
const ARGUMENTS: [usize; 9] = [7, 6, 2, 8, 9, 10, 12, 13, 14];
/// Places that a call or reply leaves undefined.
const SCRUBBED: [usize; 3] = [3, 5, 15];
/// Bytes in the instruction that makes a system call.
pub const SYSCALL_LENGTH: u64 = 2;

/// User registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    /// General registers; 0 is the operation and the status.
    pub gpr: [u64; exception::GPRS],
    ip: u64,
    sp: u64,
    flags: u64,
}

impl Frame {
    /// Registers of a thread that starts at `ip`.
    pub fn user(ip: u64, sp: u64) -> Frame {
        Frame { ip, sp, ..Frame::default() }
    }

    /// Argument `index` (0 to 8).
    pub fn arg(&mut self, index: usize) -> u64 {
        self.gpr[ARGUMENTS[index]]
    }

    /// All arguments.
    pub fn args(&mut self) -> [u64; 9] {
        ARGUMENTS.map(|at| self.gpr[at])
    }

    /// Sets result register `index` (0 to 8).
    pub fn set_arg(&mut self, index: usize, value: u64) {
        self.gpr[ARGUMENTS[index]] = value;
    }

    /// Operation and length.
    pub fn tag(&self) -> Tag {
        Tag(self.gpr[0])
    }

    /// Sets the operation.
    pub fn set_tag(&mut self, tag: Tag) {
        self.gpr[0] = tag.0;
    }

    /// Sets the status of the system call.
    pub fn set_result(&mut self, status: Status) {
        self.set_result_tag(Tag::result(status, 0));
    }

    /// Sets the status and what else the tag of a result says. It is one of those that the specification has for the
    /// operation, which is still there.
    pub fn set_result_tag(&mut self, tag: Tag) {
        let (op, status) = (Op::from_code(self.tag().op()), tag.status());
        let declared = op.map_or(StatusSet::of(&[Status::BadOperation]), Op::statuses);
        assert!(declared.contains(status), "{op:?} returns {status:?}");
        self.gpr[0] = tag.0;
    }

    /// The message in registers.
    pub fn message(&self) -> [u64; REGISTER_WORDS] {
        core::array::from_fn(|i| self.gpr[ARGUMENTS[i + 1]])
    }

    /// Sets the message.
    pub fn set_message(&mut self, words: &[u64; REGISTER_WORDS]) {
        for (at, &word) in ARGUMENTS[1..].iter().zip(words) {
            self.gpr[*at] = word;
        }
    }

    /// Clears what a call or reply leaves undefined.
    pub fn scrub(&mut self) {
        for at in SCRUBBED {
            self.gpr[at] = 0;
        }
    }

    /// A handler's registers when it is called, but for the message.
    pub fn receive(&mut self, identity: u64, words: usize, items: usize) {
        self.scrub();
        self.set_arg(0, identity);
        self.set_result_tag(Tag::result(Status::Success, words as u16).with_items(items));
    }

    /// Has the system call executed again.
    pub fn restart(&mut self) {
        self.ip = self.ip.wrapping_sub(SYSCALL_LENGTH);
    }

    /// Instruction pointer.
    pub fn ip(&self) -> u64 {
        self.ip
    }

    /// Stack pointer.
    pub fn sp(&self) -> u64 {
        self.sp
    }

    /// Flags.
    pub fn flags(&self) -> u64 {
        self.flags
    }

    /// Sets instruction pointer, stack pointer and flags. Addresses outside user space become 0.
    pub fn set_user(&mut self, ip: u64, sp: u64, flags: u64) {
        self.ip = if ip < USER_END { ip } else { 0 };
        self.sp = if sp <= USER_END { sp } else { 0 };
        self.flags = flags;
    }

    /// General registers.
    pub fn gprs(&self) -> [u64; exception::GPRS] {
        self.gpr
    }

    /// Sets the general registers.
    pub fn set_gprs(&mut self, gprs: &[u64; exception::GPRS]) {
        self.gpr = *gprs;
    }

    /// Sets the first argument of a thread that has not run.
    pub fn set_start_argument(&mut self, value: u64) {
        self.set_arg(0, value);
    }
}
