//! The machine's physical memory, as firmware and loader describe it.
//!
//! Firmware entries come unsorted, unaligned and overlapping. A [`MemoryMap`] holds what remains after
//! the rules: regions are whole pages, ascending, disjoint, and neighbours differ in kind; where
//! entries disagree, the more restrictive one wins; a page that is only partly usable is not usable.
#![forbid(unsafe_code)]

use core::fmt;

use super::loader::LoaderError;
use crate::addr::HostPhys;

/// Most regions that a map holds. PCs have 10 to 60.
pub const MAX_REGIONS: usize = 128;
/// End of the physical addresses that a CPU can have (Intel SDM 3A 4.1.4: MAXPHYADDR is at most 52).
pub const PHYS_END: u64 = 1 << 52;

const PAGE: u64 = abi::PAGE_SIZE as u64;

/// A physical range: not empty, and it ends at [`PHYS_END`] or below.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PhysRange {
    start: u64,
    end: u64,
}

impl PhysRange {
    /// The `size` bytes from `start`; `None` if that is empty or leaves the physical address space.
    pub const fn new(start: HostPhys, size: u64) -> Option<PhysRange> {
        match start.0.checked_add(size) {
            Some(end) => PhysRange::from_bounds(start.0, end),
            None => None,
        }
    }

    /// The bytes from `start` up to, and not including, `end`.
    const fn from_bounds(start: u64, end: u64) -> Option<PhysRange> {
        if start < end && end <= PHYS_END { Some(PhysRange { start, end }) } else { None }
    }

    /// First byte.
    pub const fn start(self) -> HostPhys {
        HostPhys(self.start)
    }

    /// First byte behind the range.
    pub const fn end(self) -> HostPhys {
        HostPhys(self.end)
    }

    /// Size in bytes.
    pub const fn size(self) -> u64 {
        self.end - self.start
    }

    /// The pages that the range touches.
    pub const fn outward(self) -> PhysRange {
        // Cannot overflow: PHYS_END is page-aligned.
        PhysRange { start: self.start & !(PAGE - 1), end: self.end.next_multiple_of(PAGE) }
    }

    /// The pages that lie in the range as a whole, if there are any.
    pub const fn inward(self) -> Option<PhysRange> {
        PhysRange::from_bounds(self.start.next_multiple_of(PAGE), self.end & !(PAGE - 1))
    }

    /// Whether `other` lies in the range as a whole.
    pub const fn contains(self, other: PhysRange) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// What both ranges have in common.
    pub fn intersection(self, other: PhysRange) -> Option<PhysRange> {
        PhysRange::from_bounds(self.start.max(other.start), self.end.min(other.end))
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}-{:?}", self.start(), self.end())
    }
}

/// What a region is, in the order of restrictions: where entries overlap, the later one wins. Firmware describes all kinds
/// but [`RegionKind::Bundle`] and [`RegionKind::Kernel`], which the kernel claims from usable memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RegionKind {
    /// RAM that is free for use.
    Usable,
    /// RAM with tables that firmware or loader wrote.
    Firmware,
    /// RAM that firmware needs again after a sleep state.
    FirmwareNvs,
    /// Not for use by software: firmware's own RAM, or devices.
    Reserved,
    /// RAM with errors.
    Defective,
    /// RAM that holds the boot bundle.
    Bundle,
    /// What the kernel uses: RAM for its image, the start-up page of the CPUs and the object pool, and its devices.
    Kernel,
}

/// Whole pages of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where it is; page-aligned.
    pub range: PhysRange,
    /// What it is.
    pub kind: RegionKind,
}

/// The regions of physical memory: page-aligned, ascending, disjoint. What no region covers is a
/// hole: no RAM, perhaps devices ([`MemoryMap::holes`]).
#[derive(Clone)]
pub struct MemoryMap {
    regions: [Region; MAX_REGIONS],
    len: usize,
}

impl MemoryMap {
    /// A map of nothing but holes.
    pub const fn empty() -> MemoryMap {
        // Behind the last region, where nobody looks.
        let unused = Region { range: PhysRange { start: 0, end: 0 }, kind: RegionKind::Usable };
        MemoryMap { regions: [unused; MAX_REGIONS], len: 0 }
    }

    /// The regions in ascending order.
    pub fn regions(&self) -> &[Region] {
        &self.regions[..self.len]
    }

    /// Records an entry of firmware or loader: any alignment, any order. Usable memory shrinks to
    /// whole pages, all else grows to whole pages, and the more restrictive kind wins. Entries that
    /// are empty or leave the physical address space are cut, as they describe nothing there.
    pub fn add(&mut self, start: u64, size: u64, kind: RegionKind) -> Result<(), LoaderError> {
        let end = start.saturating_add(size).min(PHYS_END);
        let Some(range) = PhysRange::from_bounds(start, end) else {
            return Ok(());
        };
        let pages = if kind == RegionKind::Usable { range.inward() } else { Some(range.outward()) };
        let Some(pages) = pages else { return Ok(()) };
        self.paint(pages, kind)
    }

    /// Takes the pages that `range` touches out of usable memory: from now on they are of `kind`.
    pub fn claim(&mut self, range: PhysRange, kind: RegionKind) -> Result<(), LoaderError> {
        let pages = range.outward();
        if !self.is_usable(pages) {
            return Err(LoaderError::NotUsable(pages));
        }
        self.paint(pages, kind)
    }

    /// Whether every byte of `range` is usable memory.
    pub fn is_usable(&self, range: PhysRange) -> bool {
        // Neighbours of the same kind are merged, so one region must hold it all.
        self.usable().any(|free| free.contains(range))
    }

    /// The usable ranges in ascending order.
    pub fn usable(&self) -> impl Iterator<Item = PhysRange> + '_ {
        self.regions().iter().filter(|r| r.kind == RegionKind::Usable).map(|r| r.range)
    }

    /// The lowest usable range of `size` bytes inside `within` whose start is a multiple of `align`,
    /// a power of two.
    pub fn find(&self, size: u64, align: u64, within: PhysRange) -> Option<PhysRange> {
        self.usable().find_map(|free| {
            let free = free.intersection(within)?;
            let start = free.start.checked_next_multiple_of(align)?;
            let range = PhysRange::new(HostPhys(start), size)?;
            free.contains(range).then_some(range)
        })
    }

    /// The ranges below `end` that no region covers, in ascending order: where devices may be.
    pub fn holes(&self, end: HostPhys) -> impl Iterator<Item = PhysRange> + '_ {
        let starts = core::iter::once(0).chain(self.regions().iter().map(|r| r.range.end));
        let ends = self.regions().iter().map(|r| r.range.start).chain(core::iter::once(PHYS_END));
        starts.zip(ends).filter_map(move |(a, b)| PhysRange::from_bounds(a, b.min(end.0)))
    }

    /// Sum of the sizes of all regions of `kind` in bytes.
    pub fn total(&self, kind: RegionKind) -> u64 {
        self.regions().iter().filter(|r| r.kind == kind).map(|r| r.range.size()).sum()
    }

    /// Makes the pages of `range` that were holes `kind`, and the others the more restrictive of that and what they were.
    /// On an error the map is unchanged.
    fn paint(&mut self, range: PhysRange, kind: RegionKind) -> Result<(), LoaderError> {
        let mut out = MemoryMap::empty();
        let mut at = 0;
        // From one edge to the next.
        while at < PHYS_END {
            let old = self.regions().iter().find(|r| r.range.end > at);
            let (mut next, mut what) = match old {
                Some(old) if old.range.start <= at => (old.range.end, Some(old.kind)),
                Some(old) => (old.range.start, None),
                None => (PHYS_END, None),
            };
            if at < range.start {
                next = next.min(range.start);
            } else if at < range.end {
                next = next.min(range.end);
                what = what.max(Some(kind));
            }
            if let Some(kind) = what {
                out.push(at, next, kind)?;
            }
            at = next;
        }
        *self = out;
        Ok(())
    }

    /// Appends the pages from `start` to `end` behind all others.
    fn push(&mut self, start: u64, end: u64, kind: RegionKind) -> Result<(), LoaderError> {
        if let Some(last) = self.regions[..self.len].last_mut()
            && last.kind == kind
            && last.range.end == start
        {
            last.range.end = end;
            return Ok(());
        }
        let slot = self.regions.get_mut(self.len);
        let range = PhysRange { start, end };
        *slot.ok_or(LoaderError::TooManyRegions)? = Region { range, kind };
        self.len += 1;
        Ok(())
    }
}

impl fmt::Debug for MemoryMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map of few pages, the slow way: one cell a page.
    const PAGES: usize = 7;
    type Model = [Option<RegionKind>; PAGES];

    fn expand(map: &MemoryMap) -> Model {
        let mut model = [None; PAGES];
        let mut last: Option<Region> = None;
        for region in map.regions() {
            assert!(region.range.start().is_aligned(PAGE) && region.range.end().is_aligned(PAGE));
            assert!(region.range.start < region.range.end);
            if let Some(last) = last {
                assert!(last.range.end <= region.range.start, "disjoint, ascending: {map:?}");
                assert!(
                    last.kind != region.kind || last.range.end < region.range.start,
                    "merged: {map:?}"
                );
            }
            last = Some(*region);
            for page in region.range.start / PAGE..region.range.end / PAGE {
                model[page as usize] = Some(region.kind);
            }
        }
        model
    }

    /// What an entry from `start` to `end`, in half pages, does to the model.
    fn model_add(model: &mut Model, start: u64, end: u64, kind: RegionKind) {
        for (page, cell) in model.iter_mut().enumerate() {
            let (first, last) = (2 * page as u64, 2 * page as u64 + 1);
            let touched =
                (start..end).contains(&first) as u32 + (start..end).contains(&last) as u32;
            let counts = if kind == RegionKind::Usable { touched == 2 } else { touched > 0 };
            if counts {
                *cell = Some(match *cell {
                    Some(old) if old > kind => old,
                    _ => kind,
                });
            }
        }
    }

    /// Every sequence of three entries with edges at half pages agrees with the model, in every order.
    #[test]
    fn all_small_maps() {
        const HALF: u64 = PAGE / 2;
        let mut entries = Vec::new();
        for start in 0..2 * PAGES as u64 - 2 {
            for size in [1, 2, 3, 5, 8] {
                if start + size <= 2 * PAGES as u64 {
                    for kind in [RegionKind::Usable, RegionKind::Firmware, RegionKind::Reserved] {
                        entries.push((start, start + size, kind));
                    }
                }
            }
        }
        for a in &entries {
            for b in &entries {
                for c in entries.iter().step_by(7) {
                    let (mut map, mut model) = (MemoryMap::empty(), [None; PAGES]);
                    for &(start, end, kind) in [a, b, c] {
                        map.add(start * HALF, (end - start) * HALF, kind).unwrap();
                        model_add(&mut model, start, end, kind);
                    }
                    assert_eq!(expand(&map), model, "{a:?} {b:?} {c:?}");
                }
            }
        }
    }

    #[test]
    fn claims_only_usable_memory() {
        let mut map = MemoryMap::empty();
        map.add(0, 4 * PAGE, RegionKind::Usable).unwrap();
        map.add(4 * PAGE, PAGE, RegionKind::Reserved).unwrap();
        let range = PhysRange::new(HostPhys(PAGE + 5), 7).unwrap();
        map.claim(range, RegionKind::Kernel).unwrap();
        use RegionKind::{Kernel, Reserved, Usable};
        let after = [Some(Usable), Some(Kernel), Some(Usable), Some(Usable), Some(Reserved)];
        assert_eq!(expand(&map)[..5], after);
        // Claimed already; reserved; a hole.
        for start in [1, 4, 5] {
            let range = PhysRange::new(HostPhys(start * PAGE), 1).unwrap();
            assert_eq!(map.claim(range, Kernel), Err(LoaderError::NotUsable(range.outward())));
        }
        assert_eq!(expand(&map)[..5], after);
    }

    #[test]
    fn finds_the_lowest_aligned_range() {
        let mut map = MemoryMap::empty();
        const M: u64 = 1 << 20;
        map.add(0, 640 << 10, RegionKind::Usable).unwrap();
        map.add(M, 6 * M, RegionKind::Usable).unwrap();
        map.add(4096 * M, 64 * M, RegionKind::Usable).unwrap();
        let below_4g = PhysRange::new(HostPhys(M), 4095 * M).unwrap();
        let found = map.find(4 * M, 2 * M, below_4g).unwrap();
        assert_eq!((found.start().0, found.size()), (2 * M, 4 * M));
        assert_eq!(map.find(6 * M, 2 * M, below_4g), None);
        assert_eq!(map.find(u64::MAX, 2 * M, below_4g), None);
        let anywhere = PhysRange::new(HostPhys(0), PHYS_END).unwrap();
        assert_eq!(map.find(6 * M, 2 * M, anywhere).unwrap().start().0, 4096 * M);
        assert_eq!(map.find(PAGE, PAGE, anywhere).unwrap().start().0, 0);
    }

    #[test]
    fn holes_are_what_no_region_covers() {
        let mut map = MemoryMap::empty();
        map.add(PAGE, PAGE, RegionKind::Usable).unwrap();
        map.add(2 * PAGE, PAGE, RegionKind::Reserved).unwrap();
        map.add(4 * PAGE, PAGE, RegionKind::Reserved).unwrap();
        let holes: Vec<_> =
            map.holes(HostPhys(9 * PAGE)).map(|r| (r.start / PAGE, r.end / PAGE)).collect();
        assert_eq!(holes, [(0, 1), (3, 4), (5, 9)]);
        let holes: Vec<_> = map.holes(HostPhys(PAGE / 2)).map(|r| (r.start, r.end)).collect();
        assert_eq!(holes, [(0, PAGE / 2)]);
        assert_eq!(MemoryMap::empty().holes(HostPhys(PHYS_END)).count(), 1);
    }

    #[test]
    fn absurd_entries_are_cut() {
        let mut map = MemoryMap::empty();
        map.add(u64::MAX, u64::MAX, RegionKind::Reserved).unwrap();
        map.add(PHYS_END, PAGE, RegionKind::Usable).unwrap();
        map.add(5, 0, RegionKind::Usable).unwrap();
        assert_eq!(map.regions(), []);
        map.add(PHYS_END - 1, u64::MAX, RegionKind::Reserved).unwrap();
        assert_eq!(map.regions()[0].range.end().0, PHYS_END);
        assert_eq!(map.total(RegionKind::Reserved), PAGE);
    }

    #[test]
    fn too_many_regions_leave_the_map_as_it_was() {
        let mut map = MemoryMap::empty();
        for i in 0..MAX_REGIONS as u64 {
            map.add(2 * i * PAGE, PAGE, RegionKind::Usable).unwrap();
        }
        let more = map.add(1 << 40, PAGE, RegionKind::Usable);
        assert_eq!(more, Err(LoaderError::TooManyRegions));
        assert_eq!(map.regions().len(), MAX_REGIONS);
        assert_eq!(map.total(RegionKind::Usable), MAX_REGIONS as u64 * PAGE);
        // A range that joins two others needs no room.
        map.add(PAGE, PAGE, RegionKind::Usable).unwrap();
        assert_eq!(map.regions().len(), MAX_REGIONS - 1);
    }
}
