//! ESR_EL2 and ESR_EL1: exception syndromes (Arm ARM D19.2.37).
use crate::bits;

/// Exception classes that are met here.
pub mod class {
    /// Unknown reason: undefined instruction.
    pub const UNKNOWN: u32 = 0x00;
    /// MSR, MRS or system instruction.
    pub const SYSTEM: u32 = 0x18;
    /// Instruction abort from a lower exception level.
    pub const INSTRUCTION_ABORT_LOWER: u32 = 0x20;
    /// Instruction abort from the same one.
    pub const INSTRUCTION_ABORT: u32 = 0x21;
    /// Data abort from a lower exception level.
    pub const DATA_ABORT_LOWER: u32 = 0x24;
    /// Data abort from the same one.
    pub const DATA_ABORT: u32 = 0x25;
    /// SError.
    pub const SERROR: u32 = 0x2f;
}

/// Exception class.
pub const fn class(esr: u32) -> u32 {
    esr >> 26
}

/// Bytes of the instruction, by IL.
pub const fn instruction_length(esr: u32) -> u64 {
    if esr & IL != 0 { 4 } else { 2 }
}

/// The instruction has 32 bits.
pub const IL: u32 = 1 << 25;
/// Aborts: FAR is not valid.
pub const FNV: u32 = 1 << 10;
/// Data abort: of a cache maintenance instruction.
pub const CM: u32 = 1 << 8;
/// Abort on a stage 1 table walk.
pub const S1PTW: u32 = 1 << 7;
/// Data abort: of a write.
pub const WNR: u32 = 1 << 6;
/// Fault status: synchronous external abort, not on a table walk.
pub const EXTERNAL: u32 = 0x10;

/// A load or store of one general register, as a data abort describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// It writes.
    pub write: bool,
    /// Bytes: 1, 2, 4 or 8.
    pub size: u8,
    /// General register; 31 is the zero register.
    pub register: usize,
    signed: bool,
    wide: bool,
}

impl Access {
    /// The access of a data abort, if its syndrome describes one.
    pub fn decode(esr: u32) -> Option<Access> {
        const ISV: u32 = 1 << 24;
        (matches!(class(esr), class::DATA_ABORT_LOWER | class::DATA_ABORT)
            && esr & ISV != 0
            && esr & (S1PTW | CM) == 0)
            .then_some(Access {
                write: esr & WNR != 0,
                size: 1 << (esr >> 22 & 3),
                register: (esr >> 16 & 31) as usize,
                signed: esr & 1 << 21 != 0,
                wide: esr & 1 << 15 != 0,
            })
    }

    /// The bytes of a register that are written.
    pub fn truncate(&self, value: u64) -> u64 {
        bits::truncate(value, self.size)
    }

    /// What a register holds after these bytes were read.
    pub fn extend(&self, value: u64) -> u64 {
        let extended =
            if self.signed { bits::sign_extend(value, self.size) } else { self.truncate(value) };
        if self.wide { extended } else { extended & 0xffff_ffff }
    }
}

/// A trapped access to a system register, or a system instruction (Arm ARM D19.2.37, "ISS encoding for an exception
/// from MSR, MRS, or System instruction execution in AArch64 state").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SystemAccess {
    /// Which, by [`rt::env::register_key`].
    pub key: u16,
    /// It reads.
    pub read: bool,
    /// General register; 31 is the zero register.
    pub register: usize,
}

impl SystemAccess {
    /// The access of this syndrome, if it is one.
    pub fn decode(esr: u32) -> Option<SystemAccess> {
        let field = |shift: u32, mask: u32| (esr >> shift & mask) as u16;
        (class(esr) == class::SYSTEM).then_some(SystemAccess {
            key: rt::env::register_key(
                field(20, 3),
                field(14, 7),
                field(10, 15),
                field(1, 15),
                field(17, 7),
            ),
            read: esr & 1 != 0,
            register: (esr >> 5 & 31) as usize,
        })
    }
}

/// AArch32, and not AArch64, in PSTATE.
const AARCH32: u64 = 1 << 4;
/// ITSTATE in PSTATE: bits 7:2 are in 15:10, 1:0 in 26:25.
const IT: u64 = 0x3f << 10 | 3 << 25;

/// PSTATE.BTYPE of AArch64: the instruction is the target of an indirect branch.
const BTYPE: u64 = 3 << 10;

/// PSTATE behind an instruction that is skipped: it is no branch (Arm ARM D1.3.6, BTYPE), and in AArch32 it may be one of an IT
/// block, whose state moves on (E1.2.3, ITAdvance).
pub const fn after_instruction(pstate: u64) -> u64 {
    if pstate & AARCH32 == 0 {
        return pstate & !BTYPE;
    }
    if pstate & IT == 0 {
        return pstate;
    }
    let state = (pstate >> 10 & 0x3f) << 2 | pstate >> 25 & 3;
    let next = if state & 7 == 0 { 0 } else { state & 0xe0 | state << 1 & 0x1f };
    pstate & !IT | (next >> 2) << 10 | (next & 3) << 25
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_extend_as_they_say() {
        let esr = |bits: u32| class::DATA_ABORT_LOWER << 26 | 1 << 24 | bits;
        let byte = Access::decode(esr(5 << 16)).unwrap();
        assert_eq!((byte.size, byte.register, byte.write), (1, 5, false));
        assert_eq!(byte.extend(0x1_80), 0x80);
        assert_eq!(Access::decode(esr(1 << 21)).unwrap().extend(0x80), 0xffff_ff80);
        let wide = Access::decode(esr(1 << 21 | 1 << 15 | 1 << 22)).unwrap();
        assert_eq!(wide.extend(0x8000), 0xffff_ffff_ffff_8000);
        let double = Access::decode(esr(3 << 22 | 1 << 15 | WNR)).unwrap();
        assert!(double.write);
        assert_eq!(double.extend(u64::MAX), u64::MAX);
        assert_eq!(Access::decode(esr(S1PTW)), None);
        assert_eq!(Access::decode(class::DATA_ABORT_LOWER << 26), None);
    }

    #[test]
    fn system_registers_have_keys() {
        // MRS x3, ID_AA64PFR0_EL1 (3, 0, 0, 4, 0).
        let esr = class::SYSTEM << 26 | IL | 3 << 20 | 3 << 5 | 4 << 1 | 1;
        assert_eq!(
            SystemAccess::decode(esr),
            Some(SystemAccess {
                key: rt::env::register_key(3, 0, 0, 4, 0),
                read: true,
                register: 3
            })
        );
    }

    #[test]
    fn an_it_block_moves_on() {
        let with = |state: u64| (state >> 2) << 10 | (state & 3) << 25 | AARCH32 | 1 << 5;
        // Three instructions of EQ: then, else, then.
        for (state, next) in [(0b0110, 0b1100), (0b1100, 0b1_1000), (0b1_1000, 0)] {
            assert_eq!(after_instruction(with(state)), with(next), "{state:#b}");
        }
        assert_eq!(after_instruction(with(0b0000_1000)), with(0));
        assert_eq!(after_instruction(with(0b1110_1000)), with(0));
        assert_eq!(after_instruction(with(0b1110_0001)), with(0b1110_0010));
        assert_eq!(after_instruction(with(0)), with(0));
        // In AArch64 the bits mean something else.
        let others = IT & !BTYPE | 0x3c5;
        assert_eq!(after_instruction(others), others);
    }

    #[test]
    fn what_follows_a_branch_target_is_none() {
        for kind in 0..4 {
            assert_eq!(after_instruction(0x6000_03c5 | kind << 10), 0x6000_03c5);
        }
    }
}
