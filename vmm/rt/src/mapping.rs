//! Mapping memory at free addresses of the program's own space.
use crate::mmio::Mmio;
use crate::selectors::Selectors;
use crate::shared::SharedMemory;
use crate::syscall::{self, MapParameters, Result};
use abi::{PAGE_SIZE, Rights, Selector, Status};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Alignment of mappings large enough for it, so that the kernel can use large pages.
const LARGE: u64 = 2 << 20;

/// Hands out address ranges, each once, and maps memory there. An unmapped page follows each range.
#[derive(Debug)]
pub struct Mapper {
    space: Selector,
    next: AtomicU64,
    end: u64,
}

impl Mapper {
    /// A mapper for `space`, whose addresses `free` are not otherwise used.
    pub const fn new(space: Selector, free: Range<u64>) -> Mapper {
        Mapper { space, next: AtomicU64::new(free.start), end: free.end }
    }

    /// The space that this mapper maps into.
    pub fn space(&self) -> Selector {
        self.space
    }

    /// Takes `size` bytes of address space.
    pub fn reserve(&self, size: u64) -> Option<u64> {
        let align = if size >= LARGE { LARGE } else { PAGE_SIZE as u64 };
        let place = |next: u64| -> Option<(u64, u64)> {
            let start = next.checked_next_multiple_of(align)?;
            let end = start.checked_add(size)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
            let after = end.checked_add(PAGE_SIZE as u64)?;
            (after <= self.end).then_some((start, after))
        };
        let step = |next| place(next).map(|(_, after)| after);
        let before = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()?;
        place(before).map(|(start, _)| start)
    }

    /// Maps `size` bytes at `offset` of `memory`; returns the address and the mapping's selector.
    pub fn map(
        &self,
        selectors: &Selectors,
        memory: Selector,
        offset: u64,
        size: u64,
        rights: Rights,
    ) -> Result<(u64, Selector)> {
        let address = self.reserve(size).ok_or(Status::BadArgument)?;
        let dst = selectors.take(1).ok_or(Status::BadSelector)?;
        syscall::map(memory, self.space, dst, &MapParameters { offset, address, size, rights })?;
        Ok((address, dst))
    }

    /// Maps memory that others may access at the same time.
    pub fn map_shared(
        &self,
        selectors: &Selectors,
        memory: Selector,
        size: u64,
        rights: Rights,
    ) -> Result<SharedMemory> {
        let (address, _) = self.map(selectors, memory, 0, size, rights)?;
        // SAFETY: the range was just mapped, nothing of this program lies there, and programs are
        // static: it is not unmapped. Without `WRITE` a write faults, which ends the program.
        Ok(unsafe { SharedMemory::new(address as usize, size as usize) })
    }

    /// Maps a device's registers.
    pub fn map_registers(
        &self,
        selectors: &Selectors,
        memory: Selector,
        offset: u64,
        size: u64,
    ) -> Result<Mmio> {
        let (address, _) = self.map(selectors, memory, offset, size, Rights::RW)?;
        // SAFETY: as in `map_shared`.
        Ok(unsafe { Mmio::new(address as usize, size as usize) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_aligned_apart_and_inside() {
        let mapper = Mapper::new(Selector(2), 0x1000..0xa0_0000);
        assert_eq!(mapper.reserve(1), Some(0x1000));
        assert_eq!(mapper.reserve(0x2000), Some(0x3000));
        assert_eq!(mapper.reserve(0x20_0000), Some(0x20_0000));
        assert_eq!(mapper.reserve(0x60_0000), None);
        assert_eq!(mapper.reserve(u64::MAX), None);
        assert_eq!(mapper.reserve(0x1000), Some(0x40_1000));
    }
}
