//! Exceptions that the monitor injects: what the processor does when it takes a synchronous exception to EL1 (Arm ARM
//! J1.3.3, `AArch64.TakeException`).
use super::state::StatePage;
use super::syndrome::{EXTERNAL, FNV, IL, WNR, class};
use abi::vcpu::aarch64::Groups;

/// What injection reads and changes; the exit's portal saves it.
pub const NEEDED: Groups = Groups::PC.union(Groups::PSTATE).union(Groups::SYSTEM);

/// PSTATE, in the format of SPSR_EL2.
mod pstate {
    pub const MODE: u64 = 0xf;
    pub const EL1H: u64 = 0x5;
    pub const EL1T: u64 = 0x4;
    pub const AARCH32: u64 = 1 << 4;
    pub const DAIF: u64 = 0xf << 6;
    pub const SSBS: u64 = 1 << 12;
    pub const PAN: u64 = 1 << 22;
    pub const DIT: u64 = 1 << 24;
    pub const DIT_AARCH32: u64 = 1 << 21;
    pub const NZCV: u64 = 0xf << 28;
}

/// SCTLR_EL1.SPAN: PAN is not set by exceptions.
const SPAN: u64 = 1 << 23;
/// SCTLR_EL1.DSSBS: SSBS after an exception.
const DSSBS: u64 = 1 << 44;

/// A synchronous exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// Undefined instruction.
    Undefined,
    /// External abort of a load or store, with its address if known.
    DataAbort {
        /// Of a write.
        write: bool,
        /// Virtual address.
        address: Option<u64>,
    },
    /// External abort of an instruction fetch.
    PrefetchAbort {
        /// Virtual address.
        address: Option<u64>,
    },
}

/// Has the guest take an exception at the current instruction. Returns the changed groups; for exits that save
/// [`NEEDED`].
pub fn inject(state: &mut StatePage, exception: Exception) -> Groups {
    let old = state.pstate();
    let from_el0 = old & (pstate::MODE | pstate::AARCH32) == 0 || old & pstate::AARCH32 != 0;
    let abort = |lower, same| if from_el0 { lower } else { same };
    let (class, iss, address) = match exception {
        Exception::Undefined => (class::UNKNOWN, 0, None),
        Exception::DataAbort { write, address } => {
            let iss = EXTERNAL | if write { WNR } else { 0 };
            let class = abort(class::DATA_ABORT_LOWER, class::DATA_ABORT);
            (class, iss, Some(address))
        }
        Exception::PrefetchAbort { address } => {
            let class = abort(class::INSTRUCTION_ABORT_LOWER, class::INSTRUCTION_ABORT);
            (class, EXTERNAL, Some(address))
        }
    };
    let mut esr = class << 26 | IL | iss;
    match address {
        Some(Some(address)) => state.set_far_el1(address),
        Some(None) => esr |= FNV,
        None => {}
    }
    state.set_esr_el1(esr.into());
    state.set_spsr_el1(old);
    state.set_elr_el1(state.pc());
    // Arm ARM D1.3.1, vector table: current level with SP_EL0, with SP_EL1, lower level in AArch64, in AArch32.
    let vector = if old & pstate::AARCH32 != 0 {
        0x600
    } else if from_el0 {
        0x400
    } else if old & pstate::MODE == pstate::EL1T {
        0
    } else {
        0x200
    };
    state.set_pc((state.vbar_el1() & !0x7ff).wrapping_add(vector));

    let sctlr = state.sctlr_el1();
    let mut new = pstate::EL1H | pstate::DAIF | old & (pstate::NZCV | pstate::PAN);
    let dit = if old & pstate::AARCH32 != 0 { pstate::DIT_AARCH32 } else { pstate::DIT };
    if old & dit != 0 {
        new |= pstate::DIT;
    }
    if sctlr & SPAN == 0 {
        new |= pstate::PAN;
    }
    if sctlr & DSSBS != 0 {
        new |= pstate::SSBS;
    }
    state.set_pstate(new);
    NEEDED
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::testing::page;

    fn take(pstate: u64, sctlr: u64, exception: Exception) -> StatePage {
        let mut state: StatePage = page();
        state.set_pc(0x1234);
        state.set_pstate(pstate);
        state.set_sctlr_el1(sctlr);
        state.set_vbar_el1(0xffff_0000_0000_0800);
        state.set_far_el1(1);
        assert_eq!(inject(&mut state, exception), NEEDED);
        assert_eq!((state.elr_el1(), state.spsr_el1()), (0x1234, pstate), "{exception:?}");
        state
    }

    #[test]
    fn an_undefined_instruction_goes_to_the_vector_of_its_level() {
        for (pstate, vector) in [(0x3c5, 0x200), (0x4, 0), (0x0, 0x400), (0x10, 0x600)] {
            let state = take(pstate, SPAN, Exception::Undefined);
            assert_eq!(state.pc(), 0xffff_0000_0000_0800 + vector);
            assert_eq!(state.esr_el1(), u64::from(IL));
            assert_eq!(state.pstate(), 0x3c5);
            assert_eq!(state.far_el1(), 1);
        }
    }

    #[test]
    fn aborts_say_what_they_are() {
        let abort = Exception::DataAbort { write: true, address: Some(0xabc) };
        assert_eq!(take(0, SPAN, abort).esr_el1(), 0x9200_0050);
        let state = take(5, SPAN, abort);
        assert_eq!((state.esr_el1(), state.far_el1()), (0x9600_0050, 0xabc));
        let state = take(0, SPAN, Exception::PrefetchAbort { address: None });
        assert_eq!((state.esr_el1(), state.far_el1()), (0x8200_0410, 1));
    }

    #[test]
    fn pstate_follows_sctlr() {
        // NZCV, DIT and PAN stay; UAO, SS, IL, BTYPE and SSBS go.
        let old = 0xf << 28 | 1 << 24 | 0xf << 20 | 1 << 12 | 3 << 10;
        let state = take(old, SPAN, Exception::Undefined);
        assert_eq!(state.pstate(), 0xf << 28 | 1 << 24 | 1 << 22 | 0x3c5);
        let state = take(0, DSSBS, Exception::Undefined);
        assert_eq!(state.pstate(), 1 << 22 | 1 << 12 | 0x3c5);
    }
}
