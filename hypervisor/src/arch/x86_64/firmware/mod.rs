//! What loaders and firmware leave in memory, read where it lies.
#![forbid(unsafe_code)]

pub mod acpi;
pub mod madt;
pub mod multiboot2;
pub mod pvh;

use crate::addr::HostPhys;
use crate::boot::loader::LoaderError;
use crate::boot::memory_map::{MemoryMap, RegionKind};
use crate::boot::params::MAX_COMMAND_LINE;

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

/// A structure in memory: little-endian fields, 0 where it has ended.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

impl Fields<'_> {
    /// The 32-bit field at offset `at`.
    #[inline(never)]
    pub fn u32(self, at: usize) -> u32 {
        self.0.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
    }

    /// The 64-bit field at offset `at`.
    #[inline(never)]
    pub fn u64(self, at: usize) -> u64 {
        self.0.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
    }
}

/// Bytes of a memory map's entry that all loaders have: address, size, and type as ACPI's.
pub const MAP_ENTRY: usize = 24;

/// Records the entries of a memory map, each of `size` bytes.
pub fn read_map(entries: &[u8], size: usize, map: &mut MemoryMap) -> Result<(), LoaderError> {
    for entry in entries.chunks_exact(size).map(Fields) {
        map.add(entry.u64(0), entry.u64(8), kind(entry.u32(16)))?;
    }
    Ok(())
}

/// The kind of an entry of type `code` (ACPI 6.4, table 15.3; PVH and multiboot2 use the same codes). Types that this
/// kernel does not know are reserved.
fn kind(code: u32) -> RegionKind {
    match code {
        1 => RegionKind::Usable,
        3 => RegionKind::Firmware,
        4 => RegionKind::FirmwareNvs,
        5 => RegionKind::Defective,
        _ => RegionKind::Reserved,
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::boot::BootParams;

    /// Where memory starts.
    pub const BASE: u64 = 0x1000;

    /// All of it.
    pub struct Ram(pub Vec<u8>);

    /// What a loader's information at [`BASE`] says, by the reader of its protocol.
    pub fn parameters(
        ram: &Ram,
        read: impl FnOnce(&Ram, HostPhys, &mut BootParams) -> Result<(), LoaderError>,
    ) -> Result<BootParams, LoaderError> {
        let mut params = BootParams::EMPTY;
        read(ram, HostPhys(BASE), &mut params).map(|()| params)
    }

    impl LoaderMemory for Ram {
        fn bytes(&self, at: HostPhys, size: u64) -> Option<&[u8]> {
            let start = usize::try_from(at.0.checked_sub(BASE)?).ok()?;
            self.0.get(start..start.checked_add(usize::try_from(size).ok()?)?)
        }
    }
}
