//! Flattens an ELF program into whole pages.

use abi::bundle::Segment;
use abi::{PAGE_SIZE, Rights};
use elf::ElfBytes;
use elf::abi::{EM_AARCH64, EM_X86_64, ET_EXEC, PF_W, PF_X, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::AnyEndian;
use elf::segment::SegmentTable;

/// Largest program, zero-initialised data included: a guard against damaged files.
pub(super) const MAX_SIZE: u64 = 256 << 20;

/// A program as whole pages. The segments' offsets are set when it is placed in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlatProgram {
    /// Entry point.
    pub entry: u64,
    /// Segments in ascending order of address, with their contents.
    pub segments: Vec<(Segment, Vec<u8>)>,
}

/// Why an ELF file is no program for Bulkhead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProgramError {
    /// Not an ELF file, or a damaged one.
    NotElf(String),
    /// Not a statically linked 64-bit executable for a known architecture.
    NotStatic(&'static str),
    /// Two segments with different rights share a page, or overlap.
    SharedPage(u64),
    /// A segment's address, size or rights cannot be.
    BadSegment(u64),
    /// The entry point is not in executable memory.
    BadEntry(u64),
}

impl core::fmt::Display for ProgramError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ProgramError::NotElf(e) => write!(f, "no ELF file: {e}"),
            ProgramError::NotStatic(why) => write!(f, "no static 64-bit executable: {why}"),
            ProgramError::SharedPage(a) => {
                write!(
                    f,
                    "two segments share the page at {a:#x}; align segments to pages in the linker script"
                )
            }
            ProgramError::BadSegment(a) => {
                write!(
                    f,
                    "the segment at {a:#x} is writable and executable, too large or out of range"
                )
            }
            ProgramError::BadEntry(a) => {
                write!(f, "the entry point {a:#x} is not in executable memory")
            }
        }
    }
}

impl core::error::Error for ProgramError {}

impl FlatProgram {
    /// Flattens the ELF file `bytes`.
    pub fn from_elf(bytes: &[u8]) -> Result<FlatProgram, ProgramError> {
        let (file, headers) = executable(bytes)?;
        let mut segments: Vec<(Segment, Vec<u8>)> = Vec::new();
        for header in headers.iter() {
            match header.p_type {
                PT_INTERP => return Err(ProgramError::NotStatic("it needs a dynamic linker")),
                PT_TLS => return Err(ProgramError::NotStatic("it has thread-local storage")),
                PT_LOAD if header.p_memsz != 0 => {}
                _ => continue,
            }
            let bad = ProgramError::BadSegment(header.p_vaddr);
            let data =
                file.segment_data(&header).map_err(|e| ProgramError::NotElf(e.to_string()))?;
            if header.p_memsz > MAX_SIZE || header.p_filesz > header.p_memsz {
                return Err(bad);
            }
            let lead = header.p_vaddr % PAGE_SIZE as u64;
            let size = (lead + header.p_memsz).next_multiple_of(PAGE_SIZE as u64);
            let mut contents = vec![0; size as usize];
            contents[lead as usize..][..data.len()].copy_from_slice(data);
            let segment = Segment {
                address: header.p_vaddr - lead,
                offset: 0,
                size,
                rights: rights(header.p_flags),
            };
            if !segment.is_valid() {
                return Err(bad);
            }
            segments.push((segment, contents));
        }
        segments.sort_by_key(|(s, _)| s.address);
        if let Some(pair) =
            segments.windows(2).find(|p| p[0].0.address + p[0].0.size > p[1].0.address)
        {
            return Err(ProgramError::SharedPage(pair[1].0.address));
        }
        let entry = file.ehdr.e_entry;
        let exec = u32::from(Rights::EXEC.bits());
        let holds_entry =
            |s: &Segment| s.rights & exec != 0 && (s.address..s.address + s.size).contains(&entry);
        if !segments.iter().any(|(s, _)| holds_entry(s)) {
            return Err(ProgramError::BadEntry(entry));
        }
        Ok(FlatProgram { entry, segments })
    }

    /// What memory holds from the first segment on, with zeros between segments.
    pub fn memory(&self) -> Vec<u8> {
        let mut memory = Vec::new();
        let start = self.segments.first().map_or(0, |(s, _)| s.address);
        for (segment, contents) in &self.segments {
            memory.resize((segment.address - start) as usize, 0);
            memory.extend_from_slice(contents);
        }
        memory
    }

    /// CRC-32 over the contents of all segments, in order.
    pub fn checksum(&self) -> u32 {
        let all: Vec<u8> =
            self.segments.iter().flat_map(|(_, contents)| contents.iter().copied()).collect();
        crate::bundle::checksum(&all)
    }
}

/// Opens a statically linked 64-bit executable for a known architecture; its program headers are with it.
pub(super) fn executable(
    bytes: &[u8],
) -> Result<(ElfBytes<'_, AnyEndian>, SegmentTable<'_, AnyEndian>), ProgramError> {
    let file = ElfBytes::<AnyEndian>::minimal_parse(bytes)
        .map_err(|e| ProgramError::NotElf(e.to_string()))?;
    if file.ehdr.class != elf::file::Class::ELF64 {
        return Err(ProgramError::NotStatic("it is a 32-bit file"));
    }
    if !matches!(file.ehdr.e_machine, EM_X86_64 | EM_AARCH64) {
        return Err(ProgramError::NotStatic("it is for another architecture"));
    }
    if file.ehdr.e_type != ET_EXEC {
        return Err(ProgramError::NotStatic("it is position-independent or an object file"));
    }
    let headers = file.segments().ok_or(ProgramError::NotStatic("it has no segments"))?;
    Ok((file, headers))
}

/// The rights for ELF segment flags. Whatever can be written or executed can be read.
fn rights(flags: u32) -> u32 {
    let mut rights = Rights::READ;
    rights.set(Rights::WRITE, flags & PF_W != 0);
    rights.set(Rights::EXEC, flags & PF_X != 0);
    rights.bits().into()
}
