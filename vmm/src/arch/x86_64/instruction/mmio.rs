//! Instructions that access device memory.
use super::arithmetic::{Operation, compute};
use super::fetch::fetch;
use super::operand::{Memory, Operand, linear_address};
use super::string::{self, Direction};
use super::{EmulationError, size_of};
use crate::arch::x86_64::state::StatePage;
use crate::bits::{sign_extend, truncate};
use crate::memory::{GuestPhys, GuestRam};
use abi::vcpu::x86_64::Groups;
use iced_x86::{Instruction, Mnemonic, OpKind};

/// The devices behind guest-physical addresses that are no RAM. Sizes are 1, 2, 4 or 8.
pub trait Bus {
    /// Reads.
    fn read(&mut self, at: GuestPhys, size: u8) -> u64;
    /// Writes.
    fn write(&mut self, at: GuestPhys, size: u8, value: u64);
}

/// The access that caused the exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Guest-physical address.
    pub at: GuestPhys,
    /// A write, or a read before a write.
    pub write: bool,
}

fn is_memory(kind: OpKind) -> bool {
    kind == OpKind::Memory
}

/// Emulates the instruction at the guest's instruction pointer, which accessed device memory. Needs all groups of
/// registers; returns the groups that changed.
pub fn emulate(
    ram: &GuestRam,
    state: &mut StatePage,
    fault: Fault,
    bus: &mut impl Bus,
) -> Result<Groups, EmulationError> {
    let fetched = fetch(ram, state)?;
    let instruction = fetched.decode()?;
    let done = match instruction.mnemonic() {
        Mnemonic::Movsb
        | Mnemonic::Movsw
        | Mnemonic::Movsd
        | Mnemonic::Movsq
        | Mnemonic::Stosb
        | Mnemonic::Stosw
        | Mnemonic::Stosd
        | Mnemonic::Stosq
        | Mnemonic::Lodsb
        | Mnemonic::Lodsw
        | Mnemonic::Lodsd
        | Mnemonic::Lodsq => {
            let memory = Memory::of(ram, state);
            return repeat(&memory, state, &instruction, fetched.bits, fault, bus);
        }
        _ => single(state, &instruction, fault.at, bus)?,
    };
    state.set_rip(next(state.rip(), &instruction, fetched.bits));
    Ok(done | Groups::RIP)
}

/// The address behind an instruction.
pub fn next(rip: u64, instruction: &Instruction, bits: u32) -> u64 {
    let next = rip.wrapping_add(instruction.len() as u64);
    match bits {
        64 => next,
        32 => next & 0xffff_ffff,
        _ => next & 0xffff,
    }
}

/// Value of a register or immediate operand.
fn value(
    state: &StatePage,
    instruction: &Instruction,
    operand: u32,
) -> Result<u64, EmulationError> {
    match instruction.op_kind(operand) {
        OpKind::Register => Operand::of(instruction.op_register(operand))
            .map(|register| register.read(state))
            .ok_or(EmulationError::Unsupported),
        OpKind::Immediate8
        | OpKind::Immediate16
        | OpKind::Immediate32
        | OpKind::Immediate64
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64
        | OpKind::Immediate32to64 => Ok(instruction.immediate(operand)),
        _ => Err(EmulationError::Unsupported),
    }
}

fn single(
    state: &mut StatePage,
    instruction: &Instruction,
    at: GuestPhys,
    bus: &mut impl Bus,
) -> Result<Groups, EmulationError> {
    use EmulationError::Unsupported;
    let size = size_of(instruction.memory_size()).ok_or(Unsupported)?;
    let to_memory = is_memory(instruction.op0_kind());
    let register = |operand| Operand::of(instruction.op_register(operand)).ok_or(Unsupported);
    let from_memory = instruction.op_count() > 1 && is_memory(instruction.op1_kind());
    if !to_memory && !from_memory {
        return Err(Unsupported);
    }
    let operation = match instruction.mnemonic() {
        Mnemonic::Mov if to_memory => {
            bus.write(at, size, truncate(value(state, instruction, 1)?, size));
            return Ok(Groups::empty());
        }
        Mnemonic::Mov | Mnemonic::Movzx => {
            let target = register(0)?;
            target.write(state, truncate(bus.read(at, size), size));
            return Ok(target.group());
        }
        Mnemonic::Movsx | Mnemonic::Movsxd if !to_memory => {
            let target = register(0)?;
            target.write(state, sign_extend(bus.read(at, size), size));
            return Ok(target.group());
        }
        Mnemonic::Xchg => {
            let other = register(if to_memory { 1 } else { 0 })?;
            let old = bus.read(at, size);
            bus.write(at, size, other.read(state));
            other.write(state, old);
            return Ok(other.group());
        }
        Mnemonic::Not if to_memory => {
            let old = bus.read(at, size);
            bus.write(at, size, truncate(!old, size));
            return Ok(Groups::empty());
        }
        Mnemonic::Add => Operation::Add,
        Mnemonic::Sub | Mnemonic::Cmp => Operation::Sub,
        Mnemonic::And | Mnemonic::Test => Operation::And,
        Mnemonic::Or => Operation::Or,
        Mnemonic::Xor => Operation::Xor,
        _ => return Err(Unsupported),
    };
    let keep = !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test);
    let flags = state.rflags();
    let new = if to_memory {
        let other = value(state, instruction, 1)?;
        let (result, new) = compute(operation, bus.read(at, size), other, size, flags);
        if keep {
            bus.write(at, size, result);
        }
        new
    } else {
        let target = register(0)?;
        let (result, new) = compute(operation, target.read(state), bus.read(at, size), size, flags);
        if keep {
            target.write(state, result);
        }
        new
    };
    state.set_rflags(new);
    Ok(Groups::RSP_RFLAGS)
}

/// MOVS, STOS and LODS with one side in device memory. The device's side stays in the page of the fault.
fn repeat(
    memory: &Memory<'_>,
    state: &mut StatePage,
    instruction: &Instruction,
    bits: u32,
    fault: Fault,
    bus: &mut impl Bus,
) -> Result<Groups, EmulationError> {
    let size = size_of(instruction.memory_size()).ok_or(EmulationError::Unsupported)?;
    let mut plan = string::Plan::new(state, instruction, bits, size, fault.at);
    let two_sided = instruction.op_count() == 2
        && instruction.op0_kind() != OpKind::Register
        && instruction.op1_kind() != OpKind::Register;
    let accumulator = Operand::of(string::accumulator(size));
    while plan.step(state) {
        let at = plan.device();
        if two_sided {
            let other = if fault.write { 1 } else { 0 };
            let linear = linear_address(state, instruction, other, bits)
                .ok_or(EmulationError::Unsupported)?;
            let physical = memory.translate(linear, size, !fault.write);
            let physical = match physical {
                Ok(physical) => physical,
                Err(error) if plan.is_first() => return Err(error),
                // What was done stays done; the fault comes when the instruction is tried again.
                Err(_) => return Ok(plan.interrupted()),
            };
            if fault.write {
                let mut bytes = [0; 8];
                let value = match memory.ram.read(physical, &mut bytes[..size.into()]) {
                    Ok(()) => u64::from_le_bytes(bytes),
                    Err(_) => bus.read(physical, size),
                };
                bus.write(at, size, value);
            } else {
                let value = bus.read(at, size);
                if memory.ram.write(physical, &value.to_le_bytes()[..size.into()]).is_err() {
                    bus.write(physical, size, value);
                }
            }
            plan.advance(state, Direction::Both);
        } else {
            let accumulator = accumulator.ok_or(EmulationError::Unsupported)?;
            if fault.write {
                bus.write(at, size, accumulator.read(state));
                plan.advance(state, Direction::Destination);
            } else {
                let value = bus.read(at, size);
                accumulator.write(state, value);
                plan.advance(state, Direction::Source);
            }
        }
    }
    Ok(plan.finish(state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::x86_64::instruction::testing::guest;
    use abi::vcpu::x86_64::{RAX, RCX, RDI, RDX, RSI};

    /// Remembers what was done to it; reads give the address.
    #[derive(Default)]
    struct Device(Vec<(u64, u8, u64)>);

    impl Bus for Device {
        fn read(&mut self, at: GuestPhys, size: u8) -> u64 {
            self.0.push((at.0, size, u64::MAX));
            truncate(at.0 | 0xf1f0_f1f0_f1f0_f000, size)
        }

        fn write(&mut self, at: GuestPhys, size: u8, value: u64) {
            self.0.push((at.0, size, value));
        }
    }

    const AT: u64 = 0xfec0_0010;

    fn run(
        code: &[u8],
        write: bool,
        prepare: impl FnOnce(&mut StatePage),
    ) -> (StatePage, Device, Result<Groups, EmulationError>) {
        let (ram, mut state) = guest(code, b"abcdefgh");
        prepare(&mut state);
        let mut device = Device::default();
        let fault = Fault { at: GuestPhys(AT), write };
        let result = emulate(&ram, &mut state, fault, &mut device);
        (state, device, result)
    }

    #[test]
    fn moves_and_arithmetic() {
        // mov [edi], eax
        let (state, device, result) = run(&[0x89, 0x07], true, |s| s.set_gpr(RAX, 0x1_1234_5678));
        assert_eq!((device.0, state.rip()), (vec![(AT, 4, 0x1234_5678)], 0x1002));
        assert_eq!(result, Ok(Groups::RIP));
        // mov byte [edi], 7
        let (_, device, _) = run(&[0xc6, 0x07, 7], true, |_| {});
        assert_eq!(device.0, [(AT, 1, 7)]);
        // mov ah, [edi]
        let (state, _, _) = run(&[0x8a, 0x27], false, |s| s.set_gpr(RAX, 0x5555));
        assert_eq!(state.gpr(RAX), 0x1055);
        // movzx edx, word [edi]; movsx edx, byte [edi]
        let (state, _, _) = run(&[0x0f, 0xb7, 0x17], false, |s| s.set_gpr(RDX, u64::MAX));
        assert_eq!(state.gpr(RDX), 0xf010);
        let (state, _, _) = run(&[0x0f, 0xbe, 0x17], false, |s| s.set_gpr(RDX, u64::MAX));
        assert_eq!(state.gpr(RDX), 0x10);
        // or dword [edi], 0x10000 (RMW); flags: result negative
        let (state, device, result) = run(&[0x81, 0x0f, 0, 0, 1, 0], true, |_| {});
        assert_eq!(device.0, [(AT, 4, u64::MAX), (AT, 4, 0xfff1_f010)]);
        assert_eq!((result, state.rflags()), (Ok(Groups::RIP | Groups::RSP_RFLAGS), 0x80));
        // test dword [edi], eax: no write
        let (state, device, _) = run(&[0x85, 0x07], false, |_| {});
        assert_eq!((device.0.len(), state.rflags()), (1, 0x44));
        // xchg [edi], eax
        let (state, device, _) = run(&[0x87, 0x07], true, |s| s.set_gpr(RAX, 9));
        assert_eq!((device.0[1], state.gpr(RAX)), ((AT, 4, 9), 0xfff0_f010));
    }

    #[test]
    fn a_stack_pointer_is_loaded_with_its_group() {
        let both = Groups::RIP | Groups::RSP_RFLAGS;
        // mov esp, [edi]; movzx sp, byte [edi]; xchg [edi], esp; mov ah, [edi], whose encoding is that of spl
        for (code, write, groups) in [
            (&[0x8b, 0x27][..], false, both),
            (&[0x66, 0x0f, 0xb6, 0x27], false, both),
            (&[0x87, 0x27], true, both),
            (&[0x8a, 0x27], false, Groups::RIP),
        ] {
            let (_, _, result) = run(code, write, |_| {});
            assert_eq!(result, Ok(groups), "{code:x?}");
        }
    }

    #[test]
    fn strings_go_on_where_they_stopped() {
        // rep movsb: RAM to device, four bytes left in the page of the fault
        let (state, device, result) = run(&[0xf3, 0xa4], true, |s| {
            s.set_gpr(RSI, 0x2000);
            s.set_gpr(RDI, 0x9000_0ffc);
            s.set_gpr(RCX, 6);
        });
        // The device's address is the fault's.
        assert_eq!(device.0.len(), 6);
        assert_eq!((device.0[0], device.0[5]), ((AT, 1, b'a'.into()), (AT + 5, 1, b'f'.into())));
        assert_eq!((state.gpr(RCX), state.gpr(RSI), state.rip()), (0, 0x2006, 0x1002));
        assert_eq!(result, Ok(Groups::RIP));
        // rep stosd backwards
        let (state, device, _) = run(&[0xf3, 0xab], true, |s| {
            s.set_rflags(1 << 10);
            s.set_gpr(RCX, 2);
            s.set_gpr(RDI, AT);
            s.set_gpr(RAX, 3);
        });
        assert_eq!(device.0, [(AT, 4, 3), (AT - 4, 4, 3)]);
        assert_eq!(state.gpr(RDI), AT - 8);
        // movsd from device to RAM and to a hole
        let (state, _, _) = run(&[0xa5], false, |s| s.set_gpr(RDI, 0x3000));
        assert_eq!((state.gpr(RDI), state.gpr(RSI)), (0x3004, 4));
        // A count that goes beyond the page: stays at the instruction.
        let (state, device, _) = run(&[0xf3, 0xaa], true, |s| {
            s.set_gpr(RCX, 1 << 20);
            s.set_gpr(RDI, AT);
        });
        assert_eq!((device.0.len(), state.rip()), (0xff0, 0x1000));
        assert_eq!(state.gpr(RCX), (1 << 20) - 0xff0);
        // Count 0: nothing.
        let (state, device, _) = run(&[0xf3, 0xaa], true, |_| {});
        assert_eq!((device.0.len(), state.rip()), (0, 0x1002));
    }

    #[test]
    fn what_is_not_emulated_is_refused() {
        for code in [
            &[0x0f, 0x28, 0x07][..], // movaps xmm0, [edi]
            &[0xff, 0x17],           // call [edi]
            &[0xff, 0x37],           // push [edi]
            &[0x90],                 // nop
            &[0x0f, 0xff],           // ud0
            &[0x8e, 0x1f],           // mov ds, [edi]
        ] {
            let (state, device, result) = run(code, false, |_| {});
            assert_eq!(result, Err(EmulationError::Unsupported), "{code:x?}");
            assert_eq!((device.0.len(), state.rip()), (0, 0x1000));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_are_a_danger(code: [u8; 15], write: bool, rcx: u64, rsi: u64, rdi: u64) {
            let (_, device, _) = run(&code, write, |s| {
                s.set_gpr(RCX, rcx);
                s.set_gpr(RSI, rsi);
                s.set_gpr(RDI, rdi);
            });
            assert!(device.0.len() <= 2 * 4096);
        }
    }
}
