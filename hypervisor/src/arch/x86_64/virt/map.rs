//! Bitmaps that say what a guest does without an exit. They are made at boot rather than stored in the image.

use super::table::{Access, OPEN, Open};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A bitmap of whole pages in which a set bit exits. Empty until it is filled, before any vCPU is made.
#[repr(C, align(4096))]
pub(super) struct ExitMap<const WORDS: usize>([AtomicU64; WORDS]);

impl<const WORDS: usize> ExitMap<WORDS> {
    /// A map that is still to be filled.
    pub const fn new() -> ExitMap<WORDS> {
        const { assert!(WORDS.is_multiple_of(512)) };
        ExitMap([const { AtomicU64::new(0) }; WORDS])
    }

    /// Makes everything exit.
    pub fn close(&self) {
        for word in &self.0 {
            word.store(u64::MAX, Relaxed);
        }
    }

    /// Makes everything exit but the MSRs to which `access` gives access: `place` is the bit for reads of an MSR; that for
    /// writes is `writes` further.
    pub fn fill(&self, access: fn(&Open) -> Access, place: fn(u32) -> usize, writes: usize) {
        self.close();
        let open = |bit: usize| self.0[bit / 64].fetch_and(!(1 << (bit % 64)), Relaxed);
        for row in &OPEN {
            let (bit, access) = (place(row.msr), access(row));
            if access != Access::None {
                open(bit);
            }
            if access == Access::All {
                open(bit + writes);
            }
        }
    }

    /// Whether `bit` exits.
    #[cfg(test)]
    pub fn exits(&self, bit: usize) -> bool {
        self.0[bit / 64].load(Relaxed) >> (bit % 64) & 1 != 0
    }
}
