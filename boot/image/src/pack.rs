//! Writes bundles, and boot images of the hypervisor (feature `pack`).

mod arm64;
mod program;

pub use arm64::{ImageError, arm64_image};
pub use program::{FlatProgram, ProgramError};

use abi::PAGE_SIZE;
use abi::bundle::{Extent, HEAD_SIZE, Head, MAX_SEGMENTS, Segment};

use crate::bundle::{Bundle, Directory, Error, File, FileKind, Program, checksum};
use crate::system::System;

/// A bundle that is being put together.
#[derive(Debug)]
pub struct Packer {
    bytes: Vec<u8>,
    entry: u64,
    root: Vec<Segment>,
    root_checksum: u32,
    programs: Vec<Program>,
    files: Vec<File>,
}

impl Packer {
    /// Starts a bundle with its root task.
    pub fn new(root: &FlatProgram) -> Result<Packer, PackError> {
        if root.segments.len() > MAX_SEGMENTS {
            return Err(PackError::RootSegments(root.segments.len()));
        }
        let mut packer = Packer {
            bytes: vec![0; HEAD_SIZE],
            entry: root.entry,
            root: Vec::new(),
            root_checksum: root.checksum(),
            programs: Vec::new(),
            files: Vec::new(),
        };
        packer.root = packer.place_segments(root);
        Ok(packer)
    }

    /// Adds a program.
    pub fn program(&mut self, name: &str, program: &FlatProgram) {
        let segments = self.place_segments(program);
        self.programs.push(Program {
            name: name.into(),
            entry: program.entry,
            checksum: program.checksum(),
            segments,
        });
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, kind: FileKind, contents: &[u8]) {
        let offset = self.place(contents);
        self.files.push(File {
            name: name.into(),
            kind,
            offset,
            size: contents.len() as u64,
            checksum: checksum(contents),
        });
    }

    /// Adds the directory with the system's description and the head. What it returns passes
    /// [`Bundle::open`].
    pub fn finish(mut self, system: System) -> Result<Vec<u8>, PackError> {
        let directory = Directory {
            programs: std::mem::take(&mut self.programs),
            files: std::mem::take(&mut self.files),
            system,
        };
        let raw = postcard::to_allocvec(&directory).map_err(PackError::Encode)?;
        let offset = self.place(&raw);
        self.pad();
        let mut head = Head {
            total_size: self.bytes.len() as u64,
            directory: Extent { offset, size: raw.len() as u64, checksum: checksum(&raw) },
            entry: self.entry,
            segment_count: self.root.len() as u32,
            root_checksum: self.root_checksum,
            segments: [Segment::default(); MAX_SEGMENTS],
        };
        head.segments[..self.root.len()].copy_from_slice(&self.root);
        self.bytes[..HEAD_SIZE].copy_from_slice(&head.encode());
        Bundle::open(&self.bytes).map_err(PackError::Invalid)?;
        Ok(self.bytes)
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(PAGE_SIZE), 0);
    }

    fn place(&mut self, contents: &[u8]) -> u64 {
        self.pad();
        let offset = self.bytes.len() as u64;
        self.bytes.extend_from_slice(contents);
        offset
    }

    fn place_segments(&mut self, program: &FlatProgram) -> Vec<Segment> {
        let place = |(segment, contents): &(Segment, Vec<u8>)| Segment {
            offset: self.place(contents),
            ..*segment
        };
        program.segments.iter().map(place).collect()
    }
}

/// Why a bundle cannot be made.
#[derive(Debug)]
pub enum PackError {
    /// The root task has more segments than the head can hold.
    RootSegments(usize),
    /// The directory cannot be encoded.
    Encode(postcard::Error),
    /// The parts do not make a valid bundle.
    Invalid(Error),
}

impl core::fmt::Display for PackError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            PackError::RootSegments(n) => {
                write!(f, "the root task has {n} segments; at most {MAX_SEGMENTS} are possible")
            }
            PackError::Encode(e) => write!(f, "the bundle's directory cannot be encoded: {e}"),
            PackError::Invalid(e) => e.fmt(f),
        }
    }
}

impl core::error::Error for PackError {}
