//! A byte ring between two threads.
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

/// A ring with one producer and one consumer at a time. Neither waits.
///
/// The indices are sequentially consistent, so that they can be used together with flags: who sets a
/// flag and then looks at the ring sees what the other side did before it looked at the flag.
#[derive(Debug)]
pub struct Ring {
    bytes: Box<[AtomicU8]>,
    /// Bytes ever taken.
    taken: AtomicUsize,
    /// Bytes ever put.
    put: AtomicUsize,
}

impl Ring {
    /// A ring for `capacity` bytes, a power of two.
    pub fn new(capacity: usize) -> Ring {
        assert!(capacity.is_power_of_two());
        let bytes = (0..capacity).map(|_| AtomicU8::new(0)).collect();
        Ring { bytes, taken: AtomicUsize::new(0), put: AtomicUsize::new(0) }
    }

    fn cell(&self, at: usize) -> &AtomicU8 {
        &self.bytes[at & (self.bytes.len() - 1)]
    }

    /// Bytes that it holds.
    pub fn len(&self) -> usize {
        // The consumer's index first: read the other way round, the difference could be negative.
        let taken = self.taken.load(SeqCst);
        self.put.load(SeqCst).wrapping_sub(taken).min(self.bytes.len())
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that it can take.
    pub fn free(&self) -> usize {
        self.bytes.len() - self.len()
    }

    /// Bytes that it can hold.
    pub fn capacity(&self) -> usize {
        self.bytes.len()
    }

    /// Producer: appends a byte; false if the ring is full.
    pub fn push(&self, byte: u8) -> bool {
        let put = self.put.load(SeqCst);
        if put.wrapping_sub(self.taken.load(SeqCst)) == self.bytes.len() {
            return false;
        }
        self.cell(put).store(byte, Relaxed);
        self.put.store(put.wrapping_add(1), SeqCst);
        true
    }

    /// Consumer: takes the oldest byte.
    pub fn pop(&self) -> Option<u8> {
        let byte = self.peek(0)?;
        self.taken.store(self.taken.load(SeqCst).wrapping_add(1), SeqCst);
        Some(byte)
    }

    /// Consumer: the byte that `index` others come before.
    pub fn peek(&self, index: usize) -> Option<u8> {
        let taken = self.taken.load(SeqCst);
        (index < self.put.load(SeqCst).wrapping_sub(taken))
            .then(|| self.cell(taken.wrapping_add(index)).load(Relaxed))
    }

    /// Consumer: whether it holds this byte.
    pub fn contains(&self, byte: u8) -> bool {
        (0..self.len()).any(|index| self.peek(index) == Some(byte))
    }
}
