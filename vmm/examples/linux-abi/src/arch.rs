//! Where system calls have their numbers, arguments and results, and which number is what.

use abi::utcb::exception;
use rt::ipc::Utcb;

/// How an architecture's Linux makes system calls.
#[derive(Clone, Copy, Debug)]
pub struct Convention {
    /// Words of the exception message that hold the number and the arguments.
    pub number: usize,
    /// As above.
    pub arguments: [usize; 6],
    /// The word that takes the result.
    pub result: usize,
    /// Number of `write`.
    pub write: u64,
    /// Number of `mmap`.
    pub mmap: u64,
    /// Number of `exit`.
    pub exit: u64,
    /// Number of `exit_group`.
    pub exit_group: u64,
    /// Machine in the header of an ELF file.
    pub machine: u16,
}

/// x86-64: `rax`; `rdi rsi rdx r10 r8 r9`.
pub const X86_64: Convention = Convention {
    number: 0,
    arguments: [7, 6, 2, 10, 8, 9],
    result: 0,
    write: 1,
    mmap: 9,
    exit: 60,
    exit_group: 231,
    machine: elf::abi::EM_X86_64,
};

/// AArch64: `x8`; `x0`–`x5`.
pub const AARCH64: Convention = Convention {
    number: 8,
    arguments: [0, 1, 2, 3, 4, 5],
    result: 0,
    write: 64,
    mmap: 222,
    exit: 93,
    exit_group: 94,
    machine: elf::abi::EM_AARCH64,
};

const _: () = assert!(X86_64.arguments[3] < exception::GPRS);
const _: () = assert!(AARCH64.number < exception::GPRS_AARCH64);

/// That of the machine.
pub const CURRENT: Convention = if cfg!(target_arch = "aarch64") { AARCH64 } else { X86_64 };

/// The number and the arguments of a system call in an exception message.
pub fn decode(utcb: &Utcb) -> (u64, [u64; 6]) {
    let arguments = CURRENT.arguments.map(|word| utcb.read(word));
    (utcb.read(CURRENT.number), arguments)
}

/// Puts the result into the answer.
pub fn set_result(utcb: &mut Utcb, result: u64) {
    utcb.write(CURRENT.result, result);
}
