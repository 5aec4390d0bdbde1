//! Guest RAM: chunks of the guest-physical address space, accessed only by bounds-checked volatile copies.
use alloc::vec::Vec;
use core::fmt;
use rt::shared::SharedMemory;

/// An address as the guest's page tables and devices use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GuestPhys(pub u64);

impl GuestPhys {
    /// The address `bytes` further, wrapping at the end of the address space (where no RAM is).
    pub const fn plus(self, bytes: u64) -> GuestPhys {
        GuestPhys(self.0.wrapping_add(bytes))
    }
}

impl fmt::Display for GuestPhys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Part of the range is no RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotRam;

/// Contiguous RAM.
#[derive(Debug)]
struct Chunk {
    start: u64,
    memory: SharedMemory,
}

/// Place of a byte of RAM.
#[derive(Clone, Copy, Debug)]
struct Place {
    chunk: usize,
    offset: usize,
}

/// The RAM of a guest. Its content is the guest's: any value may change between two reads.
#[derive(Debug)]
pub struct GuestRam {
    chunks: Vec<Chunk>,
}

/// Why chunks do not make a RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// No chunk at all.
    Empty,
    /// Two chunks overlap, or one exceeds the address space.
    Overlap(GuestPhys),
    /// Not page-aligned.
    Unaligned(GuestPhys),
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LayoutError::Empty => f.write_str("the VM has no RAM"),
            LayoutError::Overlap(at) => write!(f, "RAM chunks overlap at {at}"),
            LayoutError::Unaligned(at) => write!(f, "the RAM chunk at {at} is not page-aligned"),
        }
    }
}

impl GuestRam {
    /// The RAM made of chunks, each with its guest-physical address.
    pub fn new(
        chunks: impl IntoIterator<Item = (GuestPhys, SharedMemory)>,
    ) -> Result<GuestRam, LayoutError> {
        let mut chunks: Vec<Chunk> =
            chunks.into_iter().map(|(start, memory)| Chunk { start: start.0, memory }).collect();
        chunks.sort_by_key(|chunk| chunk.start);
        let mut free = 0;
        for chunk in &chunks {
            let (at, size) = (GuestPhys(chunk.start), chunk.memory.size() as u64);
            if (chunk.start | size) % abi::PAGE_SIZE as u64 != 0 || size == 0 {
                return Err(LayoutError::Unaligned(at));
            }
            if chunk.start < free {
                return Err(LayoutError::Overlap(at));
            }
            free = chunk.start.checked_add(size).ok_or(LayoutError::Overlap(at))?;
        }
        if chunks.is_empty() {
            return Err(LayoutError::Empty);
        }
        Ok(GuestRam { chunks })
    }

    /// Start and end of each chunk, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = core::ops::Range<u64>> + '_ {
        self.chunks.iter().map(|chunk| chunk.start..chunk.start + chunk.memory.size() as u64)
    }

    /// Where `at` lies and how many bytes of the chunk follow.
    fn find(&self, at: GuestPhys) -> Result<(Place, usize), NotRam> {
        for (i, chunk) in self.chunks.iter().enumerate() {
            let offset = at.0.wrapping_sub(chunk.start);
            if offset < chunk.memory.size() as u64 {
                let place = Place { chunk: i, offset: offset as usize };
                return Ok((place, chunk.memory.size() - offset as usize));
            }
        }
        Err(NotRam)
    }

    /// Whether every byte of the range is RAM.
    pub fn contains(&self, at: GuestPhys, size: u64) -> bool {
        let mut done = 0;
        while done < size {
            match self.find(at.plus(done)) {
                Ok((_, run)) => done += run as u64,
                Err(NotRam) => return false,
            }
        }
        at.0.checked_add(size).is_some()
    }

    fn each(
        &self,
        at: GuestPhys,
        size: usize,
        mut visit: impl FnMut(&SharedMemory, usize, core::ops::Range<usize>),
    ) -> Result<(), NotRam> {
        if !self.contains(at, size as u64) {
            return Err(NotRam);
        }
        let mut done = 0;
        while done < size {
            let (place, run) = self.find(at.plus(done as u64))?;
            let end = size.min(done + run);
            visit(&self.chunks[place.chunk].memory, place.offset, done..end);
            done = end;
        }
        Ok(())
    }

    /// Where a range of RAM is in this program's address space; nothing if a part of it is no RAM.
    pub fn places(
        &self,
        at: GuestPhys,
        size: u64,
    ) -> impl Iterator<Item = core::ops::Range<usize>> + '_ {
        let mut done = if self.contains(at, size) { 0 } else { size };
        core::iter::from_fn(move || {
            if done >= size {
                return None;
            }
            let (place, run) = self.find(at.plus(done)).ok()?;
            let start = self.chunks[place.chunk].memory.address() + place.offset;
            let run = (run as u64).min(size - done);
            done += run;
            Some(start..start + run as usize)
        })
    }

    /// Copies bytes out.
    pub fn read(&self, at: GuestPhys, into: &mut [u8]) -> Result<(), NotRam> {
        let mut inside = Ok(());
        self.each(at, into.len(), |memory, offset, part| {
            inside = inside.and(memory.read(offset, &mut into[part]));
        })?;
        inside.map_err(|_| NotRam)
    }

    /// Copies bytes in; all or nothing.
    pub fn write(&self, at: GuestPhys, bytes: &[u8]) -> Result<(), NotRam> {
        let mut inside = Ok(());
        self.each(at, bytes.len(), |memory, offset, part| {
            inside = inside.and(memory.write(offset, &bytes[part]));
        })?;
        inside.map_err(|_| NotRam)
    }

    /// Reads a number of 8 bytes, in one access if it is aligned.
    pub fn read_u64(&self, at: GuestPhys) -> Result<u64, NotRam> {
        let (place, _) = self.find(at)?;
        match self.chunks[place.chunk].memory.read_u64(place.offset) {
            Ok(value) => Ok(value),
            Err(_) => {
                let mut bytes = [0; 8];
                self.read(at, &mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            }
        }
    }

    /// Reads a number of 4 bytes, in one access if it is aligned.
    pub fn read_u32(&self, at: GuestPhys) -> Result<u32, NotRam> {
        let (place, _) = self.find(at)?;
        match self.chunks[place.chunk].memory.read_u32(place.offset) {
            Ok(value) => Ok(value),
            Err(_) => {
                let mut bytes = [0; 4];
                self.read(at, &mut bytes)?;
                Ok(u32::from_le_bytes(bytes))
            }
        }
    }

    /// Puts `new` where `old` is, both of `size` bytes (4 or 8), aligned: in one step for the guest's vCPUs. Returns
    /// whether it was there.
    #[cold]
    pub fn exchange(&self, at: GuestPhys, size: u64, old: u64, new: u64) -> Result<bool, NotRam> {
        let (place, _) = self.find(at)?;
        let memory = &self.chunks[place.chunk].memory;
        let done = match size {
            4 => memory.exchange_u32(place.offset, old as u32, new as u32),
            _ => memory.exchange_u64(place.offset, old, new),
        };
        done.map_err(|_| NotRam)
    }
}

#[cfg(test)]
pub(crate) mod testing {
    //! RAM for tests.
    use super::*;

    /// Zeroed RAM with the given chunks: address and size.
    pub fn ram(chunks: &[(u64, usize)]) -> GuestRam {
        GuestRam::new(chunks.iter().map(|&(start, size)| {
            let backing = Box::leak(vec![0u64; size / 8].into_boxed_slice());
            // SAFETY: the backing lives for ever and nothing else uses it.
            let memory = unsafe { SharedMemory::new(backing.as_mut_ptr() as usize, size) };
            (GuestPhys(start), memory)
        }))
        .unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::ram;
    use super::*;

    #[test]
    fn copies_cross_chunks_that_touch_and_refuse_holes() {
        let ram = ram(&[(0, 0x1000), (0x1000, 0x2000), (0x1_0000, 0x1000)]);
        ram.write(GuestPhys(0xffc), &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!(ram.read_u64(GuestPhys(0xffc)), Ok(0x0807_0605_0403_0201));
        assert_eq!(ram.read_u32(GuestPhys(0xffe)), Ok(0x0605_0403));
        // The first byte is not written when the last has no place.
        assert_eq!(ram.write(GuestPhys(0x2fff), &[9, 9]), Err(NotRam));
        assert_eq!(ram.read_u32(GuestPhys(0x2ffc)), Ok(0));
        assert_eq!(ram.read(GuestPhys(u64::MAX), &mut [0; 2]), Err(NotRam));
        assert!(!ram.contains(GuestPhys(0x1_0ff8), 9));
        assert!(!ram.contains(GuestPhys(0x1000), u64::MAX));
        let places: Vec<_> = ram.places(GuestPhys(0xff0), 0x20).collect();
        assert_eq!(places.iter().map(|place| place.len()).sum::<usize>(), 0x20);
        assert_eq!(places.len(), 2);
        assert_eq!(ram.places(GuestPhys(0x2ff0), 0x20).count(), 0);
    }
}
