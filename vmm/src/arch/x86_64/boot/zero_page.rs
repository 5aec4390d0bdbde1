//! The zero page (`boot_params`): what a boot loader tells Linux.
use super::header::{KernelHeader, OFFSET};
use crate::memory::GuestPhys;
use alloc::vec::Vec;
use core::ops::Range;

/// Bytes in the page.
pub const SIZE: usize = 4096;

/// Most entries of the memory map.
const MAP_MAX: usize = 128;
const MAP_COUNT: usize = 0x1e8;
const MAP: usize = 0x2d0;

/// What a range of guest-physical memory is (E820 types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// RAM.
    Ram = 1,
    /// Not to be used.
    Reserved = 2,
    /// RAM with ACPI tables.
    Acpi = 3,
}

/// A range of the memory map.
pub type MapEntry = (Range<u64>, MapKind);

/// The memory map of `ram` (ascending ranges), with the tables at `tables` and without the range in which PCs
/// have video memory and option ROMs.
pub fn memory_map(ram: impl Iterator<Item = Range<u64>>, tables: Range<u64>) -> Vec<MapEntry> {
    const ROMS: Range<u64> = 0xa_0000..0x10_0000;
    let mut map = Vec::new();
    for range in ram {
        for part in [range.start..range.end.min(ROMS.start), range.start.max(ROMS.end)..range.end] {
            if part.start < part.end {
                map.push((part, MapKind::Ram));
            }
        }
    }
    map.push((tables, MapKind::Acpi));
    map.sort_by_key(|(range, _)| range.start);
    map
}

/// Where things were put.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The kernel's code.
    pub kernel: GuestPhys,
    /// The RAM disk.
    pub initrd: Range<u64>,
    /// The command line.
    pub cmdline: GuestPhys,
    /// The ACPI root pointer.
    pub rsdp: GuestPhys,
}

/// The page's content. Of the memory map the first 128 entries are kept.
pub fn build(header: &KernelHeader, placement: &Placement, map: &[MapEntry]) -> [u8; SIZE] {
    let mut page = [0; SIZE];
    page[OFFSET..OFFSET + header.raw_length].copy_from_slice(&header.raw[..header.raw_length]);
    let mut put = |at: usize, bytes: &[u8]| page[at..at + bytes.len()].copy_from_slice(bytes);
    let low = |value: u64| (value as u32).to_le_bytes();
    let high = |value: u64| ((value >> 32) as u32).to_le_bytes();
    let initrd_size = placement.initrd.end - placement.initrd.start;
    put(0x070, &placement.rsdp.0.to_le_bytes());
    put(0x0c0, &high(placement.initrd.start));
    put(0x0c4, &high(initrd_size));
    put(0x0c8, &high(placement.cmdline.0));
    // Loader: undefined, without a number of its own. Video mode: as it is.
    put(0x210, &[0xff]);
    put(0x1fa, &[0xff, 0xff]);
    put(0x214, &low(placement.kernel.0));
    put(0x218, &low(placement.initrd.start));
    put(0x21c, &low(initrd_size));
    put(0x228, &low(placement.cmdline.0));
    let count = map.len().min(MAP_MAX);
    put(MAP_COUNT, &[count as u8]);
    for (i, (range, kind)) in map[..count].iter().enumerate() {
        let at = MAP + i * 20;
        put(at, &range.start.to_le_bytes());
        put(at + 8, &(range.end - range.start).to_le_bytes());
        put(at + 16, &(*kind as u32).to_le_bytes());
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_leaves_out_what_pcs_leave_out() {
        let ram = [0..0x800_0000, 0x1_0000_0000..0x1_4000_0000];
        let map = memory_map(ram.into_iter(), 0xe_0000..0xe_1000);
        assert_eq!(
            map,
            [
                (0..0xa_0000, MapKind::Ram),
                (0xe_0000..0xe_1000, MapKind::Acpi),
                (0x10_0000..0x800_0000, MapKind::Ram),
                (0x1_0000_0000..0x1_4000_0000, MapKind::Ram),
            ]
        );
    }
}
