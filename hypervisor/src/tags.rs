//! Numbers that tag the translations of spaces, where the processor has such.

use core::sync::atomic::{AtomicU64, Ordering};

/// A pool of `64 * WORDS` numbers. 0 is everybody's who gets none.
pub struct TagPool<const WORDS: usize> {
    taken: [AtomicU64; WORDS],
}

impl<const WORDS: usize> TagPool<WORDS> {
    /// All numbers but 0 are free.
    pub const fn all_free() -> TagPool<WORDS> {
        let mut taken = [const { AtomicU64::new(0) }; WORDS];
        taken[0] = AtomicU64::new(1);
        TagPool { taken }
    }

    /// Takes a free number; 0 if there is none.
    pub fn alloc(&self) -> u16 {
        for (i, word) in self.taken.iter().enumerate() {
            let free = word.load(Ordering::Relaxed).trailing_ones();
            if free < 64 && word.fetch_or(1 << free, Ordering::Relaxed) & 1 << free == 0 {
                return (i * 64) as u16 + free as u16;
            }
        }
        0
    }

    /// Returns a number from [`TagPool::alloc`].
    pub fn free(&self, tag: u16) {
        if tag != 0 {
            self.taken[tag as usize / 64 % WORDS].fetch_and(!(1 << (tag % 64)), Ordering::Relaxed);
        }
    }
}
