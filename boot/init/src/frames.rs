//! The machine's RAM: who gets which part of it.
use abi::PAGE_SIZE;
use abi::boot::Region;
use abi::cap::MemoryKind;
use alloc::vec::Vec;

/// A part of a memory region that the root task holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Number of the region.
    pub region: u32,
    /// Offset in the region in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub size: u64,
}

/// Most pieces that a VM's memory may come in.
const MOST_PIECES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Free {
    start: u64,
    end: u64,
    region: u32,
}

impl Free {
    /// Where `size` bytes with this alignment could start.
    fn place(&self, size: u64, align: u64) -> Option<u64> {
        let start = self.start.checked_next_multiple_of(align)?;
        (start.checked_add(size)? <= self.end).then_some(start)
    }

    /// The largest part that starts and ends at multiples of `align`.
    fn aligned(&self, align: u64) -> Option<(u64, u64)> {
        let start = self.start.checked_next_multiple_of(align)?;
        let end = self.end / align * align;
        (start < end).then_some((start, end))
    }
}

/// Free RAM, by physical address. Sizes and alignments are multiples of the page size.
#[derive(Clone, Debug)]
pub struct Frames {
    bases: Vec<u64>,
    free: Vec<Free>,
}

impl Frames {
    /// All RAM among `regions`, which the kernel guarantees not to overlap.
    pub fn new(regions: &[Region]) -> Frames {
        let ram = regions
            .iter()
            .zip(0..)
            .filter(|(region, _)| region.memory_kind() == Some(MemoryKind::Ram) && region.size > 0);
        let free = ram.map(|(region, number)| Free {
            start: region.base,
            end: region.base.saturating_add(region.size),
            region: number,
        });
        Frames { free: free.collect(), bases: regions.iter().map(|region| region.base).collect() }
    }

    /// Free bytes.
    pub fn available(&self) -> u64 {
        self.free.iter().map(|free| free.end - free.start).sum()
    }

    /// Takes `size` bytes in one piece from the smallest part that has them.
    pub fn take(&mut self, size: u64, align: u64) -> Option<Chunk> {
        let fits = |free: &&Free| free.place(size, align).is_some();
        let best = self.free.iter().filter(fits).min_by_key(|free| free.end - free.start)?;
        let start = best.place(size, align)?;
        self.take_at(start, size)
    }

    /// Takes `size` bytes at physical address `start`.
    pub fn take_at(&mut self, start: u64, size: u64) -> Option<Chunk> {
        let end = start.checked_add(size)?;
        let at = self.free.iter().position(|free| free.start <= start && end <= free.end)?;
        if size == 0 || !(start | size).is_multiple_of(PAGE_SIZE as u64) {
            return None;
        }
        let free = self.free[at];
        let parts = [Free { end: start, ..free }, Free { start: end, ..free }];
        let rest = parts.into_iter().filter(|part| part.start < part.end);
        self.free.splice(at..=at, rest);
        let offset = start - self.bases[free.region as usize];
        Some(Chunk { region: free.region, offset, size })
    }

    /// Takes `size` bytes in few pieces, each a multiple of `align` and aligned to it.
    pub fn take_pieces(&mut self, size: u64, align: u64) -> Option<Vec<Chunk>> {
        if let Some(whole) = self.take(size, align) {
            return Some(Vec::from([whole]));
        }
        let mut pieces = Vec::new();
        let mut left = size;
        while left > 0 && pieces.len() < MOST_PIECES {
            let parts = self.free.iter().filter_map(|free| free.aligned(align));
            let Some((start, end)) = parts.max_by_key(|(start, end)| end - start) else {
                break;
            };
            let Some(piece) = self.take_at(start, left.min(end - start)) else {
                break;
            };
            left -= piece.size;
            pieces.push(piece);
        }
        if left > 0 {
            pieces.into_iter().for_each(|piece| self.give_back(piece));
            return None;
        }
        Some(pieces)
    }

    /// Returns what was taken.
    pub fn give_back(&mut self, chunk: Chunk) {
        let start = self.bases[chunk.region as usize] + chunk.offset;
        let mut freed = Free { start, end: start + chunk.size, region: chunk.region };
        // At most the part before and the part behind touch it.
        self.free.retain(|free| {
            let touches =
                free.region == freed.region && (free.end == freed.start || free.start == freed.end);
            if touches {
                freed.start = freed.start.min(free.start);
                freed.end = freed.end.max(free.end);
            }
            !touches
        });
        let at = self.free.partition_point(|free| free.start < freed.start);
        self.free.insert(at, freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGE: u64 = 2 << 20;

    fn region(base: u64, size: u64, kind: MemoryKind) -> Region {
        Region { base, size, kind: kind as u32, reserved: 0 }
    }

    fn machine() -> Vec<Region> {
        vec![
            region(0x1000, 0x9e000, MemoryKind::Ram),
            region(0xf_0000, 0x1_0000, MemoryKind::Firmware),
            region(0x10_1000, 0x3fe0_0000, MemoryKind::Ram),
            region(0xfec0_0000, 0x1000, MemoryKind::Device),
            region(1 << 32, 1 << 30, MemoryKind::Ram),
        ]
    }

    #[test]
    fn small_parts_come_from_small_rooms_and_large_ones_in_few_pieces() {
        let mut frames = Frames::new(&machine());
        let all = frames.available();
        assert_eq!(frames.take(0x5000, 4096), Some(Chunk { region: 0, offset: 0, size: 0x5000 }));
        let vm = frames.take_pieces(512 << 20, LARGE).unwrap();
        assert_eq!(vm, [Chunk { region: 2, offset: 0xf_f000, size: 512 << 20 }]);
        let fixed = frames.take_at((1 << 32) + LARGE, LARGE).unwrap();
        assert_eq!(frames.take_at(1 << 32, 2 * LARGE), None);
        let pieces = frames.take_pieces(1200 << 20, LARGE).unwrap();
        assert_eq!(pieces.iter().map(|piece| piece.size).sum::<u64>(), 1200 << 20);
        assert_eq!(pieces.len(), 2);
        let before = frames.available();
        assert_eq!(frames.take_pieces(1 << 40, LARGE), None);
        assert_eq!(frames.available(), before);
        for chunk in vm.into_iter().chain(pieces).chain([fixed]) {
            frames.give_back(chunk);
        }
        frames.give_back(Chunk { region: 0, offset: 0, size: 0x5000 });
        assert_eq!((frames.available(), frames.free.len()), (all, 3));
    }

    proptest! {
        #[test]
        fn no_byte_is_given_twice(
            sizes in prop::collection::vec((1u64..600, any::<bool>(), any::<bool>()), 1..60)
        ) {
            let regions = machine();
            let mut frames = Frames::new(&regions);
            let all = frames.available();
            let mut held: Vec<Chunk> = Vec::new();
            for (size, large, release) in sizes {
                if release && !held.is_empty() {
                    frames.give_back(held.swap_remove(size as usize % held.len()));
                }
                let unit = if large { LARGE } else { 4096 };
                held.extend(frames.take_pieces(size * unit, unit).unwrap_or_default());
                let mut ranges: Vec<(u64, u64)> = held.iter().map(|chunk| {
                    let region = regions[chunk.region as usize];
                    assert!(chunk.offset + chunk.size <= region.size && region.kind == 0);
                    (region.base + chunk.offset, region.base + chunk.offset + chunk.size)
                }).collect();
                ranges.sort_unstable();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
                let sum: u64 = held.iter().map(|chunk| chunk.size).sum();
                prop_assert_eq!(frames.available(), all - sum);
            }
        }
    }
}
