//! Registers of a device in memory.
use crate::shared::OutOfRange;
use core::ptr::NonNull;

/// A mapped range of 32-bit device registers. Every access is one volatile load or store, which is checked to
/// be inside; values are little-endian.
#[derive(Debug)]
pub struct Mmio {
    base: NonNull<u32>,
    /// Registers in the range.
    count: usize,
}

// SAFETY: the value gives access to the device from whatever thread holds it; it holds no Rust object.
unsafe impl Send for Mmio {}

impl Mmio {
    /// The `size` bytes of registers at `address`.
    ///
    /// # Safety
    /// The range is mapped as long as the value lives and holds no Rust object; `address` is a multiple of 4
    /// and not 0. The device belongs to the caller, whatever its registers do to it.
    pub unsafe fn new(address: usize, size: usize) -> Mmio {
        let base = NonNull::new(core::ptr::with_exposed_provenance_mut(address));
        Mmio {
            count: if base.is_some() { size / 4 } else { 0 },
            base: base.unwrap_or(NonNull::dangling()),
        }
    }

    fn at(&self, offset: usize) -> Result<NonNull<u32>, OutOfRange> {
        if !offset.is_multiple_of(4) || offset / 4 >= self.count {
            return Err(OutOfRange);
        }
        // SAFETY: the register is inside the range.
        Ok(unsafe { self.base.add(offset / 4) })
    }

    /// Reads the register at byte offset `offset`, a multiple of 4.
    pub fn read(&self, offset: usize) -> Result<u32, OutOfRange> {
        let register = self.at(offset)?;
        // SAFETY: `new`'s promise, and `at` checked the offset.
        Ok(u32::from_le(unsafe { register.read_volatile() }))
    }

    /// Writes the register at byte offset `offset`, a multiple of 4.
    pub fn write(&self, offset: usize, value: u32) -> Result<(), OutOfRange> {
        let register = self.at(offset)?;
        // SAFETY: as for `read`; that the device may do what the write asks of it is `new`'s promise.
        unsafe { register.write_volatile(value.to_le()) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_outside_are_refused() {
        let mut registers = [0u32, 7];
        // SAFETY: the array outlives the value and is not used meanwhile.
        let mmio = unsafe { Mmio::new(registers.as_mut_ptr() as usize, 8) };
        assert_eq!(mmio.write(0, 5), Ok(()));
        assert_eq!((mmio.read(0), mmio.read(4)), (Ok(5), Ok(7)));
        for offset in [1, 2, 8, usize::MAX, usize::MAX - 3] {
            assert_eq!(mmio.read(offset), Err(OutOfRange));
            assert_eq!(mmio.write(offset, 0), Err(OutOfRange));
        }
    }
}
