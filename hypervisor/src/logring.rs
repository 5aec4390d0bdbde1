//! The kernel's log: a ring that a program with the right to it reads.
//!
//! Until somebody reads it, the log also goes to the machine's UART.

use crate::arch;
use crate::cell::Ref;
use crate::cpu;
use crate::notification::{self, Notification};
use crate::object::{Header, Object};
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use abi::cap::Kind;

const SIZE: usize = 16 << 10;

struct Ring {
    bytes: [u8; SIZE],
    start: usize,
    length: usize,
    listener: Option<(Ref<Notification>, u64)>,
}

impl Ring {
    /// Appends up to [`SIZE`] bytes.
    fn put(&mut self, bytes: &[u8]) {
        let end = (self.start + self.length) % SIZE;
        let (first, second) = bytes.split_at(bytes.len().min(SIZE - end));
        self.bytes[end..end + first.len()].copy_from_slice(first);
        self.bytes[..second.len()].copy_from_slice(second);
        let lost = (self.length + bytes.len()).saturating_sub(SIZE);
        self.start = (self.start + lost) % SIZE;
        self.length += bytes.len() - lost;
    }

    /// Takes the oldest bytes; returns how many.
    fn get(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.length);
        let (first, second) = out[..count].split_at_mut(count.min(SIZE - self.start));
        first.copy_from_slice(&self.bytes[self.start..self.start + first.len()]);
        second.copy_from_slice(&self.bytes[..second.len()]);
        self.start = (self.start + count) % SIZE;
        self.length -= count;
        count
    }
}

static RING: TicketMutex<Ring> = TicketMutex::new(Ring {
    bytes: [0; SIZE],
    start: 0,
    length: 0,
    listener: None,
});
static TAKEN_OVER: AtomicBool = AtomicBool::new(false);

/// The object that the capability to the log names.
#[repr(C, align(64))]
pub struct LogObject {
    /// Common part.
    pub header: Header,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for LogObject {
    const KIND: Kind = Kind::Log;
}

static OBJECT: LogObject = LogObject {
    header: Header::fixed(Kind::Log),
};

/// The one log.
pub fn object() -> Ref<LogObject> {
    Ref::from_static(&OBJECT)
}

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
    if let Some((notification, bits)) = listener {
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

/// Signals `bits` of `notification` whenever something is appended.
pub fn listen(notification: Ref<Notification>, bits: u64) {
    RING.lock().listener = Some((notification, bits));
}

/// Forgets `notification`, which is about to end.
pub fn forget(notification: Ref<Notification>) {
    let mut ring = RING.lock();
    if ring.listener.is_some_and(|(n, _)| n == notification) {
        ring.listener = None;
    }
}

/// The log as at boot.
#[cfg(test)]
pub fn reset() {
    let mut ring = RING.lock();
    (ring.start, ring.length, ring.listener) = (0, 0, None);
    TAKEN_OVER.store(false, Ordering::Relaxed);
}
