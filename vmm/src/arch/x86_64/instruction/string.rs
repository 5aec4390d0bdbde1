//! Repetition of string instructions, and string I/O.
//!
//! A repeated instruction is carried out in portions that are bounded by a page; registers are kept as the processor
//! keeps them when an interrupt comes in between, so that the guest goes on with the rest.
use super::fetch::fetch;
use super::mmio::next;
use super::operand::{Memory, linear_address};
use super::{EmulationError, size_of};
use crate::arch::x86_64::state::StatePage;
use crate::memory::{GuestPhys, GuestRam};
use abi::vcpu::x86_64::{Groups, RCX, RDI, RSI};
use iced_x86::{Instruction, OpKind, Register};

const DIRECTION: u64 = 1 << 10;

/// Which pointers an element moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// `rsi`.
    Source,
    /// `rdi`.
    Destination,
    /// Both.
    Both,
}

/// The accumulator of a size.
pub fn accumulator(size: u8) -> Register {
    match size {
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    }
}

/// Progress of a string instruction.
#[derive(Debug)]
pub struct Plan {
    repeated: bool,
    /// Mask of the address size, for `rcx`, `rsi` and `rdi`.
    mask: u64,
    step: u64,
    device: GuestPhys,
    done: u64,
    most: u64,
    next: u64,
    finished: bool,
}

fn set_masked(state: &mut StatePage, index: usize, mask: u64, value: u64) {
    // Addresses of 16 bits leave the rest, those of 32 bits clear it.
    let keep = if mask == 0xffff { state.gpr(index) & !mask } else { 0 };
    state.set_gpr(index, keep | value & mask);
}

impl Plan {
    /// For elements of `size` bytes, of which the first is at `device`.
    pub fn new(
        state: &StatePage,
        instruction: &Instruction,
        bits: u32,
        size: u8,
        device: GuestPhys,
    ) -> Plan {
        let mask = address_mask(instruction);
        let backwards = state.rflags() & DIRECTION != 0;
        let step = if backwards { (size as u64).wrapping_neg() } else { size.into() };
        let offset = device.0 % abi::PAGE_SIZE as u64;
        let room = if backwards { offset } else { abi::PAGE_SIZE as u64 - 1 - offset };
        Plan {
            repeated: instruction.has_rep_prefix() || instruction.has_repne_prefix(),
            mask,
            step,
            device,
            done: 0,
            most: room / u64::from(size) + 1,
            next: next(state.rip(), instruction, bits),
            finished: false,
        }
    }

    /// Whether another element is to be moved now.
    pub fn step(&mut self, state: &StatePage) -> bool {
        if self.repeated {
            self.finished = state.gpr(RCX) & self.mask == 0;
            !self.finished && self.done < self.most
        } else {
            self.finished = self.done == 1;
            !self.finished
        }
    }

    /// Whether no element was moved yet.
    pub fn is_first(&self) -> bool {
        self.done == 0
    }

    /// Where the device's side of the element is.
    pub fn device(&self) -> GuestPhys {
        self.device.plus(self.done.wrapping_mul(self.step))
    }

    /// An element was moved.
    pub fn advance(&mut self, state: &mut StatePage, direction: Direction) {
        if direction != Direction::Destination {
            let next = state.gpr(RSI).wrapping_add(self.step);
            set_masked(state, RSI, self.mask, next);
        }
        if direction != Direction::Source {
            let next = state.gpr(RDI).wrapping_add(self.step);
            set_masked(state, RDI, self.mask, next);
        }
        if self.repeated {
            let left = (state.gpr(RCX) & self.mask).wrapping_sub(1);
            set_masked(state, RCX, self.mask, left);
        }
        self.done += 1;
    }

    /// Groups that changed, when the rest is to be tried again.
    pub fn interrupted(&self) -> Groups {
        Groups::empty()
    }

    /// Groups that changed, at the end of the portion.
    pub fn finish(&self, state: &mut StatePage) -> Groups {
        if !self.finished {
            return self.interrupted();
        }
        state.set_rip(self.next);
        Groups::RIP
    }
}

/// Address size of a string instruction.
fn address_mask(instruction: &Instruction) -> u64 {
    for operand in 0..instruction.op_count() {
        match instruction.op_kind(operand) {
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => return u64::MAX,
            OpKind::MemorySegESI | OpKind::MemoryESEDI => return 0xffff_ffff,
            OpKind::MemorySegSI | OpKind::MemoryESDI => return 0xffff,
            _ => {}
        }
    }
    u64::MAX
}

/// Ports as the string instructions use them.
pub trait PortBus {
    /// Reads `size` bytes.
    fn port_in(&mut self, port: u16, size: u8) -> u32;
    /// Writes `size` bytes.
    fn port_out(&mut self, port: u16, size: u8, value: u32);
    /// Whether the guest's machine came to its end by what was written.
    fn ended(&self) -> bool;
}

/// Emulates the INS or OUTS at the instruction pointer, for `port`. Needs all groups of registers; returns those
/// that changed.
pub fn port_string(
    ram: &GuestRam,
    state: &mut StatePage,
    port: u16,
    bus: &mut impl PortBus,
) -> Result<Groups, EmulationError> {
    use EmulationError::Unsupported;
    use iced_x86::Mnemonic::{Insb, Insd, Insw, Outsb, Outsd, Outsw};
    let fetched = fetch(ram, state)?;
    let instruction = fetched.decode()?;
    let input = match instruction.mnemonic() {
        Insb | Insw | Insd => true,
        Outsb | Outsw | Outsd => false,
        _ => return Err(Unsupported),
    };
    let size = size_of(instruction.memory_size()).ok_or(Unsupported)?;
    let operand = if input { 0 } else { 1 };
    let memory = Memory::of(ram, state);
    // There is no page of a device: the portion is a page's worth.
    let mut plan = Plan::new(state, &instruction, fetched.bits, size, GuestPhys(0));
    plan.most = abi::PAGE_SIZE as u64 / u64::from(size);
    while plan.step(state) && !bus.ended() {
        let linear =
            linear_address(state, &instruction, operand, fetched.bits).ok_or(Unsupported)?;
        let physical = match memory.translate(linear, size, input) {
            Ok(physical) => physical,
            Err(error) if plan.is_first() => return Err(error),
            Err(_) => return Ok(plan.interrupted()),
        };
        let mut bytes = [0; 4];
        let part = &mut bytes[..size.into()];
        // What is no RAM reads as ones and swallows writes: no device expects string I/O.
        if input {
            let value = bus.port_in(port, size).to_le_bytes();
            let _ = ram.write(physical, &value[..size.into()]);
            plan.advance(state, Direction::Destination);
        } else {
            if ram.read(physical, part).is_err() {
                part.fill(0xff);
            }
            bus.port_out(port, size, u32::from_le_bytes(bytes));
            plan.advance(state, Direction::Source);
        }
    }
    Ok(plan.finish(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::instruction::testing::guest;

    struct Ports(Vec<u32>);

    impl PortBus for Ports {
        fn port_in(&mut self, _: u16, _: u8) -> u32 {
            self.0.push(0);
            0x4443_4241
        }

        fn port_out(&mut self, _: u16, _: u8, value: u32) {
            self.0.push(value);
        }

        fn ended(&self) -> bool {
            false
        }
    }

    fn run(code: &[u8], prepare: impl FnOnce(&mut StatePage)) -> (GuestRam, StatePage, Vec<u32>) {
        let (ram, mut state) = guest(code, b"hello");
        prepare(&mut state);
        let mut ports = Ports(vec![]);
        port_string(&ram, &mut state, 0x3f8, &mut ports).unwrap();
        (ram, state, ports.0)
    }

    #[test]
    fn input_and_output() {
        let (_, state, written) = run(&[0xf3, 0x6e], |s| {
            s.set_gpr(RSI, 0x2000);
            s.set_gpr(RCX, 5);
        });
        assert_eq!(written, b"hello".map(u32::from));
        assert_eq!((state.gpr(RSI), state.gpr(RCX), state.rip()), (0x2005, 0, 0x1002));
        // insw, 16-bit addresses: the upper part of the pointer stays.
        let (ram, state, _) = run(&[0x67, 0x66, 0x6d], |s| s.set_gpr(RDI, 0x7_3000));
        assert_eq!(ram.read_u32(GuestPhys(0x3000)), Ok(0x4241));
        assert_eq!((state.gpr(RDI), state.rip()), (0x7_3002, 0x1003));
    }

    #[test]
    fn a_portion_is_a_page() {
        let (_, state, read) = run(&[0xf3, 0x6d], |s| {
            s.set_gpr(RDI, 0x2000);
            s.set_gpr(RCX, 1 << 31);
        });
        assert_eq!((read.len(), state.rip()), (1024, 0x1000));
        assert_eq!(state.gpr(RCX), (1 << 31) - 1024);
    }
}
