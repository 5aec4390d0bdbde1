//! What it does.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use linux_hello::{FAREWELL, GREETING, SUCCESS};
use linux_program::{crash, system_call};
use linux_raw_sys::general::{__NR_exit_group, __NR_mmap, __NR_write};

const STDOUT: usize = 1;
const PROT_READ: usize = 1;
const PROT_WRITE: usize = 2;
const MAP_PRIVATE: usize = 2;
const MAP_ANONYMOUS: usize = 0x20;
const NO_FILE: usize = usize::MAX;

const EBADF: isize = -9;
const ENOMEM: isize = -12;
const EFAULT: isize = -14;
const EINVAL: isize = -22;
const ENOSYS: isize = -38;

/// A number that no system call of Linux has.
const UNKNOWN: u32 = 1023;
const PAGE: usize = 4096;

static INITIALISED: AtomicU64 = AtomicU64::new(0x1122_3344_5566_7788);
static ZERO: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];

fn write(file: usize, address: usize, length: usize) -> isize {
    // SAFETY: it only reads memory.
    unsafe { system_call(__NR_write, [file, address, length, 0, 0, 0]) }
}

fn print(text: &str) -> bool {
    write(STDOUT, text.as_ptr() as usize, text.len()) == text.len() as isize
}

fn map(length: usize) -> isize {
    let rights = PROT_READ | PROT_WRITE;
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    // SAFETY: without a wish for an address the system takes one that is free.
    unsafe { system_call(__NR_mmap, [0, length, rights, flags, NO_FILE, 0]) }
}

/// Ends the program.
pub fn exit(code: i32) -> ! {
    loop {
        // SAFETY: it does not return.
        unsafe { system_call(__NR_exit_group, [code as usize, 0, 0, 0, 0, 0]) };
    }
}

/// Whether the program's data are there, and new memory is empty and its own.
fn memory() -> bool {
    let initialised = INITIALISED.fetch_add(1, Relaxed) == 0x1122_3344_5566_7788;
    let zero = ZERO.iter().all(|word| word.fetch_add(1, Relaxed) == 0);
    let (first, second) = (map(3 * PAGE), map(PAGE));
    if first <= 0 || second <= 0 {
        return false;
    }
    let word = |index: usize| {
        let address = first as usize + index * 8;
        // SAFETY: the system has mapped three pages there, which nothing else in this program refers to.
        unsafe { &*(address as *const AtomicU64) }
    };
    let empty = (0..3 * PAGE / 8).all(|i| word(i).fetch_add(i as u64, Relaxed) == 0);
    let kept = (0..3 * PAGE / 8).all(|i| word(i).load(Relaxed) == i as u64);
    initialised && zero && empty && kept && first != second
}

/// Whether the system reads from what is the program's and from nothing else.
fn pointers() -> bool {
    let mine = GREETING.as_ptr() as usize;
    [
        (0, 1),
        (0x1000, 1),
        (1 << 47, 1),
        (usize::MAX, 1),
        (usize::MAX - PAGE + 1, PAGE),
        (0xffff_8000_0000_0000, 1),
        (mine, 1 << 63),
        (mine, usize::MAX),
    ]
    .into_iter()
    .all(|(address, length)| write(STDOUT, address, length) == EFAULT)
}

/// Whether what cannot be is refused as Linux does.
fn refusals() -> bool {
    // SAFETY: there is no such system call.
    let unknown = unsafe { system_call(UNKNOWN, [1, 2, 3, 4, 5, 6]) };
    unknown == ENOSYS
        && write(77, GREETING.as_ptr() as usize, 1) == EBADF
        && write(STDOUT, GREETING.as_ptr() as usize, 0) == 0
        && map(0) == EINVAL
        && map(1 << 62) == ENOMEM
}

/// Something that must be true.
type Check = fn() -> bool;

/// What is checked, and what is printed if it is not so.
const CHECKS: [(Check, &str); 3] = [
    (memory, "linux-hello: memory is not as it should be\n"),
    (pointers, "linux-hello: a bad pointer was not refused\n"),
    (refusals, "linux-hello: a bad call was not refused\n"),
];

linux_program::entry!(main);

/// Called by the entry point with the address of the number of arguments.
fn main(arguments: *const usize) -> ! {
    // SAFETY: the system has put the number there.
    let count = unsafe { *arguments };
    if count == 0 || !print(GREETING) {
        exit(1);
    }
    if count > 1 {
        crash();
    }
    for (code, (check, complaint)) in (2..).zip(CHECKS) {
        if !check() {
            print(complaint);
            exit(code);
        }
    }
    print(FAREWELL);
    exit(SUCCESS)
}
