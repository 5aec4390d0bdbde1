//! Loads a static ELF executable, and makes the stack that it starts with.

use crate::arch::CURRENT;
use crate::process::{Backing, NoMemory, Process};
use abi::{PAGE_SIZE, Rights};
use elf::ElfBytes;
use elf::abi::{ET_EXEC, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use elf::file::Class;

/// End of the program's stack.
pub const STACK_TOP: u64 = 0x30_0000_0000;
/// Bytes of it.
pub const STACK: u64 = 16 * PAGE_SIZE as u64;

/// Why a file is not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// No ELF file, or a damaged one.
    NotElf,
    /// Not a static executable for this machine.
    NotStatic,
    /// A segment is writable and executable, or its sizes cannot be.
    BadSegment,
    /// The entry point is in no executable segment.
    BadEntry,
    /// The arguments are too long.
    Arguments,
    /// The program gets no memory: two segments share a page, or there is too little.
    Memory(NoMemory),
}

impl From<NoMemory> for LoadError {
    fn from(cause: NoMemory) -> LoadError {
        LoadError::Memory(cause)
    }
}

/// Where a program starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
}

/// Puts the program in `file` into `process`, to be started with `arguments`, of which the first is its name.
pub fn load(
    file: &[u8],
    arguments: &[&str],
    process: &mut Process,
    backing: &mut impl Backing,
) -> Result<Start, LoadError> {
    let elf = ElfBytes::<LittleEndian>::minimal_parse(file).map_err(|_| LoadError::NotElf)?;
    let header = &elf.ehdr;
    if header.class != Class::ELF64
        || header.e_type != ET_EXEC
        || header.e_machine != CURRENT.machine
    {
        return Err(LoadError::NotStatic);
    }
    let ip = header.e_entry;
    let mut has_entry = false;
    for segment in elf.segments().ok_or(LoadError::NotStatic)?.iter() {
        match segment.p_type {
            PT_INTERP | PT_TLS => return Err(LoadError::NotStatic),
            PT_LOAD if segment.p_memsz != 0 => {}
            _ => continue,
        }
        let contents = elf.segment_data(&segment).map_err(|_| LoadError::BadSegment)?;
        let mut rights = Rights::READ;
        rights.set(Rights::WRITE, segment.p_flags & PF_W != 0);
        rights.set(Rights::EXEC, segment.p_flags & PF_X != 0);
        if rights.contains(Rights::WRITE | Rights::EXEC) || segment.p_filesz > segment.p_memsz {
            return Err(LoadError::BadSegment);
        }
        let lead = segment.p_vaddr % PAGE_SIZE as u64;
        let size = segment.p_memsz.checked_add(lead).ok_or(LoadError::BadSegment)?;
        let address = segment.p_vaddr - lead;
        process.add(address, size, rights, (lead as usize, contents), backing)?;
        has_entry |= rights.contains(Rights::EXEC) && ip.wrapping_sub(address) < size;
    }
    if !has_entry {
        return Err(LoadError::BadEntry);
    }
    let sp = stack(arguments, process, backing)?;
    Ok(Start { ip, sp })
}

/// Bytes that the program starts with on its stack.
const FILLED: usize = 512;

/// Gives the program its stack, as Linux does: the number of arguments and their addresses, no environment, of the auxiliary
/// vector the size of pages, and the arguments themselves.
fn stack(
    arguments: &[&str],
    process: &mut Process,
    backing: &mut impl Backing,
) -> Result<u64, LoadError> {
    // Behind the arguments' addresses: the end of these, of the environment and of the vector.
    const AT_PAGESZ: u64 = 6;
    const REST: [u64; 6] = [0, 0, AT_PAGESZ, PAGE_SIZE as u64, 0, 0];
    let base = STACK_TOP - FILLED as u64;
    // Each argument ends with a zero.
    let words = 1 + arguments.len() + REST.len();
    let text: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if words * 8 + text > FILLED {
        return Err(LoadError::Arguments);
    }
    let mut bytes = [0; FILLED];
    let (head, tail) = bytes.split_at_mut(words * 8);
    let mut at = 0;
    let addresses = arguments.iter().map(|argument| {
        let address = base + (words * 8 + at) as u64;
        tail[at..][..argument.len()].copy_from_slice(argument.as_bytes());
        at += argument.len() + 1;
        address
    });
    let values = core::iter::once(arguments.len() as u64).chain(addresses).chain(REST);
    for (chunk, value) in head.chunks_exact_mut(8).zip(values) {
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    let lead = (STACK as usize) - FILLED;
    let contents = (lead, &bytes[..]);
    process.add(STACK_TOP - STACK, STACK, Rights::RW, contents, backing)?;
    Ok(base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::tests::{Mappings, process};

    /// A segment: type, flags, address, contents, size in memory.
    type Segment<'a> = (u32, u32, u64, &'a [u8], u64);

    /// An executable for this machine.
    fn file(entry: u64, segments: &[Segment<'_>]) -> Vec<u8> {
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0];
        out.resize(16, 0);
        out.extend(ET_EXEC.to_le_bytes());
        out.extend(CURRENT.machine.to_le_bytes());
        out.extend(1u32.to_le_bytes());
        for word in [entry, 64, 0] {
            out.extend(word.to_le_bytes());
        }
        out.extend(0u32.to_le_bytes());
        for half in [64, 56, segments.len() as u16, 64, 0, 0] {
            out.extend(half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (kind, flags, address, contents, size) in segments {
            out.extend(kind.to_le_bytes());
            out.extend(flags.to_le_bytes());
            for word in [offset, *address, *address, contents.len() as u64, *size, 4096] {
                out.extend(word.to_le_bytes());
            }
            offset += contents.len() as u64;
        }
        for (_, _, _, contents, _) in segments {
            out.extend(*contents);
        }
        out
    }

    const CODE: Segment<'_> = (PT_LOAD, 5, 0x40_0010, b"code", 4);

    fn loaded(file: &[u8]) -> Result<(Start, Process), LoadError> {
        let mut process = process(32);
        let start = load(file, &["one", "and two"], &mut process, &mut Mappings(99))?;
        Ok((start, process))
    }

    fn text(process: &Process, address: u64, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(process.read(address, size, |byte| bytes.push(byte)));
        bytes
    }

    #[test]
    fn segments_and_stack_are_where_they_should_be() {
        let data = (PT_LOAD, 6, 0x40_1ffe, &b"data"[..], 5000);
        let (start, process) = loaded(&file(0x40_0012, &[CODE, data])).unwrap();
        assert_eq!(start.ip, 0x40_0012);
        assert_eq!(text(&process, 0x40_000f, 6), b"\0code\0");
        assert_eq!(text(&process, 0x40_1ffd, 6), b"\0data\0");
        assert!(process.holds(0x40_3fff, 1) && !process.holds(0x40_4000, 1));
        assert_eq!(start.sp % 16, 0);
        let word = |index: u64| {
            let bytes = text(&process, start.sp + index * 8, 8);
            u64::from_le_bytes(bytes.try_into().unwrap())
        };
        let words: [u64; 9] = core::array::from_fn(|i| word(i as u64));
        let (one, two) = (words[1], words[2]);
        assert_eq!(words, [2, one, two, 0, 0, 6, 4096, 0, 0]);
        assert_eq!(text(&process, one, 4), b"one\0");
        assert_eq!(text(&process, two, 8), b"and two\0");
        assert!(!process.holds(STACK_TOP, 1));
    }

    #[test]
    fn arguments_that_do_not_fit_are_refused() {
        // Eight words stand before the text.
        let long = "x".repeat(FILLED - 8 * 8 - 1);
        let file = file(0x40_0010, &[CODE]);
        let load = |arguments: &[&str]| {
            load(&file, arguments, &mut process(32), &mut Mappings(99)).map(|start| start.sp)
        };
        assert_eq!(load(&[&long]), Ok(STACK_TOP - FILLED as u64));
        for arguments in [&[&long, ""][..], &[&long, &long], &[""; 60], &[""; 600]] {
            assert_eq!(load(arguments), Err(LoadError::Arguments));
        }
        assert!(load(&[]).is_ok());
    }

    #[test]
    fn damaged_files_harm_nobody() {
        let data = (PT_LOAD, 6, 0x50_0000, &b"data"[..], 5000);
        let good = file(0x40_0010, &[CODE, data]);
        let headers = 64 + 2 * 56;
        for at in 0..headers {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                if let Ok((start, process)) = loaded(&bytes) {
                    assert!(process.holds(start.ip, 1), "byte {at}");
                }
                // Its neighbours too: numbers near the largest.
                bytes[at / 8 * 8..at / 8 * 8 + 8].fill(value);
                if let Ok((start, process)) = loaded(&bytes) {
                    assert!(process.holds(start.ip, 1), "bytes around {at}");
                }
            }
        }
    }

    #[test]
    fn files_that_are_no_such_programs_are_refused() {
        let good = file(0x40_0010, &[CODE]);
        for (at, value) in [(4, 1), (16, 3), (18, 3)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(loaded(&bytes).is_err(), "byte {at}");
        }
        for end in 0..good.len() {
            assert!(loaded(&good[..end]).is_err(), "{end} bytes");
        }
        use LoadError::*;
        for (segment, error) in [
            ((PT_LOAD, 7, 0x50_0000, &b"x"[..], 1), BadSegment),
            ((PT_LOAD, 4, 0x50_0000, &b"xy"[..], 1), BadSegment),
            ((PT_LOAD, 4, u64::MAX, &b"x"[..], u64::MAX), BadSegment),
            ((PT_LOAD, 4, 0x40_0800, &b"x"[..], 1), Memory(NoMemory::BadRange)),
            ((PT_LOAD, 4, abi::USER_END, &b"x"[..], 1), Memory(NoMemory::BadRange)),
            ((PT_LOAD, 4, 0x50_0000, &b"x"[..], 1 << 40), Memory(NoMemory::Full)),
            ((PT_INTERP, 4, 0x50_0000, &b"x"[..], 1), NotStatic),
            ((PT_TLS, 4, 0x50_0000, &b"x"[..], 1), NotStatic),
        ] {
            let answer = loaded(&file(0x40_0010, &[CODE, segment]));
            assert_eq!(answer.err(), Some(error));
        }
        for entry in [0, 0x40_1000, 0x50_0000, u64::MAX] {
            let data = (PT_LOAD, 6, 0x50_0000, &b"x"[..], 1);
            let answer = loaded(&file(entry, &[CODE, data]));
            assert_eq!(answer.err(), Some(BadEntry));
        }
    }
}
