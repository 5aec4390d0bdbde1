//! A set of interrupt vectors.

/// A set of the vectors 0 to 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VectorSet([u64; 4]);

impl VectorSet {
    /// The set with these bits, 64 vectors in each word.
    pub const fn new(words: [u64; 4]) -> VectorSet {
        VectorSet(words)
    }

    /// Adds a vector; returns whether it is new.
    pub fn insert(&mut self, vector: u8) -> bool {
        let (word, bit) = (&mut self.0[vector as usize / 64], 1 << (vector % 64));
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Removes a vector.
    pub fn remove(&mut self, vector: u8) {
        self.0[vector as usize / 64] &= !(1 << (vector % 64));
    }

    /// Whether the vector is in the set.
    pub fn contains(&self, vector: u8) -> bool {
        self.0[vector as usize / 64] >> (vector % 64) & 1 != 0
    }

    /// The highest vector.
    #[inline]
    pub fn highest(&self) -> Option<u8> {
        for (i, &word) in self.0.iter().enumerate().rev() {
            if word != 0 {
                return Some((i * 64 + 63) as u8 - word.leading_zeros() as u8);
            }
        }
        None
    }

    /// Register `index` of the eight that show the set, 32 vectors each.
    pub fn register(&self, index: usize) -> u32 {
        (self.0[(index / 2) & 3] >> (index % 2 * 32)) as u32
    }
}
