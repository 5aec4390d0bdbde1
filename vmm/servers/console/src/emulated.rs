//! An emulated 16550.
//!
//! The guest's side ([`EmulatedUart::read`], [`EmulatedUart::write`]) runs in handler threads, the host's
//! side in the main thread. A lock orders handler threads of different CPUs; the main thread never takes it.
//! What both sides need is atomic, and every change of it is followed by [`EmulatedUart::update`].
//!
//! Transmission is as fast as the ring allows: THRE is set while a whole FIFO fits into the ring. After a
//! write the THRE *interrupt* is raised when the guest next touches another register or when the main thread
//! takes the bytes, whichever comes first, so that a driver that writes a FIFO's worth per interrupt gets
//! one interrupt for it, not one per byte.
//!
//! Reception comes in batches with pauses between them, because no real line is endlessly fast and drivers rely on
//! that: Linux reads in its interrupt handler until the FIFO is empty, but gives up after some
//! 128 KiB, and no edge follows for what is left then; meanwhile nothing takes the bytes from its buffer of 64
//! KiB. So a FIFO that has been emptied [`BATCH`] bytes after the last pause stays empty until the main thread
//! lets the next ones in ([`EmulatedUart::admit`]).
use crate::registers::*;
use crate::ring::Ring;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering::SeqCst};
use spin::mutex::TicketMutex;

/// Bytes on the way from the guest.
const OUTPUT: usize = 16 << 10;
/// Bytes on the way to the guest.
const INPUT: usize = 4 << 10;
/// Bytes that reach the guest without a pause.
const BATCH: usize = 4 * FIFO;
/// CTS is dropped when less than this is free in the output ring, and returns when half is.
const CTS_MARGIN: usize = 64;

/// What the emulated UART is wired to.
pub trait Wires {
    /// The interrupt output rises.
    fn interrupt(&self);
    /// The main thread has something to do for this UART.
    fn wake(&self);
}

/// An emulated 16550A with two rings.
#[derive(Debug)]
pub struct EmulatedUart<W> {
    wires: W,
    /// From the guest; filled under the lock, taken by the main thread.
    output: Ring,
    /// To the guest; filled by the main thread, taken under the lock.
    input: Ring,
    guest: TicketMutex<Guest>,
    /// State of the interrupt output, as last signalled.
    raised: AtomicBool,
    /// IER.
    enabled: AtomicU8,
    /// MCR.
    modem: AtomicU8,
    /// Bytes in the receive FIFO.
    received: AtomicU8,
    /// Bytes that may enter the receive FIFO before the next pause. Set by the main thread when it is 0, otherwise
    /// counted down under the lock.
    admitted: AtomicUsize,
    /// A line status error waits to be read.
    line_error: AtomicBool,
    /// The THRE interrupt is pending.
    transmit_pending: AtomicBool,
    /// It becomes pending when the bytes that were written are gone.
    transmit_owed: AtomicBool,
    /// The guest may send.
    cts: AtomicBool,
    /// CTS as the guest last read it.
    cts_seen: AtomicBool,
    /// The main thread wants to be woken by output.
    wake_on_output: AtomicBool,
    /// The main thread wants to be woken when input has room.
    wake_on_room: AtomicBool,
}

/// What only the guest's side uses.
#[derive(Debug)]
struct Guest {
    fifo: Fifo,
    fifo_control: FifoControl,
    line_control: LineControl,
    divisor: [u8; 2],
    scratch: u8,
}

/// The receive FIFO.
#[derive(Debug, Default)]
struct Fifo {
    bytes: [u8; FIFO],
    first: usize,
    length: usize,
}

impl Fifo {
    fn push(&mut self, byte: u8) {
        self.bytes[(self.first + self.length) % FIFO] = byte;
        self.length += 1;
    }

    fn pop(&mut self) -> u8 {
        if self.length == 0 {
            return 0;
        }
        let byte = self.bytes[self.first];
        self.first = (self.first + 1) % FIFO;
        self.length -= 1;
        byte
    }
}

impl Guest {
    /// Bytes that the receive FIFO holds at most.
    fn depth(&self) -> usize {
        if self.fifo_control.contains(FifoControl::ENABLE) {
            FIFO
        } else {
            1
        }
    }
}

impl<W: Wires> EmulatedUart<W> {
    /// A UART after reset.
    pub fn new(wires: W) -> Self {
        EmulatedUart {
            wires,
            output: Ring::new(OUTPUT),
            input: Ring::new(INPUT),
            guest: TicketMutex::new(Guest {
                fifo: Fifo::default(),
                fifo_control: FifoControl::empty(),
                line_control: LineControl::empty(),
                divisor: [12, 0],
                scratch: 0,
            }),
            raised: AtomicBool::new(false),
            enabled: AtomicU8::new(0),
            modem: AtomicU8::new(0),
            received: AtomicU8::new(0),
            admitted: AtomicUsize::new(BATCH),
            line_error: AtomicBool::new(false),
            transmit_pending: AtomicBool::new(false),
            transmit_owed: AtomicBool::new(false),
            cts: AtomicBool::new(true),
            cts_seen: AtomicBool::new(true),
            wake_on_output: AtomicBool::new(false),
            wake_on_room: AtomicBool::new(false),
        }
    }

    fn enabled(&self) -> InterruptEnable {
        InterruptEnable::from_bits_truncate(self.enabled.load(SeqCst))
    }

    fn modem(&self) -> ModemControl {
        ModemControl::from_bits_truncate(self.modem.load(SeqCst))
    }

    /// Whether input flows: the guest asserts RTS and is connected to the line.
    fn takes_input(&self) -> bool {
        let modem = self.modem();
        modem.contains(ModemControl::RTS) && !modem.contains(ModemControl::LOOP)
    }

    /// Whether bytes can enter the receive FIFO, as far as it has room.
    fn can_fill(&self) -> bool {
        self.takes_input() && self.admitted.load(SeqCst) > 0 && !self.input.is_empty()
    }

    fn can_transmit(&self) -> bool {
        self.output.free() >= FIFO
    }

    fn modem_changed(&self) -> bool {
        self.cts.load(SeqCst) != self.cts_seen.load(SeqCst)
    }

    /// What the interrupt output should be.
    fn level(&self) -> bool {
        let modem = self.modem();
        if !modem.contains(ModemControl::OUT2) || modem.contains(ModemControl::LOOP) {
            return false;
        }
        let enabled = self.enabled();
        let data = || self.received.load(SeqCst) > 0 || self.can_fill();
        (enabled.contains(InterruptEnable::RECEIVED) && data())
            || (enabled.contains(InterruptEnable::TRANSMIT) && self.transmit_pending.load(SeqCst))
            || (enabled.contains(InterruptEnable::MODEM) && self.modem_changed())
            || (enabled.contains(InterruptEnable::LINE) && self.line_error.load(SeqCst))
    }

    /// Brings the interrupt output in line with the state. Both sides do so after each of their changes, at
    /// the same time perhaps. Who is last to set `raised` looks at the state again afterwards, so
    /// none can leave an outdated value; at worst an edge is signalled twice.
    fn update(&self) {
        loop {
            let level = self.level();
            if !self.raised.swap(level, SeqCst) && level {
                self.wires.interrupt();
            }
            if self.level() == level {
                return;
            }
        }
    }

    /// The THRE interrupt that an earlier write brings, once there is room.
    fn settle_transmit(&self) {
        if self.transmit_owed.load(SeqCst)
            && self.can_transmit()
            && self.transmit_owed.swap(false, SeqCst)
        {
            self.transmit_pending.store(true, SeqCst);
        }
    }
}

/// The guest's side.
impl<W: Wires> EmulatedUart<W> {
    /// The guest reads register `register` (0 to 7).
    pub fn read(&self, register: u8) -> u8 {
        let mut guest = self.guest.lock();
        self.settle_transmit();
        self.fill_fifo(&mut guest);
        let divisor = guest.line_control.contains(LineControl::DIVISOR);
        let value = match register {
            DATA | IER if divisor => guest.divisor[usize::from(register)],
            DATA => guest.fifo.pop(),
            IER => self.enabled().bits(),
            IIR_FCR => self.read_identification(&guest),
            LCR => guest.line_control.bits(),
            MCR => self.modem().bits(),
            LSR => self.read_line_status(&guest),
            MSR => self.read_modem_status(),
            _ => guest.scratch,
        };
        self.finish(&mut guest);
        value
    }

    /// The guest writes register `register` (0 to 7).
    pub fn write(&self, register: u8, value: u8) {
        let mut guest = self.guest.lock();
        let divisor = guest.line_control.contains(LineControl::DIVISOR);
        if register != DATA || divisor {
            self.settle_transmit();
        }
        self.fill_fifo(&mut guest);
        match register {
            DATA | IER if divisor => guest.divisor[usize::from(register)] = value,
            DATA => self.transmit(&mut guest, value),
            IER => self.write_enable(InterruptEnable::from_bits_truncate(value)),
            IIR_FCR => self.write_fifo_control(&mut guest, FifoControl::from_bits_truncate(value)),
            LCR => guest.line_control = LineControl::from_bits_retain(value),
            MCR => self
                .modem
                .store(ModemControl::from_bits_truncate(value).bits(), SeqCst),
            SCRATCH => guest.scratch = value,
            // LSR and MSR are read-only.
            _ => {}
        }
        self.finish(&mut guest);
    }

    /// Ends an access: the FIFO is topped up, and the interrupt output follows.
    fn finish(&self, guest: &mut Guest) {
        self.fill_fifo(guest);
        // A guest that can see that nothing is pending gets an edge for whatever comes now, even if it
        // came before `update` looks.
        if self.pending(guest) == Interrupt::None {
            self.raised.store(false, SeqCst);
        }
        self.update();
    }

    fn fill_fifo(&self, guest: &mut Guest) {
        if self.can_fill() {
            let admitted = self.admitted.load(SeqCst);
            let room = guest
                .depth()
                .saturating_sub(guest.fifo.length)
                .min(self.input.len())
                .min(admitted);
            // Announced first, so that the main thread sees the bytes in one place or the other.
            self.received
                .store((guest.fifo.length + room) as u8, SeqCst);
            for _ in 0..room {
                if let Some(byte) = self.input.pop() {
                    guest.fifo.push(byte);
                }
            }
            self.admitted.store(admitted - room, SeqCst);
            if self.input.free() >= INPUT / 2 && self.wake_on_room.swap(false, SeqCst) {
                self.wires.wake();
            }
        }
        let before = self.received.swap(guest.fifo.length as u8, SeqCst);
        if before > 0 && self.pauses() {
            self.wires.wake();
        }
    }

    /// The pending interrupt of the highest priority.
    fn pending(&self, guest: &Guest) -> Interrupt {
        let enabled = self.enabled();
        let is_on = |interrupt| enabled.contains(interrupt);
        if is_on(InterruptEnable::LINE) && self.line_error.load(SeqCst) {
            Interrupt::Line
        } else if is_on(InterruptEnable::RECEIVED) && guest.fifo.length > 0 {
            let fifos = guest.fifo_control.contains(FifoControl::ENABLE);
            // No time passes between characters here: what is below the trigger level is late at once.
            if !fifos || guest.fifo.length >= guest.fifo_control.trigger() {
                Interrupt::Received
            } else {
                Interrupt::Timeout
            }
        } else if is_on(InterruptEnable::TRANSMIT) && self.transmit_pending.load(SeqCst) {
            Interrupt::Transmit
        } else if is_on(InterruptEnable::MODEM) && self.modem_changed() {
            Interrupt::Modem
        } else {
            Interrupt::None
        }
    }

    fn read_identification(&self, guest: &Guest) -> u8 {
        let pending = self.pending(guest);
        if pending == Interrupt::Transmit {
            self.transmit_pending.store(false, SeqCst);
        }
        let fifos = guest.fifo_control.contains(FifoControl::ENABLE);
        pending as u8 | if fifos { IIR_FIFOS } else { 0 }
    }

    fn read_line_status(&self, guest: &Guest) -> u8 {
        let mut status = LineStatus::empty();
        status.set(LineStatus::DATA, guest.fifo.length > 0);
        status.set(LineStatus::OVERRUN, self.line_error.swap(false, SeqCst));
        status.set(
            LineStatus::TRANSMIT_EMPTY | LineStatus::IDLE,
            self.can_transmit(),
        );
        status.bits()
    }

    fn read_modem_status(&self) -> u8 {
        let modem = self.modem();
        let mut status = ModemStatus::empty();
        if modem.contains(ModemControl::LOOP) {
            status.set(ModemStatus::CTS, modem.contains(ModemControl::RTS));
            status.set(ModemStatus::DSR, modem.contains(ModemControl::DTR));
            status.set(ModemStatus::RI, modem.contains(ModemControl::OUT1));
            status.set(ModemStatus::DCD, modem.contains(ModemControl::OUT2));
        } else {
            let cts = self.cts.load(SeqCst);
            status = ModemStatus::DCD | ModemStatus::DSR;
            status.set(ModemStatus::CTS, cts);
            status.set(
                ModemStatus::CTS_CHANGED,
                self.cts_seen.swap(cts, SeqCst) != cts,
            );
        }
        status.bits()
    }

    fn transmit(&self, guest: &mut Guest, byte: u8) {
        self.transmit_pending.store(false, SeqCst);
        // Before the byte: who takes it sees the debt.
        self.transmit_owed.store(true, SeqCst);
        if self.modem().contains(ModemControl::LOOP) {
            if guest.fifo.length < guest.depth() {
                guest.fifo.push(byte);
            } else {
                self.line_error.store(true, SeqCst);
            }
            return;
        }
        // A full ring loses the byte, as a full FIFO does: the guest did not look at THRE.
        self.output.push(byte);
        if self.output.free() < CTS_MARGIN {
            self.cts.store(false, SeqCst);
            self.settle_cts();
        }
        if self.wake_on_output.swap(false, SeqCst) {
            self.wires.wake();
        }
    }

    fn write_enable(&self, enable: InterruptEnable) {
        let before = self.enabled();
        if !enable.contains(InterruptEnable::TRANSMIT) {
            self.transmit_pending.store(false, SeqCst);
        } else if !before.contains(InterruptEnable::TRANSMIT) && self.can_transmit() {
            self.transmit_pending.store(true, SeqCst);
        }
        self.enabled.store(enable.bits(), SeqCst);
    }

    fn write_fifo_control(&self, guest: &mut Guest, control: FifoControl) {
        let toggled = (guest.fifo_control ^ control).contains(FifoControl::ENABLE);
        if toggled || control.contains(FifoControl::CLEAR_RECEIVE) {
            guest.fifo = Fifo::default();
        }
        // What was transmitted has left the FIFO: clearing that one has no effect.
        guest.fifo_control = control - (FifoControl::CLEAR_RECEIVE | FifoControl::CLEAR_TRANSMIT);
    }
}

/// The host's side; used by one thread.
impl<W: Wires> EmulatedUart<W> {
    /// What the guest transmitted. After taking from it call [`EmulatedUart::output_taken`].
    pub fn output(&self) -> &Ring {
        &self.output
    }

    /// Tells the guest that there is room in the output ring.
    pub fn output_taken(&self) {
        self.settle_transmit();
        self.settle_cts();
        self.update();
    }

    fn settle_cts(&self) {
        if !self.cts.load(SeqCst) && self.output.free() >= OUTPUT / 2 {
            self.cts.store(true, SeqCst);
        }
    }

    /// Has [`Wires::wake`] called at the next output. Returns whether there is output already.
    pub fn wake_on_output(&self) -> bool {
        self.wake_on_output.store(true, SeqCst);
        !self.output.is_empty()
    }

    /// Bytes that the guest's input can take now.
    pub fn input_room(&self) -> usize {
        self.input.free()
    }

    /// Has [`Wires::wake`] called when half of the input ring is free. Returns whether there is room already.
    pub fn wake_on_room(&self) -> bool {
        self.wake_on_room.store(true, SeqCst);
        self.input.free() > 0
    }

    /// Whether a pause is due: the guest has read a batch to its end. [`Wires::wake`] is called then.
    pub fn pauses(&self) -> bool {
        self.admitted.load(SeqCst) == 0 && self.received.load(SeqCst) == 0
    }

    /// Ends a [pause](EmulatedUart::pauses): the next batch reaches the guest.
    pub fn admit(&self) {
        self.admitted.store(BATCH, SeqCst);
        self.update();
    }

    /// Sends the guest a byte; false if there is no room.
    pub fn send(&self, byte: u8) -> bool {
        let sent = self.input.push(byte);
        self.update();
        sent
    }
}

#[cfg(test)]
mod tests;
