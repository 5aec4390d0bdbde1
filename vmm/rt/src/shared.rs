//! Memory that somebody else may read or write at any time: a guest's RAM, rings, state pages.
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};

/// A mapped range that is accessed only by bounds-checked volatile copies, never through a reference.
/// Values are little-endian.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    size: usize,
}

// SAFETY: every access is a volatile copy that tolerates concurrent changes.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

/// The range is not inside the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

macro_rules! access {
    ($($read:ident $write:ident $type:ty,)*) => {$(
        /// Reads a value at `offset` (any alignment; one access when aligned).
        pub fn $read(&self, offset: usize) -> Result<$type, OutOfRange> {
            const SIZE: usize = core::mem::size_of::<$type>();
            let at = self.at(offset, SIZE)?.cast::<$type>();
            if at.is_aligned() {
                // SAFETY: `at` checked the range, which `new`'s caller promised to be mapped.
                return Ok(<$type>::from_le(unsafe { at.read_volatile() }));
            }
            let mut bytes = [0; SIZE];
            self.read(offset, &mut bytes)?;
            Ok(<$type>::from_le_bytes(bytes))
        }

        /// Writes a value at `offset` (any alignment; one access when aligned).
        pub fn $write(&self, offset: usize, value: $type) -> Result<(), OutOfRange> {
            let at = self.at(offset, core::mem::size_of::<$type>())?.cast::<$type>();
            if at.is_aligned() {
                // SAFETY: `at` checked the range, which `new`'s caller promised to be mapped.
                unsafe { at.write_volatile(value.to_le()) };
                return Ok(());
            }
            self.write(offset, &value.to_le_bytes())
        }
    )*};
}

macro_rules! exchange {
    ($($name:ident $type:ty, $atomic:ty;)*) => {$(
        /// Puts `new` where `old` is, in one step for all who use the memory. Returns whether it was there. Nothing that is
        /// not aligned is exchanged.
        pub fn $name(&self, offset: usize, old: $type, new: $type) -> Result<bool, OutOfRange> {
            let at = self.at(offset, core::mem::size_of::<$type>())?.cast::<$type>();
            if !at.is_aligned() {
                return Err(OutOfRange);
            }
            // SAFETY: `at` checked the range, which `new`'s caller promised to be mapped; it is aligned.
            let cell = unsafe { <$atomic>::from_ptr(at.as_ptr()) };
            let (old, new) = (old.to_le(), new.to_le());
            Ok(cell.compare_exchange(old, new, SeqCst, SeqCst).is_ok())
        }
    )*};
}

impl SharedMemory {
    /// The memory at `address`.
    ///
    /// # Safety
    /// The range is mapped as long as the value lives and holds no Rust object; `address` is not 0.
    pub unsafe fn new(address: usize, size: usize) -> SharedMemory {
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(address));
        SharedMemory {
            size: if base.is_some() { size } else { 0 },
            base: base.unwrap_or(NonNull::dangling()),
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Address in this program.
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    fn at(&self, offset: usize, size: usize) -> Result<NonNull<u8>, OutOfRange> {
        let end = offset.checked_add(size).ok_or(OutOfRange)?;
        if end > self.size {
            return Err(OutOfRange);
        }
        // SAFETY: the offset is inside the range.
        Ok(unsafe { self.base.add(offset) })
    }

    access! {
        read_u8 write_u8 u8,
        read_u16 write_u16 u16,
        read_u32 write_u32 u32,
        read_u64 write_u64 u64,
    }

    exchange! {
        exchange_u32 u32, AtomicU32;
        exchange_u64 u64, AtomicU64;
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(offset, into.len())?;
        let (head, words) = split(from, into.len());
        for (i, byte) in into.iter_mut().enumerate().take(head) {
            // SAFETY: inside the checked range.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        for (i, chunk) in into[head..].chunks_exact_mut(8).enumerate() {
            // SAFETY: inside the checked range and, from `head` on, aligned.
            let word = unsafe { from.add(head).cast::<u64>().add(i).read_volatile() };
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        for (i, byte) in into.iter_mut().enumerate().skip(head + words * 8) {
            // SAFETY: inside the checked range.
            *byte = unsafe { from.add(i).read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(offset, bytes.len())?;
        let (head, words) = split(to, bytes.len());
        for (i, &byte) in bytes.iter().enumerate().take(head) {
            // SAFETY: inside the checked range.
            unsafe { to.add(i).write_volatile(byte) };
        }
        for (i, chunk) in bytes[head..].chunks_exact(8).enumerate() {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            // SAFETY: inside the checked range and, from `head` on, aligned.
            unsafe {
                to.add(head).cast::<u64>().add(i).write_volatile(u64::from_ne_bytes(word));
            }
        }
        for (i, &byte) in bytes.iter().enumerate().skip(head + words * 8) {
            // SAFETY: inside the checked range.
            unsafe { to.add(i).write_volatile(byte) };
        }
        Ok(())
    }

    /// Sets a range to zero.
    pub fn zero(&self, offset: usize, size: usize) -> Result<(), OutOfRange> {
        self.at(offset, size)?;
        const ZEROS: [u8; 512] = [0; 512];
        let mut done = 0;
        while done < size {
            let step = ZEROS.len().min(size - done);
            self.write(offset + done, &ZEROS[..step])?;
            done += step;
        }
        Ok(())
    }

    /// The part of `size` bytes at `offset`.
    pub fn part(&self, offset: usize, size: usize) -> Result<SharedMemory, OutOfRange> {
        Ok(SharedMemory { base: self.at(offset, size)?, size })
    }
}

/// Bytes before the first aligned word of a range, and whole words from there on.
fn split(start: NonNull<u8>, size: usize) -> (usize, usize) {
    let head = (start.as_ptr() as usize).wrapping_neg() % 8;
    let head = head.min(size);
    (head, (size - head) / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_what_is_inside_and_refuses_the_rest() {
        let mut backing = [0u64; 16];
        // SAFETY: the array outlives the value and is not used meanwhile.
        let memory = unsafe { SharedMemory::new(backing.as_mut_ptr() as usize, 128) };
        let bytes: Vec<u8> = (1..=100).collect();
        for start in [0, 1, 7, 8, 28] {
            memory.zero(0, 128).unwrap();
            for length in [0, 1, 6, 7, 8, 9, 63, 100] {
                memory.write(start, &bytes[..length]).unwrap();
                let mut back = vec![0; length];
                memory.read(start, &mut back).unwrap();
                assert_eq!(back, bytes[..length]);
            }
            assert_eq!(memory.read_u8(start + 100).ok(), (start != 28).then_some(0));
        }
        memory.write_u32(3, 0x1234_5678).unwrap();
        assert_eq!(memory.read_u16(4).unwrap(), 0x3456);
        assert_eq!(memory.read_u64(121), Err(OutOfRange));
        assert_eq!(memory.read_u8(usize::MAX), Err(OutOfRange));
        assert_eq!(memory.write(120, &bytes[..9]), Err(OutOfRange));
        memory.write_u64(120, 0).unwrap();
        assert_eq!(memory.exchange_u32(120, 0, 7), Ok(true));
        assert_eq!(memory.exchange_u64(120, 0, 9), Ok(false));
        assert_eq!(memory.read_u64(120), Ok(7));
        assert_eq!(memory.exchange_u64(124, 0, 9), Err(OutOfRange));
        assert_eq!(memory.exchange_u32(122, 0, 9), Err(OutOfRange));
        assert_eq!(memory.part(120, 8).unwrap().size(), 8);
        assert!(memory.part(120, 9).is_err());
    }
}
