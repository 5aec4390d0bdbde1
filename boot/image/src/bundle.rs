//! Reads a bundle, and believes nothing of it before it is checked.

use abi::bundle::{BundleError, HEAD_SIZE, Head, Segment};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::system::{System, SystemError};

mod segments;

/// CRC-32 as in [`abi::bundle::checksum`], with the tables for long input.
const CRC: crc::Crc<u32, crc::Table<16>> =
    crc::Crc::<u32, crc::Table<16>>::new(&crc::CRC_32_ISO_HDLC);

/// CRC-32 (ISO-HDLC) of `bytes`; the same value as [`abi::bundle::checksum`], and several times faster.
pub fn checksum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// What the bundle holds besides the root task, and where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    /// The programs that the system's compartments run.
    pub programs: Vec<Program>,
    /// Files: guest kernels, initial RAM disks.
    pub files: Vec<File>,
    /// The system to build.
    pub system: System,
}

/// A program, ready to be mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its name, as [`crate::system::Compartment::program`] gives it.
    pub name: String,
    /// Entry point; lies in an executable segment.
    pub entry: u64,
    /// CRC-32 over its segments, in order.
    pub checksum: u32,
    /// Its segments, in ascending order of address, without overlap.
    #[serde(with = "segments")]
    pub segments: Vec<Segment>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Its name, as [`crate::system::Vm`] gives it.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// Offset in the bundle in bytes, page-aligned.
    pub offset: u64,
    /// Size in bytes, not zero. Up to the end of its last page zeros follow.
    pub size: u64,
    /// CRC-32 of its `size` bytes.
    pub checksum: u32,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A guest kernel.
    Kernel,
    /// An initial RAM disk.
    Initrd,
    /// A program of another system, for a program of this one that runs it.
    Program,
    /// Words for a program.
    Text,
}

/// Why a bundle, or a part of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The head is wrong.
    Head(BundleError),
    /// The directory's checksum is wrong.
    DirectoryChecksum,
    /// The directory cannot be decoded.
    DirectoryFormat,
    /// A program's or file's place breaks the rules of the format.
    BadExtent(String),
    /// Two parts of the bundle lie over each other.
    Overlap,
    /// Two programs, or two files, have this name.
    Duplicate(String),
    /// The system uses a program or file that is not there.
    Missing(String),
    /// The content of this program or file was changed after packing.
    BadChecksum(String),
    /// The system's description breaks a rule.
    System(SystemError),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Head(e) => e.fmt(f),
            Error::DirectoryChecksum => {
                f.write_str("the bundle's directory is damaged: wrong checksum")
            }
            Error::DirectoryFormat => f.write_str("the bundle's directory cannot be decoded"),
            Error::BadExtent(name) => write!(f, "the bundle's part `{name}` has an invalid place"),
            Error::Overlap => f.write_str("two parts of the bundle overlap"),
            Error::Duplicate(name) => write!(f, "the bundle holds `{name}` twice"),
            Error::Missing(name) => write!(f, "the bundle lacks `{name}`, which the system uses"),
            Error::BadChecksum(name) => {
                write!(f, "the bundle's part `{name}` is damaged: wrong checksum")
            }
            Error::System(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

/// A bundle whose head and directory are checked: every offset, size, address and name in it can be
/// used. Contents are checked when they are asked for.
#[derive(Clone, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    head: Head,
    directory: Directory,
}

impl<'a> Bundle<'a> {
    /// Checks head and directory of the bundle that `bytes` starts with.
    pub fn open(bytes: &'a [u8]) -> Result<Bundle<'a>, Error> {
        let head = Head::decode(bytes, bytes.len() as u64).map_err(Error::Head)?;
        // In range: `decode` compared the total size with `bytes.len()`.
        let bytes = &bytes[..head.total_size as usize];
        let raw = slice(bytes, head.directory.offset, head.directory.size)
            .ok_or(Error::Head(BundleError::Truncated))?;
        if checksum(raw) != head.directory.checksum {
            return Err(Error::DirectoryChecksum);
        }
        let (directory, rest) =
            postcard::take_from_bytes::<Directory>(raw).map_err(|_| Error::DirectoryFormat)?;
        if !rest.is_empty() {
            return Err(Error::DirectoryFormat);
        }
        check_places(&head, &directory)?;
        check_names(&directory)?;
        directory.system.check().map_err(Error::System)?;
        Ok(Bundle { bytes, head, directory })
    }

    /// The head.
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The system to build.
    pub fn system(&self) -> &System {
        &self.directory.system
    }

    /// All programs.
    pub fn programs(&self) -> &[Program] {
        &self.directory.programs
    }

    /// All files.
    pub fn files(&self) -> &[File] {
        &self.directory.files
    }

    /// The program with this name, its contents checked.
    pub fn program(&self, name: &str) -> Result<&Program, Error> {
        let program = self.directory.programs.iter().find(|p| p.name == name);
        let program = program.ok_or_else(|| Error::Missing(name.into()))?;
        let mut digest = CRC.digest();
        for segment in &program.segments {
            digest.update(self.segment(segment)?);
        }
        if digest.finalize() != program.checksum {
            return Err(Error::BadChecksum(name.into()));
        }
        Ok(program)
    }

    /// The contents of a segment of this bundle.
    pub fn segment(&self, segment: &Segment) -> Result<&'a [u8], Error> {
        slice(self.bytes, segment.offset, segment.size)
            .ok_or_else(|| Error::BadExtent("segment".into()))
    }

    /// The file with this name and its contents, checked. Takes time in proportion to its size.
    pub fn file(&self, name: &str) -> Result<(&File, &'a [u8]), Error> {
        let file = self.directory.files.iter().find(|f| f.name == name);
        let file = file.ok_or_else(|| Error::Missing(name.into()))?;
        let contents = slice(self.bytes, file.offset, file.size)
            .ok_or_else(|| Error::BadExtent(name.into()))?;
        if checksum(contents) != file.checksum {
            return Err(Error::BadChecksum(name.into()));
        }
        Ok((file, contents))
    }

    /// Checks the contents of the root task, all programs and all files.
    pub fn check_contents(&self) -> Result<(), Error> {
        let mut digest = CRC.digest();
        for segment in self.head.segments() {
            digest.update(self.segment(segment)?);
        }
        if digest.finalize() != self.head.root_checksum {
            return Err(Error::BadChecksum("root task".into()));
        }
        for program in &self.directory.programs {
            self.program(&program.name)?;
        }
        for file in &self.directory.files {
            self.file(&file.name)?;
        }
        Ok(())
    }
}

fn slice(bytes: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    let offset = usize::try_from(offset).ok()?;
    bytes.get(offset..offset.checked_add(usize::try_from(size).ok()?)?)
}

/// Every part inside the bundle, page-aligned, none over another.
fn check_places(head: &Head, directory: &Directory) -> Result<(), Error> {
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let mut take = |offset: u64, size: u64, name: &str| {
        let end = offset.checked_add(size).filter(|end| size != 0 && *end <= head.total_size);
        taken.push((offset, end.ok_or_else(|| Error::BadExtent(name.into()))?));
        Ok(())
    };
    take(0, HEAD_SIZE as u64, "head")?;
    take(head.directory.offset, head.directory.size, "directory")?;
    for segment in head.segments() {
        take(segment.offset, segment.size, "root task")?;
    }
    check_segments(head.segments(), head.entry)
        .ok_or_else(|| Error::BadExtent("root task".into()))?;
    for program in &directory.programs {
        check_segments(&program.segments, program.entry)
            .ok_or_else(|| Error::BadExtent(program.name.clone()))?;
        for segment in &program.segments {
            take(segment.offset, segment.size, &program.name)?;
        }
    }
    for file in &directory.files {
        if !file.offset.is_multiple_of(abi::PAGE_SIZE as u64) {
            return Err(Error::BadExtent(file.name.clone()));
        }
        take(file.offset, file.size, &file.name)?;
    }
    taken.sort_unstable();
    if taken.windows(2).any(|pair| pair[0].1 > pair[1].0) {
        return Err(Error::Overlap);
    }
    Ok(())
}

/// Valid segments in ascending order, and the entry point in an executable one.
fn check_segments(segments: &[Segment], entry: u64) -> Option<()> {
    let exec = u32::from(abi::Rights::EXEC.bits());
    let valid = segments.iter().all(Segment::is_valid)
        // `is_valid` excludes overflow.
        && segments.windows(2).all(|pair| pair[0].address + pair[0].size <= pair[1].address)
        && segments.iter().any(|s| s.rights & exec != 0 && (s.address..s.address + s.size).contains(&entry));
    valid.then_some(())
}

/// Unique names, and everything there that the system uses.
fn check_names(directory: &Directory) -> Result<(), Error> {
    let programs: Vec<&str> = directory.programs.iter().map(|p| p.name.as_str()).collect();
    let files: Vec<&str> = directory.files.iter().map(|f| f.name.as_str()).collect();
    for names in [&programs, &files] {
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                return Err(Error::Duplicate((*name).into()));
            }
        }
    }
    let system = &directory.system;
    if let Some(missing) = system.programs().find(|p| !programs.contains(&p.as_str())) {
        return Err(Error::Missing(missing.as_str().into()));
    }
    if let Some(missing) = system.files().find(|f| !files.contains(f)) {
        return Err(Error::Missing(missing.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
