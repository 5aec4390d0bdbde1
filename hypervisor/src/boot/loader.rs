//! What loaders and firmware leave in memory, read where it lies.
#![forbid(unsafe_code)]

use super::memory_map::{MAX_REGIONS, MemoryMap, PhysRange, RegionKind};
use super::params::MAX_COMMAND_LINE;
use crate::addr::HostPhys;
use abi::text::{Dec, Text};

/// The loader's memory, which lies below 4 GiB.
pub trait LoaderMemory {
    /// The `size` bytes at `at`; `None` if they are out of reach.
    fn bytes(&self, at: HostPhys, size: u64) -> Option<&[u8]>;

    /// A text of unknown length at `at`, with what lies behind it.
    fn text(&self, at: HostPhys) -> Option<&[u8]> {
        // Only near the end of memory does the shorter length matter.
        let longest = MAX_COMMAND_LINE as u64 + 1;
        (1..=longest).rev().find_map(|size| self.bytes(at, size))
    }
}

/// Why what loader and firmware say is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoaderError {
    /// `what` is at an address that the boot code cannot reach.
    OutOfReach(&'static str, HostPhys),
    /// The structure does not start with its magic number, or is damaged.
    Damaged(&'static str),
    /// There is no memory map.
    NoMemoryMap,
    /// The memory map would have more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// What is to be claimed is not usable memory as a whole.
    NotUsable(PhysRange),
}

impl core::fmt::Display for LoaderError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LoaderError::OutOfReach(what, at) => {
                write!(f, "the loader put {} at {at:?}, out of reach", Text(what))
            }
            LoaderError::Damaged(what) => write!(f, "the loader's {} is damaged", Text(what)),
            LoaderError::NoMemoryMap => f.write_str("the loader passed no memory map"),
            LoaderError::TooManyRegions => {
                let most = Dec(MAX_REGIONS as u64);
                write!(f, "firmware describes more than {most} memory regions")
            }
            LoaderError::NotUsable(range) => write!(f, "{range:?} is not usable memory"),
        }
    }
}

/// A structure in memory: little-endian fields, 0 where it has ended.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The 32-bit field at offset `at`.
    #[inline(never)]
    pub fn u32(self, at: usize) -> u32 {
        self.0
            .get(at..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// The 64-bit field at offset `at`.
    #[inline(never)]
    pub fn u64(self, at: usize) -> u64 {
        self.0
            .get(at..)
            .and_then(|b| b.first_chunk())
            .map_or(0, |b| u64::from_le_bytes(*b))
    }
}

/// Bytes of a memory map's entry that all loaders have: address, size, and type as ACPI's.
pub const MAP_ENTRY: usize = 24;

/// Records the entries of a memory map, each of `size` bytes.
pub fn read_map(entries: &[u8], size: usize, map: &mut MemoryMap) -> Result<(), LoaderError> {
    for entry in entries.chunks_exact(size).map(Fields) {
        let kind = RegionKind::from_e820(entry.u32(16));
        map.add(entry.u64(0), entry.u64(8), kind)?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Where memory starts.
    pub const BASE: u64 = 0x1000;

    /// All of it.
    pub struct Ram(pub Vec<u8>);

    impl LoaderMemory for Ram {
        fn bytes(&self, at: HostPhys, size: u64) -> Option<&[u8]> {
            let start = usize::try_from(at.0.checked_sub(BASE)?).ok()?;
            self.0
                .get(start..start.checked_add(usize::try_from(size).ok()?)?)
        }
    }
}
