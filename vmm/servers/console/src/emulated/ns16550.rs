//! The registers of an emulated 16550A. THRE is set while a whole FIFO fits into the output ring.
use super::line::{Fifo, Line};
use super::{Guest, Model, Wires};
use crate::registers::ns16550::*;
use core::sync::atomic::{AtomicBool, AtomicU8, Ordering::SeqCst};

/// A 16550A: what both sides use.
#[derive(Debug, Default)]
pub struct Ns16550 {
    /// IER.
    enabled: AtomicU8,
    /// MCR.
    modem: AtomicU8,
    /// A line status error waits to be read.
    line_error: AtomicBool,
}

/// What only the guest's side uses.
#[derive(Debug)]
pub struct Registers {
    fifo_control: FifoControl,
    line_control: LineControl,
    divisor: [u8; 2],
    scratch: u8,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            fifo_control: FifoControl::empty(),
            line_control: LineControl::empty(),
            divisor: [12, 0],
            scratch: 0,
        }
    }
}

impl Registers {
    fn has_fifos(&self) -> bool {
        self.fifo_control.contains(FifoControl::ENABLE)
    }

    fn shows_divisor(&self) -> bool {
        self.line_control.contains(LineControl::DIVISOR)
    }
}

impl Ns16550 {
    fn enabled(&self) -> InterruptEnable {
        InterruptEnable::from_bits_truncate(self.enabled.load(SeqCst))
    }

    fn modem(&self) -> ModemControl {
        ModemControl::from_bits_truncate(self.modem.load(SeqCst))
    }

    /// The pending interrupt of the highest priority.
    fn interrupt<W: Wires>(&self, line: &Line<W>, guest: &Guest<Registers>) -> Interrupt {
        let enabled = self.enabled();
        let is_on = |interrupt| enabled.contains(interrupt);
        if is_on(InterruptEnable::LINE) && self.line_error.load(SeqCst) {
            Interrupt::Line
        } else if is_on(InterruptEnable::RECEIVED) && !guest.fifo.is_empty() {
            let registers = &guest.registers;
            // No time passes between characters here: what is below the trigger level is late at once.
            if !registers.has_fifos() || guest.fifo.len() >= registers.fifo_control.trigger() {
                Interrupt::Received
            } else {
                Interrupt::Timeout
            }
        } else if is_on(InterruptEnable::TRANSMIT) && line.transmit_pending() {
            Interrupt::Transmit
        } else if is_on(InterruptEnable::MODEM) && line.cts_changed() {
            Interrupt::Modem
        } else {
            Interrupt::None
        }
    }

    fn read_identification<W: Wires>(&self, line: &Line<W>, guest: &Guest<Registers>) -> u8 {
        let interrupt = self.interrupt(line, guest);
        if interrupt == Interrupt::Transmit {
            line.set_transmit_pending(false);
        }
        let fifos = guest.registers.has_fifos();
        interrupt as u8 | if fifos { IIR_FIFOS } else { 0 }
    }

    fn read_line_status<W: Wires>(&self, line: &Line<W>, guest: &Guest<Registers>) -> u8 {
        let mut status = LineStatus::empty();
        status.set(LineStatus::DATA, !guest.fifo.is_empty());
        status.set(LineStatus::OVERRUN, self.line_error.swap(false, SeqCst));
        status.set(LineStatus::TRANSMIT_EMPTY | LineStatus::IDLE, line.can_transmit());
        status.bits()
    }

    fn read_modem_status<W: Wires>(&self, line: &Line<W>) -> u8 {
        let modem = self.modem();
        let mut status = ModemStatus::empty();
        if modem.contains(ModemControl::LOOP) {
            status.set(ModemStatus::CTS, modem.contains(ModemControl::RTS));
            status.set(ModemStatus::DSR, modem.contains(ModemControl::DTR));
            status.set(ModemStatus::RI, modem.contains(ModemControl::OUT1));
            status.set(ModemStatus::DCD, modem.contains(ModemControl::OUT2));
        } else {
            let (cts, changed) = line.see_cts();
            status = ModemStatus::DCD | ModemStatus::DSR;
            status.set(ModemStatus::CTS, cts);
            status.set(ModemStatus::CTS_CHANGED, changed);
        }
        status.bits()
    }

    fn transmit<W: Wires>(&self, line: &Line<W>, guest: &mut Guest<Registers>, byte: u8) {
        if !self.modem().contains(ModemControl::LOOP) {
            return line.transmit(byte);
        }
        line.owe_transmit();
        if guest.fifo.len() < line.depth() {
            guest.fifo.push(byte);
        } else {
            self.line_error.store(true, SeqCst);
        }
    }

    fn write_enable<W: Wires>(&self, line: &Line<W>, enable: InterruptEnable) {
        let before = self.enabled();
        if !enable.contains(InterruptEnable::TRANSMIT) {
            line.set_transmit_pending(false);
        } else if !before.contains(InterruptEnable::TRANSMIT) && line.can_transmit() {
            line.set_transmit_pending(true);
        }
        self.enabled.store(enable.bits(), SeqCst);
    }

    fn write_modem<W: Wires>(&self, line: &Line<W>, modem: ModemControl) {
        self.modem.store(modem.bits(), SeqCst);
        line.set_open(modem.contains(ModemControl::RTS) && !modem.contains(ModemControl::LOOP));
    }

    fn write_fifo_control<W: Wires>(
        line: &Line<W>,
        guest: &mut Guest<Registers>,
        control: FifoControl,
    ) {
        let before = guest.registers.has_fifos();
        // What was transmitted has left the FIFO: clearing that one has no effect.
        guest.registers.fifo_control =
            control - (FifoControl::CLEAR_RECEIVE | FifoControl::CLEAR_TRANSMIT);
        let fifos = guest.registers.has_fifos();
        if before != fifos || control.contains(FifoControl::CLEAR_RECEIVE) {
            guest.fifo = Fifo::default();
        }
        line.set_depth(if fifos { FIFO } else { 1 });
    }
}

impl Model for Ns16550 {
    type Registers = Registers;

    fn reset<W: Wires>(&self, line: &Line<W>) {
        line.set_depth(1);
        line.set_transmit_room(FIFO);
    }

    fn level<W: Wires>(&self, line: &Line<W>) -> bool {
        let modem = self.modem();
        if !modem.contains(ModemControl::OUT2) || modem.contains(ModemControl::LOOP) {
            return false;
        }
        let enabled = self.enabled();
        let data = || line.received() > 0 || line.can_fill();
        (enabled.contains(InterruptEnable::RECEIVED) && data())
            || (enabled.contains(InterruptEnable::TRANSMIT) && line.transmit_pending())
            || (enabled.contains(InterruptEnable::MODEM) && line.cts_changed())
            || (enabled.contains(InterruptEnable::LINE) && self.line_error.load(SeqCst))
    }

    fn pending<W: Wires>(&self, line: &Line<W>, guest: &Guest<Registers>) -> bool {
        self.interrupt(line, guest) != Interrupt::None
    }

    fn read<W: Wires>(&self, line: &Line<W>, guest: &mut Guest<Registers>, register: u16) -> u32 {
        let registers = &guest.registers;
        let value = match register {
            DATA | IER if registers.shows_divisor() => registers.divisor[usize::from(register)],
            DATA => guest.fifo.pop(),
            IER => self.enabled().bits(),
            IIR_FCR => self.read_identification(line, guest),
            LCR => registers.line_control.bits(),
            MCR => self.modem().bits(),
            LSR => self.read_line_status(line, guest),
            MSR => self.read_modem_status(line),
            SCRATCH => registers.scratch,
            _ => 0xff,
        };
        value.into()
    }

    fn write<W: Wires>(
        &self,
        line: &Line<W>,
        guest: &mut Guest<Registers>,
        register: u16,
        value: u32,
    ) {
        let value = value as u8;
        let registers = &mut guest.registers;
        match register {
            DATA | IER if registers.shows_divisor() => {
                registers.divisor[usize::from(register)] = value;
            }
            DATA => self.transmit(line, guest, value),
            IER => self.write_enable(line, InterruptEnable::from_bits_truncate(value)),
            IIR_FCR => {
                Self::write_fifo_control(line, guest, FifoControl::from_bits_truncate(value));
            }
            LCR => registers.line_control = LineControl::from_bits_retain(value),
            MCR => self.write_modem(line, ModemControl::from_bits_truncate(value)),
            SCRATCH => registers.scratch = value,
            // LSR and MSR are read-only.
            _ => {}
        }
    }

    fn sends(guest: &Guest<Registers>, register: u16) -> bool {
        register == DATA && !guest.registers.shows_divisor()
    }
}
