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
use core::fmt::{self, Write};

const SIZE: usize = 16 << 10;
/// Longest line of the kernel's own.
const LINE: usize = 160;

struct Ring {
    bytes: [u8; SIZE],
    start: usize,
    length: usize,
    listener: Option<Target>,
    /// Position of the capability to the log that it was bound with, or 0.
    through: u32,
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
        ring.put(bytes);
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
    ring.get(out)
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

/// A line of the kernel's log.
struct Line {
    bytes: [u8; LINE],
    used: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.used..LINE - 1];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.used += count;
        Ok(())
    }
}

/// Appends formatted text, cut to a line's length: where the kernel's own messages go.
pub fn append_text(text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; LINE],
        used: 0,
    };
    // A Line never fails: it cuts what is too long.
    let _ = line.write_fmt(text);
    if line.used == line.bytes.len() - 1 {
        line.bytes[line.used] = b'\n';
        line.used += 1;
    }
    append(&line.bytes[..line.used]);
}

/// The log as at boot.
#[cfg(test)]
pub fn reset() {
    let mut ring = RING.lock();
    (ring.start, ring.length) = (0, 0);
    (ring.listener, ring.through) = (None, 0);
    TAKEN_OVER.store(false, Ordering::Relaxed);
}
