//! I/O APIC with 24 pins (Intel 82093AA, version 0x11; EOI of level-triggered interrupts by broadcast).
use super::message::{Delivery, Destination, Message};

/// Where a guest finds it.
pub const BASE: u64 = 0xfec0_0000;
/// Bytes that it occupies.
pub const SIZE: u64 = 0x1000;
/// Number of pins.
pub const PINS: usize = 24;
/// Its ID, also in the MADT.
pub const ID: u8 = 0;

const VERSION: u32 = 0x11 | (PINS as u32 - 1) << 16;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// What a guest can write: not delivery status (bit 12) and remote IRR, no reserved bits.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// Window offsets.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u32,
    id: u32,
    table: [u64; PINS],
    /// Level of each pin.
    lines: u32,
    /// Edges that came while their pin was masked. They are delivered when it is unmasked, so that none
    /// is lost; an 82093AA forgets them, and kernels cope with either.
    edges: u32,
}

impl Default for IoApic {
    fn default() -> IoApic {
        IoApic { select: 0, id: u32::from(ID) << 24, table: [MASKED; PINS], lines: 0, edges: 0 }
    }
}

impl IoApic {
    /// Reads 4 bytes at an offset from [`BASE`].
    pub fn read(&self, offset: u64) -> u32 {
        match offset {
            SELECT => self.select,
            WINDOW => match self.select {
                0 | 2 => self.id,
                1 => VERSION,
                0x10..0x40 => {
                    let entry = self.table[(self.select as usize - 0x10) / 2];
                    (entry >> (self.select % 2 * 32)) as u32
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// Writes 4 bytes. `send` takes interrupts that this lets through.
    pub fn write(&mut self, offset: u64, value: u32, send: impl FnMut(Message)) {
        match (offset, self.select) {
            (SELECT, _) => self.select = value & 0xff,
            (WINDOW, 0) => self.id = value & 0x0f00_0000,
            (WINDOW, 0x10..0x40) => {
                let pin = (self.select as usize - 0x10) / 2;
                let shift = self.select % 2 * 32;
                let entry = &mut self.table[pin];
                let written = *entry & !(0xffff_ffff << shift) | u64::from(value) << shift;
                *entry = *entry & !WRITABLE | written & WRITABLE;
                if *entry & LEVEL == 0 {
                    *entry &= !REMOTE_IRR;
                }
                self.service(pin, send);
            }
            _ => {}
        }
    }

    /// Sets the level of a line. Pins that do not exist are ignored.
    pub fn set_line(&mut self, pin: usize, high: bool, send: impl FnMut(Message)) {
        if pin >= PINS {
            return;
        }
        let bit = 1 << pin;
        if !high {
            self.lines &= !bit;
            if self.table[pin] & LEVEL != 0 {
                self.edges &= !bit;
            }
            return;
        }
        if self.lines & bit == 0 {
            self.lines |= bit;
            self.edges |= bit;
        }
        self.service(pin, send);
    }

    /// A rising edge of a line, as device servers report it.
    pub fn pulse(&mut self, pin: usize, send: impl FnMut(Message)) {
        if pin < PINS {
            self.edges |= 1 << pin;
            self.service(pin, send);
        }
    }

    /// A local APIC ended the level-triggered interrupt `vector`.
    pub fn end_of_interrupt(&mut self, vector: u8, mut send: impl FnMut(Message)) {
        for pin in 0..PINS {
            let entry = &mut self.table[pin];
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.service(pin, &mut send);
            }
        }
    }

    fn service(&mut self, pin: usize, mut send: impl FnMut(Message)) {
        let bit = 1 << pin;
        let entry = &mut self.table[pin];
        if *entry & MASKED != 0 {
            return;
        }
        let level = *entry & LEVEL != 0;
        if level {
            // A pulse on a level-triggered pin counts once, too.
            if (self.lines | self.edges) & bit == 0 || *entry & REMOTE_IRR != 0 {
                return;
            }
        } else if self.edges & bit == 0 {
            return;
        }
        self.edges &= !bit;
        let delivery = Delivery::from_code((*entry >> 8) as u32);
        let with_vector = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        if level && with_vector {
            *entry |= REMOTE_IRR;
        }
        let target = (*entry >> 56) as u32;
        send(Message {
            destination: if *entry & LOGICAL != 0 {
                Destination::Logical(target)
            } else {
                Destination::Physical(target)
            },
            delivery,
            vector: *entry as u8,
            level: level && with_vector,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(io: &mut IoApic, pin: u32, entry: u64, sent: &mut Vec<u8>) {
        for half in 0..2 {
            io.write(SELECT, 0x10 + pin * 2 + half, |_| {});
            let value = (entry >> (half * 32)) as u32;
            io.write(WINDOW, value, |m| sent.push(m.vector));
        }
    }

    #[test]
    fn registers() {
        let mut io = IoApic::default();
        let mut sent = vec![];
        set(&mut io, 23, !REMOTE_IRR, &mut sent);
        assert_eq!((io.read(SELECT), io.read(WINDOW)), (0x3f, 0xff00_0000));
        io.write(SELECT, 0x3e, |_| {});
        assert_eq!(io.read(WINDOW), 0x1_afff);
        io.write(SELECT, 1, |_| {});
        assert_eq!(io.read(WINDOW), 0x17_0011);
        for select in [0x40, 0xff, 0x0f, 3] {
            io.write(SELECT, select, |_| {});
            io.write(WINDOW, 7, |_| {});
            assert_eq!(io.read(WINDOW), 0);
        }
    }

    #[test]
    fn edges_wait_for_the_mask_and_levels_for_the_end() {
        let mut io = IoApic::default();
        let mut sent = vec![];
        io.pulse(4, |_| panic!());
        set(&mut io, 4, 0x34, &mut sent);
        assert_eq!(sent, [0x34]);
        io.set_line(4, true, |m| sent.push(m.vector));
        io.set_line(4, true, |m| sent.push(m.vector));
        assert_eq!(sent, [0x34, 0x34]);

        sent.clear();
        io.set_line(9, true, |_| panic!());
        set(&mut io, 9, 0x50 | LEVEL, &mut sent);
        assert_eq!(sent, [0x50]);
        io.end_of_interrupt(0x51, |_| panic!());
        io.end_of_interrupt(0x50, |m| sent.push(m.vector));
        assert_eq!(sent, [0x50, 0x50]);
        io.set_line(9, false, |_| panic!());
        io.end_of_interrupt(0x50, |_| panic!());
        // Out of range: nothing.
        io.pulse(24, |_| panic!());
        io.pulse(usize::MAX, |_| panic!());
    }
}
