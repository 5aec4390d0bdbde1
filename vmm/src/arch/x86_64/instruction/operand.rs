//! Operands in registers and memory.
use super::EmulationError;
use crate::arch::x86_64::paging::{Access, Paging};
use crate::arch::x86_64::state::StatePage;
use crate::bits::truncate;
use crate::memory::{GuestPhys, GuestRam};
use abi::vcpu::x86_64::{Groups, RSP, Segment};
use iced_x86::{Instruction, Register};

/// A general register, or a part of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// Number in the order of the encoding.
    index: usize,
    /// Bytes.
    pub size: u8,
    /// AH, CH, DH or BH.
    high: bool,
}

impl Operand {
    /// The operand that a register of the decoder is, if it is a general register.
    pub fn of(register: Register) -> Option<Operand> {
        let number = register as usize;
        let part =
            |first: Register, size| Operand { index: number - first as usize, size, high: false };
        let within =
            |first: Register, last: Register| (first as usize..=last as usize).contains(&number);
        Some(if within(Register::AL, Register::BL) {
            part(Register::AL, 1)
        } else if within(Register::AH, Register::BH) {
            Operand { high: true, ..part(Register::AH, 1) }
        } else if within(Register::SPL, Register::R15L) {
            let low = part(Register::SPL, 1);
            Operand { index: low.index + 4, ..low }
        } else if within(Register::AX, Register::R15W) {
            part(Register::AX, 2)
        } else if within(Register::EAX, Register::R15D) {
            part(Register::EAX, 4)
        } else if within(Register::RAX, Register::R15) {
            part(Register::RAX, 8)
        } else {
            return None;
        })
    }

    /// Its value.
    pub fn read(self, state: &StatePage) -> u64 {
        let value = state.gpr(self.index);
        truncate(if self.high { value >> 8 } else { value }, self.size)
    }

    /// Sets it; a write of 4 bytes clears the upper half, narrower ones keep the rest.
    pub fn write(self, state: &mut StatePage, value: u64) {
        let old = state.gpr(self.index);
        let value = truncate(value, self.size);
        let new = match self.size {
            1 if self.high => old & !0xff00 | value << 8,
            1 => old & !0xff | value,
            2 => old & !0xffff | value,
            _ => value,
        };
        state.set_gpr(self.index, new);
    }

    /// The group that it is in, if that is none that is always loaded.
    pub fn group(self) -> Groups {
        match self.index {
            RSP => Groups::RSP_RFLAGS,
            _ => Groups::empty(),
        }
    }
}

fn segment(state: &StatePage, register: Register) -> Option<Segment> {
    Some(match register {
        Register::CS => state.cs(),
        Register::SS => state.ss(),
        Register::DS => state.ds(),
        Register::ES => state.es(),
        Register::FS => state.fs(),
        Register::GS => state.gs(),
        _ => return None,
    })
}

/// Linear address of memory operand `operand`; needs all groups of registers. Segment limits are not
/// tested.
pub fn linear_address(
    state: &StatePage,
    instruction: &Instruction,
    operand: u32,
    bits: u32,
) -> Option<u64> {
    let address = instruction.virtual_address(operand, 0, |register, _, _| {
        if let Some(segment) = segment(state, register) {
            // In 64-bit mode only FS and GS have a base.
            let flat = bits == 64 && !matches!(register, Register::FS | Register::GS);
            return Some(if flat { 0 } else { segment.base });
        }
        Operand::of(register).map(|operand| operand.read(state))
    })?;
    Some(if bits == 64 { address } else { address & 0xffff_ffff })
}

/// Memory as the guest's current code sees it.
pub struct Memory<'a> {
    /// The RAM.
    pub ram: &'a GuestRam,
    /// The translation.
    pub paging: Paging,
    /// Whether the code runs at privilege level 3.
    pub user: bool,
}

impl<'a> Memory<'a> {
    /// As the state page says; needs groups `CONTROL` and `CS_SS`.
    pub fn of(ram: &'a GuestRam, state: &StatePage) -> Memory<'a> {
        Memory { ram, paging: Paging::of(state), user: state.ss().access >> 5 & 3 == 3 }
    }

    /// Where a linear address leads. An operand that crosses a page is refused: nothing that is
    /// emulated needs it.
    pub fn translate(
        &self,
        linear: u64,
        size: u8,
        write: bool,
    ) -> Result<GuestPhys, EmulationError> {
        if linear % abi::PAGE_SIZE as u64 + u64::from(size) > abi::PAGE_SIZE as u64 {
            return Err(EmulationError::Unsupported);
        }
        let access = Access { write, user: self.user, fetch: false };
        self.paging
            .translate(self.ram, linear, access)
            .map_err(|error| EmulationError::walk(error, linear))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::page;

    #[test]
    fn parts_of_registers() {
        let mut state: StatePage = page();
        state.set_gpr(0, 0x1122_3344_5566_7788);
        let operand = |register| Operand::of(register).unwrap();
        assert_eq!(operand(Register::AH).read(&state), 0x77);
        assert_eq!(operand(Register::AX).read(&state), 0x7788);
        operand(Register::AH).write(&mut state, 0x1ab);
        assert_eq!(state.gpr(0), 0x1122_3344_5566_ab88);
        operand(Register::EAX).write(&mut state, u64::MAX);
        assert_eq!(state.gpr(0), 0xffff_ffff);
        operand(Register::DIL).write(&mut state, 7);
        assert_eq!(state.gpr(7), 7);
        operand(Register::R15L).write(&mut state, 9);
        assert_eq!((state.gpr(15), state.gpr(3)), (9, 0));
        operand(Register::BH).write(&mut state, 3);
        assert_eq!(state.gpr(3), 0x300);
        assert_eq!(Operand::of(Register::XMM0), None);
        assert_eq!(Operand::of(Register::RIP), None);
    }
}
