//! The registers of an emulated PL011, revision r1p5.
//!
//! The transmit FIFO is the end of the output ring: it holds what exceeds the rest. The receive timeout
//! interrupt comes at once, because no time passes between bytes here. Both receive interrupts are
//! latches: set when bytes enter the FIFO or some are left by a read, cleared by the guest or when their cause has
//! gone. Output flows whether the UART is on or not: early consoles rely on firmware that has switched it on.
use super::line::{Fifo, Line};
use super::{Guest, Model, Wires};
use crate::registers::pl011::*;
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// A PL011: what both sides use.
#[derive(Debug, Default)]
pub struct Pl011 {
    /// IMSC.
    enabled: AtomicU32,
    /// RIS, as far as it does not follow from the line. Changed under the lock.
    latched: AtomicU32,
}

/// What only the guest's side uses.
#[derive(Debug)]
pub struct Registers {
    control: Control,
    line_control: LineControl,
    levels: Levels,
    /// ILPR, IBRD, FBRD, DMACR: kept and of no effect.
    inert: [u32; 4],
    /// RSR.
    status: u32,
    /// The byte that is read next comes after an overrun.
    overrun: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            control: Control::TRANSMIT | Control::RECEIVE,
            line_control: LineControl::empty(),
            levels: Levels::RESET,
            inert: [0; 4],
            status: 0,
            overrun: false,
        }
    }
}

impl Registers {
    fn depth(&self) -> usize {
        if self.line_control.contains(LineControl::FIFOS) { FIFO } else { 1 }
    }

    /// A register that is kept and has no effect, and its bits.
    fn inert(&mut self, register: u16) -> Option<(&mut u32, u32)> {
        let (index, mask) = match register {
            ILPR => (0, 0xff),
            IBRD => (1, 0xffff),
            FBRD => (2, 0x3f),
            DMACR => (3, 7),
            _ => return None,
        };
        Some((&mut self.inert[index], mask))
    }
}

impl Pl011 {
    fn enabled(&self) -> Interrupts {
        Interrupts::from_bits_truncate(self.enabled.load(SeqCst))
    }

    fn latch(&self, interrupt: Interrupts, on: bool) {
        if on {
            self.latched.fetch_or(interrupt.bits(), SeqCst);
        } else {
            self.latched.fetch_and(!interrupt.bits(), SeqCst);
        }
    }

    /// RIS.
    fn raw<W: Wires>(&self, line: &Line<W>) -> Interrupts {
        let mut raw = Interrupts::from_bits_truncate(self.latched.load(SeqCst));
        raw.set(Interrupts::TRANSMIT, line.transmit_pending());
        raw.set(Interrupts::CTS, line.cts_changed());
        raw
    }

    fn flags<W: Wires>(&self, line: &Line<W>, guest: &Guest<Registers>) -> Flags {
        let control = guest.registers.control;
        let mut flags = Flags::empty();
        if control.contains(Control::LOOP) {
            flags.set(Flags::CTS, control.contains(Control::RTS));
            flags.set(Flags::DSR, control.contains(Control::DTR));
            flags.set(Flags::DCD, control.contains(Control::OUT1));
            flags.set(Flags::RI, control.contains(Control::OUT2));
        } else {
            flags = Flags::DSR | Flags::DCD;
            flags.set(Flags::CTS, line.cts());
        }
        flags.set(Flags::RECEIVE_EMPTY, guest.fifo.is_empty());
        flags.set(Flags::RECEIVE_FULL, guest.fifo.len() >= line.depth());
        let room = line.room();
        let empty = room >= line.depth();
        flags.set(Flags::TRANSMIT_EMPTY, empty);
        flags.set(Flags::BUSY, !empty);
        flags.set(Flags::TRANSMIT_FULL, room == 0);
        flags
    }

    fn read_data<W: Wires>(&self, line: &Line<W>, guest: &mut Guest<Registers>) -> u32 {
        if guest.fifo.is_empty() {
            return 0;
        }
        let mut value = guest.fifo.pop().into();
        if core::mem::take(&mut guest.registers.overrun) {
            value |= DATA_OVERRUN;
        }
        self.filled(guest, line.depth());
        value
    }

    fn transmit<W: Wires>(&self, line: &Line<W>, guest: &mut Guest<Registers>, byte: u8) {
        if !guest.registers.control.contains(Control::LOOP) {
            return line.transmit(byte);
        }
        line.owe_transmit();
        if guest.fifo.len() < line.depth() {
            guest.fifo.push(byte);
            self.filled(guest, line.depth());
        } else {
            guest.registers.overrun = true;
            guest.registers.status |= STATUS_OVERRUN;
            self.latch(Interrupts::OVERRUN, true);
        }
    }

    /// Follows a change of the FIFOs' depth or levels.
    fn settle_levels<W: Wires>(line: &Line<W>, registers: &Registers) {
        let depth = registers.depth();
        line.set_depth(depth);
        line.set_transmit_room(depth - registers.levels.transmit(depth));
    }

    fn write_line_control<W: Wires>(
        &self,
        line: &Line<W>,
        guest: &mut Guest<Registers>,
        value: LineControl,
    ) {
        let before = guest.registers.depth();
        guest.registers.line_control = value;
        if guest.registers.depth() != before {
            guest.fifo = Fifo::default();
            self.latch(Interrupts::RECEIVE | Interrupts::TIMEOUT, false);
            Self::settle_levels(line, &guest.registers);
        }
    }

    fn write_control<W: Wires>(line: &Line<W>, registers: &mut Registers, control: Control) {
        registers.control = control;
        let on = Control::ENABLE | Control::RECEIVE;
        let asked = control.intersects(Control::RTS | Control::AUTO_RTS);
        line.set_open(control.contains(on) && asked && !control.contains(Control::LOOP));
    }

    fn clear<W: Wires>(&self, line: &Line<W>, interrupts: Interrupts) {
        self.latch(interrupts, false);
        if interrupts.contains(Interrupts::TRANSMIT) {
            line.set_transmit_pending(false);
        }
        if interrupts.contains(Interrupts::CTS) {
            line.see_cts();
        }
    }
}

impl Model for Pl011 {
    type Registers = Registers;

    fn reset<W: Wires>(&self, line: &Line<W>) {
        Self::settle_levels(line, &Registers::default());
    }

    fn level<W: Wires>(&self, line: &Line<W>) -> bool {
        let mut raw = self.raw(line);
        if line.can_fill() {
            raw |= Interrupts::RECEIVE | Interrupts::TIMEOUT;
        }
        raw.intersects(self.enabled())
    }

    fn pending<W: Wires>(&self, line: &Line<W>, _guest: &Guest<Registers>) -> bool {
        self.raw(line).intersects(self.enabled())
    }

    fn read<W: Wires>(&self, line: &Line<W>, guest: &mut Guest<Registers>, register: u16) -> u32 {
        match register {
            DR => self.read_data(line, guest),
            RSR_ECR => guest.registers.status,
            FR => self.flags(line, guest).bits(),
            LCR_H => guest.registers.line_control.bits(),
            CR => guest.registers.control.bits(),
            IFLS => guest.registers.levels.0,
            IMSC => self.enabled().bits(),
            RIS => self.raw(line).bits(),
            MIS => (self.raw(line) & self.enabled()).bits(),
            _ => match (guest.registers.inert(register), register.checked_sub(ID)) {
                (Some((value, _)), _) => *value,
                (None, Some(id)) => IDS.get(usize::from(id)).copied().unwrap_or(0).into(),
                (None, None) => 0,
            },
        }
    }

    fn write<W: Wires>(
        &self,
        line: &Line<W>,
        guest: &mut Guest<Registers>,
        register: u16,
        value: u32,
    ) {
        let registers = &mut guest.registers;
        match register {
            DR => self.transmit(line, guest, value as u8),
            RSR_ECR => registers.status = 0,
            LCR_H => self.write_line_control(line, guest, LineControl::from_bits_truncate(value)),
            CR => Self::write_control(line, registers, Control::from_bits_truncate(value)),
            IFLS => {
                registers.levels = Levels(value & 0x3f);
                Self::settle_levels(line, registers);
            }
            IMSC => {
                let enabled = Interrupts::from_bits_truncate(value);
                self.enabled.store(enabled.bits(), SeqCst);
            }
            ICR => self.clear(line, Interrupts::from_bits_truncate(value)),
            _ => {
                if let Some((inert, mask)) = registers.inert(register) {
                    *inert = value & mask;
                }
            }
        }
    }

    fn sends(_guest: &Guest<Registers>, register: u16) -> bool {
        register == DR
    }

    fn filled(&self, guest: &Guest<Registers>, depth: usize) {
        let length = guest.fifo.len();
        let level = guest.registers.levels.receive(depth);
        self.latch(Interrupts::RECEIVE, length >= level);
        self.latch(Interrupts::TIMEOUT, length > 0);
    }
}
