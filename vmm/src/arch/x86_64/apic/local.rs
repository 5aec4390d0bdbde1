//! Local APIC of a vCPU, as xAPIC (memory-mapped) and x2APIC (MSRs) (Intel SDM 3A 11).
//!
//! Registers have the numbers of the x2APIC MSRs minus 0x800, which are the xAPIC's offsets divided by 16.
#[cfg(test)]
mod tests;

use super::mailbox::Address;
use super::message::{Delivery, Destination, Message};
use super::timer::{Mode, Timer};
use super::vectors::VectorSet;

/// Where a guest finds the xAPIC registers. The base cannot be moved.
pub const BASE: u64 = 0xfee0_0000;

/// IA32_APIC_BASE: this is the bootstrap processor.
const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
const BASE_X2APIC: u64 = 1 << 10;
/// IA32_APIC_BASE: enabled.
const BASE_ENABLED: u64 = 1 << 11;

/// Register numbers.
pub mod register {
    #![allow(missing_docs, reason = "the manual's names")]
    pub const ID: u32 = 0x02;
    pub const VERSION: u32 = 0x03;
    pub const TPR: u32 = 0x08;
    pub const PPR: u32 = 0x0a;
    pub const EOI: u32 = 0x0b;
    pub const LDR: u32 = 0x0d;
    pub const DFR: u32 = 0x0e;
    pub const SVR: u32 = 0x0f;
    pub const ISR: u32 = 0x10;
    pub const TMR: u32 = 0x18;
    pub const IRR: u32 = 0x20;
    pub const ESR: u32 = 0x28;
    pub const LVT_CMCI: u32 = 0x2f;
    pub const ICR: u32 = 0x30;
    pub const ICR_HIGH: u32 = 0x31;
    pub const LVT_TIMER: u32 = 0x32;
    pub const LVT_THERMAL: u32 = 0x33;
    pub const LVT_PERFORMANCE: u32 = 0x34;
    pub const LVT_LINT0: u32 = 0x35;
    pub const LVT_LINT1: u32 = 0x36;
    pub const LVT_ERROR: u32 = 0x37;
    pub const TIMER_INITIAL: u32 = 0x38;
    pub const TIMER_CURRENT: u32 = 0x39;
    pub const TIMER_DIVIDE: u32 = 0x3e;
    pub const SELF_IPI: u32 = 0x3f;
}
use register as r;

/// Version 0x14 with six LVT entries and no directed EOI.
const VERSION: u32 = 0x14 | 5 << 16;
const LVT_MASKED: u32 = 1 << 16;
const SVR_ENABLED: u32 = 1 << 8;
/// Error status: a vector below 16 was sent.
const ERROR_SEND_VECTOR: u32 = 1 << 5;
/// Error status: a vector below 16 was received.
const ERROR_RECEIVE_VECTOR: u32 = 1 << 6;
/// Error status: no such register (xAPIC).
const ERROR_REGISTER: u32 = 1 << 7;

/// The register does not exist in this mode, or does not take the value: #GP in x2APIC mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// What a write makes necessary outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The set of deliverable interrupts may have changed.
    Interrupts,
    /// A level-triggered interrupt was ended: tell the I/O APIC.
    EndOfLevel(u8),
    /// The timer's next firing changed.
    Timer,
    /// An interrupt is to be sent.
    Send(Message),
}

/// A local APIC.
#[derive(Clone, Debug)]
pub struct LocalApic {
    id: u32,
    base: u64,
    tpr: u8,
    logical: u32,
    format: u32,
    spurious: u32,
    /// Error status as it reads.
    error: u32,
    /// Errors since the last write to the error status.
    error_next: u32,
    command: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    timer: Timer,
    requested: VectorSet,
    in_service: VectorSet,
    level: VectorSet,
}

impl LocalApic {
    /// The APIC of vCPU `id` after power-on.
    pub fn new(id: u32) -> LocalApic {
        LocalApic {
            id,
            base: BASE | BASE_ENABLED | if id == 0 { BASE_BSP } else { 0 },
            tpr: 0,
            logical: 0,
            format: u32::MAX,
            spurious: 0xff,
            error: 0,
            error_next: 0,
            command: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::default(),
            requested: VectorSet::default(),
            in_service: VectorSet::default(),
            level: VectorSet::default(),
        }
    }

    /// Whether it is in x2APIC mode.
    #[inline]
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    /// Whether the xAPIC's registers are in memory.
    pub fn is_mapped(&self) -> bool {
        self.base & (BASE_ENABLED | BASE_X2APIC) == BASE_ENABLED
    }

    /// The timer.
    #[inline]
    pub fn timer(&self) -> &Timer {
        &self.timer
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Sets IA32_APIC_BASE. Refuses another address, reserved bits, and the mode changes that the
    /// processor refuses (Intel SDM 3A 11.12.5).
    pub fn set_base(&mut self, value: u64) -> Result<(), Refused> {
        let mode = |base: u64| base & (BASE_ENABLED | BASE_X2APIC);
        if value & !(BASE_ENABLED | BASE_X2APIC | BASE_BSP) != BASE {
            return Err(Refused);
        }
        match (mode(self.base), mode(value)) {
            (_, BASE_X2APIC) | (0, X2APIC_ON) | (X2APIC_ON, BASE_ENABLED) => return Err(Refused),
            (old, new) if old != new => {
                let bsp = self.base & BASE_BSP;
                if new == 0 {
                    *self = LocalApic::new(self.id);
                }
                if new == X2APIC_ON {
                    self.logical = self.x2apic_logical();
                    self.command &= 0xffff_ffff;
                }
                self.base = BASE | bsp | new;
            }
            _ => {}
        }
        Ok(())
    }

    /// INIT: as after power-on, but the mode stays (Intel SDM 3A 11.4.7.3, 11.12.5.1).
    pub fn init(&mut self) {
        let base = self.base;
        *self = LocalApic::new(self.id);
        self.base = base;
        if self.is_x2apic() {
            self.logical = self.x2apic_logical();
        }
    }

    fn x2apic_logical(&self) -> u32 {
        (self.id >> 4) << 16 | 1 << (self.id & 15)
    }

    fn enabled(&self) -> bool {
        self.base & BASE_ENABLED != 0 && self.spurious & SVR_ENABLED != 0
    }

    /// Processor priority: what an interrupt has to exceed by its class.
    fn priority(&self) -> u8 {
        let service = self.in_service.highest().unwrap_or(0);
        if self.tpr >> 4 >= service >> 4 { self.tpr } else { service & 0xf0 }
    }

    /// The interrupt that the processor should take next, if there is one.
    #[inline]
    pub fn pending(&self) -> Option<u8> {
        let vector = self.requested.highest()?;
        (self.enabled() && vector >> 4 > self.priority() >> 4).then_some(vector)
    }

    /// The processor takes the pending interrupt.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.requested.remove(vector);
        self.in_service.insert(vector);
        Some(vector)
    }

    /// Whether the EOI of `vector` would have no effect but to end it: nothing else waits, and the I/O APIC
    /// does not want to know.
    pub fn eoi_is_simple(&self, vector: u8) -> bool {
        !self.has_requests() && !self.level.contains(vector)
    }

    /// Whether any interrupt waits, deliverable or not.
    pub fn has_requests(&self) -> bool {
        self.requested.highest().is_some()
    }

    /// Ends the interrupt in service with the highest priority.
    #[inline]
    pub fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.in_service.highest() else {
            return Effect::None;
        };
        self.in_service.remove(vector);
        if self.level.contains(vector) { Effect::EndOfLevel(vector) } else { Effect::Interrupts }
    }

    /// Takes an interrupt with a vector. Without a software-enabled APIC it is lost, as on the processor.
    pub fn accept(&mut self, vector: u8, level: bool) {
        if !self.enabled() {
            return;
        }
        if vector < 16 {
            self.raise_error(ERROR_RECEIVE_VECTOR);
            return;
        }
        self.requested.insert(vector);
        if level {
            self.level.insert(vector);
        } else {
            self.level.remove(vector);
        }
    }

    /// How it is addressed.
    pub fn address(&self) -> Address {
        Address {
            logical: self.logical,
            x2apic: self.is_x2apic(),
            flat: self.format >> 28 == 0xf,
            present: self.base & BASE_ENABLED != 0,
            enabled: self.enabled(),
        }
    }

    /// Fires the timer if it is due at `now`.
    pub fn expire(&mut self, now: u64) {
        if self.timer.expire(now) {
            self.fire(0);
        }
    }

    fn fire(&mut self, entry: usize) {
        let lvt = self.lvt[entry];
        if lvt & LVT_MASKED == 0 {
            self.accept(lvt as u8, false);
        }
    }

    fn raise_error(&mut self, error: u32) {
        if self.error_next & error == 0 {
            self.error_next |= error;
            let lvt = self.lvt[5];
            // An error entry with a bad vector does not raise errors for ever.
            if lvt & LVT_MASKED == 0 && lvt as u8 >= 16 {
                self.fire(5);
            }
        }
    }

    /// Reads a register as 32 bits; the ICR's upper half is [`register::ICR_HIGH`].
    pub fn read(&self, number: u32, now: u64) -> Result<u32, Refused> {
        let x2apic = self.is_x2apic();
        Ok(match number {
            r::ID if x2apic => self.id,
            r::ID => self.id << 24,
            r::VERSION => VERSION,
            r::TPR => self.tpr.into(),
            r::PPR => self.priority().into(),
            r::LDR => self.logical,
            r::DFR if !x2apic => self.format,
            r::SVR => self.spurious,
            0x10..0x18 => self.in_service.register((number - r::ISR) as usize),
            0x18..0x20 => self.level.register((number - r::TMR) as usize),
            0x20..0x28 => self.requested.register((number - r::IRR) as usize),
            r::ESR => self.error,
            r::ICR => self.command as u32,
            r::ICR_HIGH if !x2apic => (self.command >> 32) as u32,
            0x32..=0x37 => self.lvt[(number - r::LVT_TIMER) as usize],
            r::TIMER_INITIAL => self.timer.initial(),
            r::TIMER_CURRENT => self.timer.current(now),
            r::TIMER_DIVIDE => self.timer.divide(),
            // The arbitration priority and remote read registers of old xAPICs.
            0x09 | 0x0c if !x2apic => 0,
            _ => return Err(Refused),
        })
    }

    /// The whole interrupt command register.
    pub fn command(&self) -> u64 {
        self.command
    }

    /// Writes a register of an xAPIC.
    pub fn write_mapped(&mut self, number: u32, value: u32, now: u64) -> Effect {
        match number {
            r::ID => Effect::None,
            r::EOI => self.end_of_interrupt(),
            r::LDR => {
                self.logical = value & 0xff00_0000;
                Effect::None
            }
            r::DFR => {
                self.format = value | 0x0fff_ffff;
                Effect::None
            }
            r::ESR => {
                self.error = core::mem::take(&mut self.error_next);
                Effect::None
            }
            r::ICR_HIGH => {
                self.command = self.command & 0xffff_ffff | u64::from(value) << 32;
                Effect::None
            }
            r::ICR => {
                let high = self.command >> 56;
                self.send(self.command & !0xffff_ffff | u64::from(value), high as u32)
            }
            _ => match self.write_common(number, value, now) {
                Ok(effect) => effect,
                Err(Refused) => {
                    self.raise_error(ERROR_REGISTER);
                    Effect::Interrupts
                }
            },
        }
    }

    /// Writes a register of an x2APIC. Only the ICR has 64 bits.
    #[inline]
    pub fn write_msr(&mut self, number: u32, value: u64, now: u64) -> Result<Effect, Refused> {
        match number {
            r::EOI if value == 0 => return Ok(self.end_of_interrupt()),
            r::ICR => {
                const RESERVED: u64 = 0xffff_ffff & !(0x000c_dfff);
                if value & RESERVED != 0 {
                    return Err(Refused);
                }
                return Ok(self.send(value, (value >> 32) as u32));
            }
            _ if value >> 32 != 0 => return Err(Refused),
            r::ESR if value == 0 => {
                self.error = core::mem::take(&mut self.error_next);
                return Ok(Effect::None);
            }
            r::SELF_IPI if value < 256 => {
                return Ok(Effect::Send(Message {
                    destination: Destination::Itself,
                    delivery: Delivery::Fixed,
                    vector: value as u8,
                    level: false,
                }));
            }
            r::EOI | r::ESR | r::SELF_IPI | r::LDR | r::ID => return Err(Refused),
            r::TPR if value > 0xff => return Err(Refused),
            _ => {}
        }
        self.write_common(number, value as u32, now)
    }

    /// Registers that both modes write alike.
    fn write_common(&mut self, number: u32, value: u32, now: u64) -> Result<Effect, Refused> {
        match number {
            r::TPR => {
                self.tpr = value as u8;
                Ok(Effect::Interrupts)
            }
            r::SVR => {
                // Neither focus checking nor directed EOI.
                self.spurious = value & 0x1ff;
                if self.spurious & SVR_ENABLED == 0 {
                    for entry in &mut self.lvt {
                        *entry |= LVT_MASKED;
                    }
                }
                Ok(Effect::Interrupts)
            }
            0x32..=0x37 => Ok(self.set_lvt((number - r::LVT_TIMER) as usize, value, now)),
            r::TIMER_INITIAL => {
                self.timer.set_initial(value, now);
                Ok(Effect::Timer)
            }
            r::TIMER_DIVIDE => {
                self.timer.set_divide(value, now);
                Ok(Effect::Timer)
            }
            _ => Err(Refused),
        }
    }

    fn set_lvt(&mut self, entry: usize, value: u32, now: u64) -> Effect {
        // Vector, delivery mode, polarity and trigger of LINT pins, mask, timer mode.
        const WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
        let mut value = value & WRITABLE[entry];
        if self.spurious & SVR_ENABLED == 0 {
            value |= LVT_MASKED;
        }
        self.lvt[entry] = value;
        if entry == 0 {
            self.timer.set_mode(Mode::of(value), now);
            return Effect::Timer;
        }
        Effect::None
    }

    /// IA32_TSC_DEADLINE.
    #[inline]
    pub fn set_deadline(&mut self, tsc: u64) {
        self.timer.set_deadline(tsc);
    }

    /// The guest has moved its TSC on by this much.
    pub fn move_clock(&mut self, by: u64) {
        self.timer.move_clock(by);
    }

    fn send(&mut self, command: u64, target: u32) -> Effect {
        // The delivery status is never "pending".
        self.command = command & !(1 << 12);
        let low = command as u32;
        let delivery = Delivery::from_code(low >> 8);
        let vector = low as u8;
        let destination = match low >> 18 & 3 {
            0 if low & 1 << 11 != 0 => Destination::Logical(target),
            0 => Destination::Physical(target),
            1 => Destination::Itself,
            2 => Destination::All,
            _ => Destination::Others,
        };
        let with_vector = matches!(delivery, Delivery::Fixed | Delivery::LowestPriority);
        if with_vector && vector < 16 {
            self.raise_error(ERROR_SEND_VECTOR);
            return Effect::Interrupts;
        }
        // The shorthand is for interrupts with vectors only (Intel SDM 3A table 11-3).
        if destination == Destination::Itself && !with_vector {
            return Effect::None;
        }
        // INIT level de-assert: for APICs of the past.
        if delivery == Delivery::Init && low & (1 << 15 | 1 << 14) == 1 << 15 {
            return Effect::None;
        }
        Effect::Send(Message { destination, delivery, vector, level: false })
    }
}

/// Mode bits of x2APIC mode.
const X2APIC_ON: u64 = BASE_ENABLED | BASE_X2APIC;
