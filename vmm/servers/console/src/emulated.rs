//! Emulated UARTs.
//!
//! The guest's side ([`Uart::read`], [`Uart::write`]) runs in handler threads, the host's side in the main
//! thread. A lock orders handler threads of different CPUs; the main thread never takes it. What both sides
//! need is atomic, and every change of it is followed by `update`. The streams are the same for every kind
//! of UART ([`line`]); its registers are a [`Model`].
//!
//! Transmission is as fast as the ring allows. After a write the transmit *interrupt* is raised when the guest
//! next touches another register or when the main thread takes the bytes, whichever comes first, so that a
//! driver that writes a FIFO's worth per interrupt gets one interrupt for it, not one per byte.
//!
//! Both directions come in batches, because no real line is endlessly fast and drivers rely on that: Linux loops
//! in its interrupt handler as long as there is anything to do, but gives up after some hundred rounds, and no
//! edge follows for what is left then; meanwhile nothing takes received bytes from its buffer of 64 KiB. So a
//! receive FIFO that has been emptied [`line::BATCH`] bytes after the last pause stays empty, and after
//! [`line::TRANSMIT_BATCH`] bytes no transmit interrupt is raised, until the main thread ends the pause
//! ([`Uart::admit`]).
use crate::ring::Ring;
use core::sync::atomic::{AtomicBool, Ordering::SeqCst};
use line::{Fifo, Line};
use spin::mutex::TicketMutex;

pub mod line;
mod ns16550;
mod pl011;

pub use ns16550::Ns16550;
pub use pl011::Pl011;

/// What the emulated UART is wired to.
pub trait Wires: Sync {
    /// The interrupt output rises.
    fn interrupt(&self);
    /// The main thread has something to do for this UART.
    fn wake(&self);
}

/// The registers of a kind of UART. All but [`Model::level`] run under the lock of the guest's side.
pub trait Model: Default + Sync {
    /// Registers that only the guest's side uses.
    type Registers: Default + Send;

    /// Prepares the line as after reset.
    fn reset<W: Wires>(&self, line: &Line<W>);

    /// What the interrupt output should be.
    fn level<W: Wires>(&self, line: &Line<W>) -> bool;

    /// Whether the guest can see that an enabled interrupt is pending.
    fn pending<W: Wires>(&self, line: &Line<W>, guest: &Guest<Self::Registers>) -> bool;

    /// The guest reads a register; the number is anything.
    fn read<W: Wires>(
        &self,
        line: &Line<W>,
        guest: &mut Guest<Self::Registers>,
        register: u16,
    ) -> u32;

    /// The guest writes a register; number and value are anything.
    fn write<W: Wires>(
        &self,
        line: &Line<W>,
        guest: &mut Guest<Self::Registers>,
        register: u16,
        value: u32,
    );

    /// Whether a write to this register sends a byte.
    fn sends(guest: &Guest<Self::Registers>, register: u16) -> bool;

    /// Bytes have entered the receive FIFO.
    fn filled(&self, _guest: &Guest<Self::Registers>, _depth: usize) {}
}

/// What only the guest's side uses.
#[derive(Debug, Default)]
pub struct Guest<R> {
    /// The receive FIFO.
    pub fifo: Fifo,
    /// Registers.
    pub registers: R,
}

/// An emulated UART of any kind.
pub trait Uart: Sync {
    /// The guest reads register `register`, whatever number that is.
    fn read(&self, register: u16) -> u32;

    /// The guest writes register `register`, whatever number that is.
    fn write(&self, register: u16, value: u32);

    /// What the guest transmitted. After taking from it call [`Uart::output_taken`].
    fn output(&self) -> &Ring;

    /// Tells the guest that there is room in the output ring.
    fn output_taken(&self);

    /// Has [`Wires::wake`] called at the next output. Returns whether there is output already.
    fn wake_on_output(&self) -> bool;

    /// Bytes that the guest's input can take now.
    fn input_room(&self) -> usize;

    /// Has [`Wires::wake`] called when half of the input ring is free. Returns whether there is room already.
    fn wake_on_room(&self) -> bool;

    /// Whether a pause is due: the guest has read or written a batch to its end. [`Wires::wake`] is called then.
    fn pauses(&self) -> bool;

    /// Ends a [pause](Uart::pauses): the next batch may be moved.
    fn admit(&self);

    /// Sends the guest a byte; false if there is no room.
    fn send(&self, byte: u8) -> bool;
}

/// An emulated UART with the registers of `M`. Reading and writing registers is for the guest's side, the
/// rest for one thread on the host's.
#[derive(Debug)]
pub struct Emulated<M: Model, W> {
    line: Line<W>,
    model: M,
    guest: TicketMutex<Guest<M::Registers>>,
    /// State of the interrupt output, as last signalled.
    raised: AtomicBool,
}

impl<M: Model, W: Wires> Emulated<M, W> {
    /// A UART after reset.
    pub fn new(wires: W) -> Self {
        let uart = Emulated {
            line: Line::new(wires),
            model: M::default(),
            guest: TicketMutex::default(),
            raised: AtomicBool::new(false),
        };
        uart.model.reset(&uart.line);
        uart
    }

    /// Brings the interrupt output in line with the state. Both sides do so after each of their changes, at
    /// the same time perhaps. Who is last to set `raised` looks at the state again afterwards, so
    /// none can leave an outdated value; at worst an edge is signalled twice.
    fn update(&self) {
        loop {
            let level = self.model.level(&self.line);
            if !self.raised.swap(level, SeqCst) && level {
                self.line.wires.interrupt();
            }
            if self.model.level(&self.line) == level {
                return;
            }
        }
    }

    fn fill(&self, guest: &mut Guest<M::Registers>) {
        if self.line.fill(&mut guest.fifo) {
            self.model.filled(guest, self.line.depth());
        }
    }

    /// Ends an access: the FIFO is topped up, and the interrupt output follows.
    fn finish(&self, guest: &mut Guest<M::Registers>) {
        self.fill(guest);
        // A guest that can see that nothing is pending gets an edge for whatever comes now, even if it
        // came before `update` looks.
        if !self.model.pending(&self.line, guest) {
            self.raised.store(false, SeqCst);
        }
        self.update();
    }
}

impl<M: Model, W: Wires> Uart for Emulated<M, W> {
    fn read(&self, register: u16) -> u32 {
        let mut guest = self.guest.lock();
        self.line.settle_transmit();
        self.fill(&mut guest);
        let value = self.model.read(&self.line, &mut guest, register);
        self.finish(&mut guest);
        value
    }

    fn write(&self, register: u16, value: u32) {
        let mut guest = self.guest.lock();
        if !M::sends(&guest, register) {
            self.line.settle_transmit();
        }
        self.fill(&mut guest);
        self.model.write(&self.line, &mut guest, register, value);
        self.finish(&mut guest);
    }

    fn output(&self) -> &Ring {
        &self.line.output
    }

    fn output_taken(&self) {
        self.line.output_taken();
        self.update();
    }

    fn wake_on_output(&self) -> bool {
        self.line.wake_on_output.store(true, SeqCst);
        !self.line.output.is_empty()
    }

    fn input_room(&self) -> usize {
        self.line.input.free()
    }

    fn wake_on_room(&self) -> bool {
        self.line.wake_on_room.store(true, SeqCst);
        self.line.input.free() > 0
    }

    fn pauses(&self) -> bool {
        self.line.pauses()
    }

    fn admit(&self) {
        self.line.admit();
        self.update();
    }

    fn send(&self, byte: u8) -> bool {
        let sent = self.line.input.push(byte);
        self.update();
        sent
    }
}

#[cfg(test)]
mod tests;
