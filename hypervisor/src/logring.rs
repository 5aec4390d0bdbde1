//! The kernel's log: a ring that a program with the right to it reads.
//!
//! Until somebody reads it, the log also goes to the machine's UART.

use crate::arch;
use crate::binding::Target;
use crate::cell::Ref;
use crate::cpu;
use crate::notification;
use crate::object::{Header, Object};
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, Ordering};
use abi::cap::Kind;

const SIZE: usize = 16 << 10;

struct Ring {
    bytes: [u8; SIZE],
    start: usize,
    length: usize,
    listener: Option<Target>,
    /// Position of the capability to the log that it was bound with, or 0.
    through: u32,
}

impl Ring {
    /// Appends a byte.
    fn put(&mut self, byte: u8) {
        self.bytes[(self.start + self.length) % SIZE] = byte;
        if self.length < SIZE {
            self.length += 1;
        } else {
            self.start = (self.start + 1) % SIZE;
        }
    }

    /// Takes the oldest byte.
    fn get(&mut self) -> Option<u8> {
        self.length = self.length.checked_sub(1)?;
        let byte = self.bytes[self.start % SIZE];
        self.start = (self.start + 1) % SIZE;
        Some(byte)
    }
}

static RING: TicketMutex<Ring> = TicketMutex::new(Ring {
    bytes: [0; SIZE],
    start: 0,
    length: 0,
    listener: None,
    through: 0,
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
        bytes.iter().for_each(|&byte| ring.put(byte));
        ring.listener
    };
    if let Some(Target { notification, bits }) = listener {
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
    let taken = out
        .iter_mut()
        .map_while(|to| ring.get().map(|byte| *to = byte));
    taken.count()
}

/// Signals `target` whenever something is appended; `through`: position of the capability to the log.
pub fn listen(target: Target, through: u32) {
    let mut ring = RING.lock();
    (ring.listener, ring.through) = (Some(target), through);
}

/// Signals nothing any more.
pub fn ignore() {
    let mut ring = RING.lock();
    (ring.listener, ring.through) = (None, 0);
}

/// Position of the capability to the log with which a notification was bound, or 0.
pub fn listener() -> u32 {
    RING.lock().through
}

/// The log as at boot.
#[cfg(test)]
pub fn reset() {
    let mut ring = RING.lock();
    (ring.start, ring.length) = (0, 0);
    (ring.listener, ring.through) = (None, 0);
    TAKEN_OVER.store(false, Ordering::Relaxed);
}
