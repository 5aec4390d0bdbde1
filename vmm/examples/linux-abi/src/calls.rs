//! The system calls that are answered.

use crate::arch::CURRENT;
use crate::output::{Lines, Output};
use crate::process::{Backing, NoMemory, Process};
use abi::Rights;

/// What comes of a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program goes on with this result.
    Return(Result<u64, Errno>),
    /// It has ended, with this code.
    Exit(i32),
}

/// An error of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum Errno {
    /// No such file.
    BadFile = 9,
    /// No memory.
    NoMemory = 12,
    /// Not allowed.
    Access = 13,
    /// Not the program's memory.
    Fault = 14,
    /// An argument that cannot be.
    Invalid = 22,
    /// No such system call.
    NoCall = 38,
}

impl Outcome {
    /// The result as the program sees it, if it goes on.
    pub fn result(self) -> Option<u64> {
        match self {
            Outcome::Return(Ok(value)) => Some(value),
            Outcome::Return(Err(error)) => Some((error as i64).wrapping_neg() as u64),
            Outcome::Exit(_) => None,
        }
    }
}

/// What a program's calls act on.
pub struct World<'a, B, L> {
    /// Its memory.
    pub process: &'a mut Process,
    /// What gives it more.
    pub backing: &'a mut B,
    /// What it has printed.
    pub output: &'a mut Output,
    /// Where that goes.
    pub lines: &'a mut L,
}

const STDOUT: u64 = 1;
const STDERR: u64 = 2;

/// Most bytes that one `write` takes, so that no call takes long.
const MOST_WRITTEN: u64 = 4096;

const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const PROT_EXEC: u64 = 4;
const MAP_PRIVATE: u64 = 0x2;
const MAP_ANONYMOUS: u64 = 0x20;
/// Flags that change nothing here: MAP_NORESERVE and MAP_STACK.
const MAP_HINTS: u64 = 0x4000 | 0x2_0000;

/// Carries out system call `number`.
pub fn call<B: Backing, L: Lines>(
    number: u64,
    arguments: [u64; 6],
    world: &mut World<'_, B, L>,
) -> Outcome {
    let [first, second, third, fourth, ..] = arguments;
    if number == CURRENT.write {
        Outcome::Return(write(first, second, third, world))
    } else if number == CURRENT.mmap {
        Outcome::Return(mmap(second, third, fourth, world))
    } else if number == CURRENT.exit || number == CURRENT.exit_group {
        Outcome::Exit(first as i32)
    } else {
        Outcome::Return(Err(Errno::NoCall))
    }
}

fn write<B, L: Lines>(
    file: u64,
    address: u64,
    size: u64,
    world: &mut World<'_, B, L>,
) -> Result<u64, Errno> {
    if !matches!(file, STDOUT | STDERR) {
        return Err(Errno::BadFile);
    }
    if !world.process.holds(address, size) {
        return Err(Errno::Fault);
    }
    let written = size.min(MOST_WRITTEN);
    world.process.read(address, written, |byte| {
        world.output.print(byte, world.lines);
    });
    Ok(written)
}

/// The wish for an address is not heard: without MAP_FIXED, which is refused, it need not be.
fn mmap<B: Backing, L>(
    size: u64,
    protection: u64,
    flags: u64,
    world: &mut World<'_, B, L>,
) -> Result<u64, Errno> {
    if flags & MAP_ANONYMOUS == 0 {
        return Err(Errno::BadFile);
    }
    let rights = match protection {
        PROT_READ => Rights::READ,
        PROT_WRITE | 3 => Rights::RW,
        PROT_EXEC | 5 => Rights::RX,
        6 | 7 => return Err(Errno::Access),
        _ => return Err(Errno::Invalid),
    };
    if size == 0 || flags & !MAP_HINTS != MAP_PRIVATE | MAP_ANONYMOUS {
        return Err(Errno::Invalid);
    }
    let answer = world.process.add_anywhere(size, rights, world.backing);
    answer.map_err(|cause| match cause {
        NoMemory::BadRange => Errno::Invalid,
        NoMemory::Full | NoMemory::Kernel(_) => Errno::NoMemory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{Mappings, process};

    /// A program with a text at 0x40_0000, and a file of calls.
    struct Run {
        process: Process,
        mappings: Mappings,
        output: Output,
        lines: Vec<String>,
    }

    impl Run {
        fn new() -> Run {
            let (mut process, mut mappings) = (process(16), Mappings(8));
            let text = (0, &b"one\ntwo\n"[..]);
            process.add(0x40_0000, 8192, Rights::RW, text, &mut mappings).unwrap();
            Run { process, mappings, output: Output::new(), lines: Vec::new() }
        }

        fn call(&mut self, number: u64, arguments: [u64; 6]) -> Outcome {
            let mut world = World {
                process: &mut self.process,
                backing: &mut self.mappings,
                output: &mut self.output,
                lines: &mut self.lines,
            };
            call(number, arguments, &mut world)
        }

        fn result(&mut self, number: u64, arguments: [u64; 6]) -> i64 {
            self.call(number, arguments).result().unwrap() as i64
        }
    }

    #[test]
    fn what_is_written_is_the_programs() {
        let mut run = Run::new();
        let mut write =
            |file, address, size| run.result(CURRENT.write, [file, address, size, 0, 0, 0]);
        assert_eq!(write(1, 0x40_0000, 5), 5);
        assert_eq!(write(2, 0x40_0005, 3), 3);
        assert_eq!(write(1, 0x40_0000, 0), 0);
        assert_eq!(write(1, 0x40_1000, 0x1001), -14);
        assert_eq!(write(1, 0x40_0000, 0x2000), MOST_WRITTEN as i64);
        for (address, size) in [
            (0, 1),
            (0x40_2000, 1),
            (u64::MAX, 1),
            (u64::MAX, u64::MAX),
            (0x40_0000, 1 << 63),
            (0x40_0000, u64::MAX),
            (abi::USER_END, 1 << 40),
        ] {
            assert_eq!(write(1, address, size), -14);
        }
        for file in [0, 3, u64::MAX, 1 << 32 | 1] {
            assert_eq!(write(file, 0x40_0000, 1), -9);
        }
        assert_eq!(run.lines[..2], ["one", "two"]);
    }

    #[test]
    fn memory_is_given_while_there_is_some() {
        let mut run = Run::new();
        let mut mmap =
            |size, protection, flags| run.result(CURRENT.mmap, [1, size, protection, flags, 9, 9]);
        let private = MAP_PRIVATE | MAP_ANONYMOUS;
        let address = mmap(1, 3, private) as u64;
        assert!(crate::process::MMAP.contains(&address));
        for (size, protection, flags, error) in [
            (0, 3, private, 22),
            (1, 0, private, 22),
            (1, 8, private, 22),
            (1, 6, private, 13),
            (1, 7, private, 13),
            (1, 3, MAP_PRIVATE, 9),
            (1, 3, MAP_ANONYMOUS, 22),
            (1, 3, private | 0x10, 22),
            (1, 3, private | 1 << 63, 22),
            (1 << 62, 3, private, 12),
            (u64::MAX, 3, private, 12),
            (u64::MAX - 4095, 3, private, 12),
            (14 * 4096, 3, private, 12),
        ] {
            assert_eq!(mmap(size, protection, flags), -error, "{size:#x} {protection} {flags:#x}");
        }
        for _ in 0..6 {
            assert!(mmap(1, 1, private | MAP_HINTS) > 0);
        }
        // The kernel gives no more.
        assert_eq!(mmap(1, 3, private), -12);
        let lines = |run: &mut Run, address| run.result(CURRENT.write, [1, address, 1, 0, 0, 0]);
        assert_eq!(lines(&mut run, address), 1);
        assert_eq!(lines(&mut run, address + 4096), -14);
    }

    #[test]
    fn whatever_is_asked_has_an_answer() {
        let mut run = Run::new();
        let edges = [
            0,
            1,
            2,
            3,
            0x22,
            0xfff,
            0x1000,
            0x40_0000,
            0x40_1fff,
            crate::process::MMAP.start,
            abi::USER_END,
            1 << 63,
            u64::MAX - 0xfff,
            u64::MAX,
        ];
        let pick = |i: usize| edges[i % edges.len()];
        for i in 0..edges.len().pow(4) {
            let rest = [i / 14, i / 196, i / 2744].map(pick);
            for number in [CURRENT.write, CURRENT.mmap] {
                let arguments = [pick(i), rest[0], rest[1], rest[2], u64::MAX, 0];
                let result = run.result(number, arguments);
                assert!(result >= -38, "{number} {arguments:x?}: {result}");
            }
        }
    }

    #[test]
    fn ends_and_what_is_unknown() {
        let mut run = Run::new();
        for number in [CURRENT.exit, CURRENT.exit_group] {
            let arguments = [0x1_0000_002a, 0, 0, 0, 0, 0];
            assert_eq!(run.call(number, arguments), Outcome::Exit(42));
        }
        for number in (0..1024).chain([u64::MAX, 1 << 32 | CURRENT.write]) {
            let known = [CURRENT.write, CURRENT.mmap, CURRENT.exit, CURRENT.exit_group];
            if !known.contains(&number) {
                assert_eq!(run.result(number, [1; 6]), -38);
            }
        }
    }
}
