//! The kernel's log: a ring that a program with the right to it reads.
//!
//! Until somebody reads it, the log also goes to the machine's UART.

use crate::arch;
use crate::binding::Target;
use crate::cpu;
use crate::notification;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, Ordering};

const SIZE: usize = 16 << 10;

struct Ring {
    bytes: [u8; SIZE],
    start: usize,
    length: usize,
    /// Beside it, the position of the capability to the log that it was bound with.
    listener: Option<(Target, u32)>,
}

impl Ring {
    /// Appends up to [`SIZE`] bytes.
    fn put(&mut self, bytes: &[u8]) {
        let end = (self.start + self.length) % SIZE;
        let first = copy(self.bytes.get_mut(end..).unwrap_or_default(), bytes);
        copy(&mut self.bytes, bytes.get(first..).unwrap_or_default());
        let lost = (self.length + bytes.len()).saturating_sub(SIZE);
        self.start = (self.start + lost) % SIZE;
        self.length += bytes.len() - lost;
    }

    /// Takes the oldest bytes; returns how many.
    fn get(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.length);
        let out = out.get_mut(..count).unwrap_or_default();
        let first = copy(out, self.bytes.get(self.start..).unwrap_or_default());
        copy(out.get_mut(first..).unwrap_or_default(), &self.bytes);
        self.start = (self.start + count) % SIZE;
        self.length -= count;
        count
    }
}

/// Copies what there is, and as much as there is room for, at once; returns how many bytes. Nothing here can panic, as panics are
/// printed this way.
#[inline(never)]
pub fn copy(to: &mut [u8], from: &[u8]) -> usize {
    let count = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..count), from.get(..count)) {
        to.copy_from_slice(from);
    }
    count
}

static RING: TicketMutex<Ring> =
    TicketMutex::new(Ring { bytes: [0; SIZE], start: 0, length: 0, listener: None });
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// Appends bytes; the oldest are lost when the ring is full.
pub fn append(bytes: &[u8]) {
    if !TAKEN_OVER.load(Ordering::Relaxed) {
        arch::early_output(bytes);
    }
    let listener = {
        let mut ring = RING.lock();
        ring.put(bytes);
        ring.listener
    };
    if let Some((Target { notification, bits }, _)) = listener {
        notification::signal(cpu::current(), notification, bits);
    }
}

/// Takes up to `out.len()` bytes; returns how many. With `take_over`, the kernel's own output ends, and
/// what it has printed is not read again.
pub fn take(out: &mut [u8], take_over: bool) -> usize {
    let mut ring = RING.lock();
    if take_over && !TAKEN_OVER.swap(true, Ordering::Relaxed) {
        ring.length = 0;
    }
    ring.get(out)
}

/// From now on, `listener` is signalled whenever something is appended, a target with the position of the capability to the log
/// that it was bound with; returns the one before.
pub fn listen(listener: Option<(Target, u32)>) -> Option<(Target, u32)> {
    core::mem::replace(&mut RING.lock().listener, listener)
}

/// The log as at boot.
#[cfg(test)]
pub fn reset() {
    let mut ring = RING.lock();
    (ring.start, ring.length, ring.listener) = (0, 0, None);
    TAKEN_OVER.store(false, Ordering::Relaxed);
}
