//! What every emulated UART has: the two byte streams, and the flags by which their ends hold each other back.
use super::Wires;
use crate::ring::Ring;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};

/// Bytes on the way from the guest.
pub const OUTPUT: usize = 16 << 10;
/// Bytes on the way to the guest.
pub const INPUT: usize = 4 << 10;
/// Bytes that reach the guest without a pause.
pub const BATCH: usize = 64;
/// Bytes that the guest sends without a pause in its transmit interrupts.
pub const TRANSMIT_BATCH: usize = 2048;
/// CTS is dropped when less than this is free in the output ring, and returns when half is.
const CTS_MARGIN: usize = 64;
/// Depth of the deepest receive FIFO.
const DEEPEST: usize = 32;

/// A receive FIFO.
#[derive(Debug, Default)]
pub struct Fifo {
    bytes: [u8; DEEPEST],
    first: usize,
    length: usize,
}

impl Fifo {
    /// Bytes in it.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a byte. There is room: its user looks at the depth.
    pub fn push(&mut self, byte: u8) {
        self.bytes[(self.first + self.length) % DEEPEST] = byte;
        self.length += 1;
    }

    /// Takes the oldest byte; 0 if there is none.
    pub fn pop(&mut self) -> u8 {
        if self.length == 0 {
            return 0;
        }
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % DEEPEST;
        self.length -= 1;
        byte
    }
}

/// The part of an emulated UART that both sides share. What a register model reads and writes here it does
/// under the lock of the guest's side.
#[derive(Debug)]
pub struct Line<W> {
    pub(super) wires: W,
    /// From the guest; filled under the lock, taken by the main thread.
    pub(super) output: Ring,
    /// To the guest; filled by the main thread, taken under the lock.
    pub(super) input: Ring,
    /// Whether input flows: the guest asks for it by RTS, and is connected.
    open: AtomicBool,
    /// Bytes that the receive FIFO holds at most.
    depth: AtomicUsize,
    /// Bytes in the receive FIFO.
    received: AtomicU8,
    /// Bytes that may enter the receive FIFO before the next pause. Set by the main thread when it is 0, otherwise
    /// counted down under the lock.
    admitted: AtomicUsize,
    /// Bytes sent since the last pause.
    sent: AtomicUsize,
    /// Room that the transmit interrupt waits for.
    transmit_room: AtomicUsize,
    /// The transmit interrupt is pending.
    transmit_pending: AtomicBool,
    /// It becomes pending when the bytes that were written are gone.
    transmit_owed: AtomicBool,
    /// The guest may send.
    cts: AtomicBool,
    /// CTS as the guest last took notice of it.
    cts_seen: AtomicBool,
    /// The main thread wants to be woken by output.
    pub(super) wake_on_output: AtomicBool,
    /// The main thread wants to be woken when input has room.
    pub(super) wake_on_room: AtomicBool,
}

impl<W: Wires> Line<W> {
    pub(super) fn new(wires: W) -> Self {
        Line {
            wires,
            output: Ring::new(OUTPUT),
            input: Ring::new(INPUT),
            open: AtomicBool::new(false),
            depth: AtomicUsize::new(1),
            received: AtomicU8::new(0),
            admitted: AtomicUsize::new(BATCH),
            sent: AtomicUsize::new(0),
            transmit_room: AtomicUsize::new(1),
            transmit_pending: AtomicBool::new(false),
            transmit_owed: AtomicBool::new(false),
            cts: AtomicBool::new(true),
            cts_seen: AtomicBool::new(true),
            wake_on_output: AtomicBool::new(false),
            wake_on_room: AtomicBool::new(false),
        }
    }
}

/// Reception.
impl<W: Wires> Line<W> {
    /// Sets whether the guest takes input.
    pub fn set_open(&self, open: bool) {
        self.open.store(open, SeqCst);
    }

    /// Sets the depth of the receive FIFO, at most that of a [`Fifo`].
    pub fn set_depth(&self, depth: usize) {
        self.depth.store(depth.min(DEEPEST), SeqCst);
    }

    /// Bytes that the receive FIFO holds at most.
    pub fn depth(&self) -> usize {
        self.depth.load(SeqCst)
    }

    /// Bytes in the receive FIFO, as both sides see it.
    pub fn received(&self) -> usize {
        self.received.load(SeqCst).into()
    }

    /// Whether bytes can enter the receive FIFO.
    pub fn can_fill(&self) -> bool {
        self.open.load(SeqCst)
            && self.admitted.load(SeqCst) > 0
            && self.received() < self.depth()
            && !self.input.is_empty()
    }

    /// Tops up the receive FIFO. Returns whether anything entered it.
    pub(super) fn fill(&self, fifo: &mut Fifo) -> bool {
        let before = self.received.swap(fifo.length as u8, SeqCst);
        let mut room = 0;
        if self.can_fill() {
            let admitted = self.admitted.load(SeqCst);
            room = (self.depth() - fifo.length).min(self.input.len()).min(admitted);
            // Announced first, so that the main thread sees the bytes in one place or the other.
            self.received.store((fifo.length + room) as u8, SeqCst);
            for _ in 0..room {
                if let Some(byte) = self.input.pop() {
                    fifo.push(byte);
                }
            }
            self.admitted.store(admitted - room, SeqCst);
            if self.input.free() >= INPUT / 2 && self.wake_on_room.swap(false, SeqCst) {
                self.wires.wake();
            }
        }
        if before > 0 && self.input_pauses() {
            self.wires.wake();
        }
        room > 0
    }

    fn input_pauses(&self) -> bool {
        self.admitted.load(SeqCst) == 0 && self.received() == 0
    }
}

/// Pauses.
impl<W: Wires> Line<W> {
    fn output_pauses(&self) -> bool {
        self.sent.load(SeqCst) >= TRANSMIT_BATCH
    }

    pub(super) fn pauses(&self) -> bool {
        self.input_pauses() || self.output_pauses()
    }

    pub(super) fn admit(&self) {
        if self.input_pauses() {
            self.admitted.store(BATCH, SeqCst);
        }
        if self.output_pauses() {
            self.sent.store(0, SeqCst);
            self.settle_transmit();
        }
    }
}

/// Transmission.
impl<W: Wires> Line<W> {
    /// The guest sends a byte.
    pub fn transmit(&self, byte: u8) {
        self.owe_transmit();
        // A full ring loses the byte, as a full FIFO does: the guest did not look at its flags.
        self.output.push(byte);
        if self.output.free() < CTS_MARGIN {
            self.cts.store(false, SeqCst);
            self.settle_cts();
        }
        let ends_batch = self.sent.fetch_add(1, SeqCst) + 1 == TRANSMIT_BATCH;
        if self.wake_on_output.swap(false, SeqCst) || ends_batch {
            self.wires.wake();
        }
    }

    /// A byte has been written; in loopback it goes no further. Before the byte, so that who takes it sees the debt.
    pub fn owe_transmit(&self) {
        self.transmit_pending.store(false, SeqCst);
        self.transmit_owed.store(true, SeqCst);
    }

    /// Bytes that the guest can send now.
    pub fn room(&self) -> usize {
        self.output.free()
    }

    /// Sets the room that the transmit interrupt waits for.
    pub fn set_transmit_room(&self, room: usize) {
        self.transmit_room.store(room, SeqCst);
    }

    /// Whether there is the room that the transmit interrupt waits for.
    pub fn can_transmit(&self) -> bool {
        self.output.free() >= self.transmit_room.load(SeqCst)
    }

    /// Whether the transmit interrupt is pending.
    pub fn transmit_pending(&self) -> bool {
        self.transmit_pending.load(SeqCst)
    }

    /// Raises or clears the transmit interrupt.
    pub fn set_transmit_pending(&self, pending: bool) {
        self.transmit_pending.store(pending, SeqCst);
    }

    /// The transmit interrupt that an earlier byte brings, once there is room and outside of pauses.
    pub(super) fn settle_transmit(&self) {
        if !self.output_pauses()
            && self.transmit_owed.load(SeqCst)
            && self.can_transmit()
            && self.transmit_owed.swap(false, SeqCst)
        {
            self.transmit_pending.store(true, SeqCst);
        }
    }

    /// The main thread has taken bytes.
    pub(super) fn output_taken(&self) {
        self.settle_transmit();
        self.settle_cts();
    }
}

/// CTS.
impl<W: Wires> Line<W> {
    fn settle_cts(&self) {
        if !self.cts.load(SeqCst) && self.output.free() >= OUTPUT / 2 {
            self.cts.store(true, SeqCst);
        }
    }

    /// Whether the guest may send.
    pub fn cts(&self) -> bool {
        self.cts.load(SeqCst)
    }

    /// Whether CTS has changed since the guest took notice of it.
    pub fn cts_changed(&self) -> bool {
        self.cts() != self.cts_seen.load(SeqCst)
    }

    /// The guest takes notice of CTS. Returns whether it had changed.
    pub fn see_cts(&self) -> (bool, bool) {
        let cts = self.cts();
        (cts, self.cts_seen.swap(cts, SeqCst) != cts)
    }
}
