//! Exit reasons of VMX (Intel SDM 3D appendix C) as exit kinds of the ABI.

use abi::vcpu::ExitKind;
use abi::vcpu::{FAULT_FETCH, FAULT_LINEAR, FAULT_READ, FAULT_WRITE};
use x86::vmx::vmcs::ro;

use super::super::event::{Event, MC};
use super::super::{Exit, Leave, Outcome, Told};

/// Bit of the exit reason: VM entry failed.
pub(super) const ENTRY_FAILED: u32 = 1 << 31;
/// Bit of word 1 of [`ExitKind::InvalidState`]: VMLAUNCH or VMRESUME failed before it looked at the guest's
/// state; bits 0–15 are the VM-instruction error.
const INSTRUCTION_FAILED: u64 = 1 << 32;

const REASON_EXCEPTION_OR_NMI: u16 = 0;
const REASON_EXTERNAL_INTERRUPT: u16 = 1;
const REASON_TASK_SWITCH: u16 = 9;
pub(in crate::arch) const REASON_WRMSR: u16 = 32;
const REASON_MACHINE_CHECK: u16 = 41;
const REASON_CONTROL_REGISTER: u16 = 28;
const REASON_DEBUG_REGISTER: u16 = 29;
pub(in crate::arch) const REASON_IO: u16 = 30;
pub(in crate::arch) const REASON_EPT_VIOLATION: u16 = 48;

/// Length in [`TOLD`] of an instruction, whose length the processor says: above all lengths.
pub(in crate::arch) const HAS_LENGTH: u8 = 0x80;

/// By exit reason.
pub(in crate::arch) static TOLD: [Told; 56] = {
    use ExitKind as K;
    Told::table(&[
        (2, K::TripleFault, 0),
        (7, K::InterruptWindow, 0),
        (8, K::NmiWindow, 0),
        (10, K::Cpuid, HAS_LENGTH),
        (12, K::Halt, HAS_LENGTH),
        // INVD, WBINVD.
        (13, K::CacheFlush, HAS_LENGTH),
        (54, K::CacheFlush, HAS_LENGTH),
        (18, K::Hypercall, HAS_LENGTH),
        (31, K::ReadMsr, HAS_LENGTH),
        (40, K::Pause, HAS_LENGTH),
        (55, K::SetXcr, HAS_LENGTH),
    ])
};

/// Kind, and whether the instruction length is valid, of the exits whose word 1 is the raw reason.
const fn raw(reason: u16) -> (ExitKind, bool) {
    match reason {
        // GETSEC; RDPMC; VMCLEAR to VMXON; MWAIT; MONITOR; INVEPT, RDTSCP; INVVPID; INVPCID, VMFUNC, ENCLS;
        // XSAVES, XRSTORS, PCONFIG; UMWAIT, TPAUSE, LOADIWKEY, ENCLV.
        11 | 15 | 19..=27 | 36 | 39 | 50..=51 | 53 | 58..=60 | 63..=65 | 67..=70 => {
            (ExitKind::NoInstruction, true)
        }
        _ => (ExitKind::Other, false),
    }
}

/// How guest mode was left, from the exit reason and those other fields that it needs.
pub(super) fn decode(reason: u32, field: impl Fn(u32) -> u64) -> Leave {
    let (kind, has_length, info) = match reason as u16 {
        REASON_EXTERNAL_INTERRUPT => {
            let vector = field(ro::VMEXIT_INTERRUPTION_INFO) as u8;
            return Leave::Ended(Outcome::HostInterrupt(vector));
        }
        REASON_EXCEPTION_OR_NMI => return exception(field),
        REASON_MACHINE_CHECK => return Leave::Ended(Outcome::HostMachineCheck),
        REASON_DEBUG_REGISTER => return Leave::DebugRegisters,
        REASON_EPT_VIOLATION => {
            let (flags, linear) = ept_violation(field(ro::EXIT_QUALIFICATION));
            let address = if linear { field(ro::GUEST_LINEAR_ADDR) } else { 0 };
            let info = [flags, field(ro::GUEST_PHYSICAL_ADDR_FULL), address];
            (ExitKind::StageTwoFault, false, info)
        }
        REASON_IO => {
            let access = io(field(ro::EXIT_QUALIFICATION));
            (ExitKind::Io, true, [access, 0, 0])
        }
        REASON_CONTROL_REGISTER => {
            let access = control_register(field(ro::EXIT_QUALIFICATION));
            (ExitKind::ControlRegister, true, [access, 0, 0])
        }
        REASON_TASK_SWITCH => (ExitKind::TaskSwitch, true, [field(ro::EXIT_QUALIFICATION), 0, 0]),
        REASON_WRMSR => (ExitKind::WriteMsr, true, [0; 3]),
        number => match TOLD.get(usize::from(number)) {
            Some(&Told { kind, length }) if kind != ExitKind::Kick => {
                (kind, length == HAS_LENGTH, [0; 3])
            }
            _ => {
                let (kind, has_length) = raw(number);
                (kind, has_length, [u64::from(number), 0, 0])
            }
        },
    };
    let instruction_length = if has_length { field(ro::VMEXIT_INSTRUCTION_LEN) as u8 } else { 0 };
    Leave::Ended(Outcome::Exit(Exit { kind, instruction_length, info }))
}

/// VM entry failed, with this exit reason and qualification.
pub(super) fn entry_failed(reason: u32, qualification: u64) -> Outcome {
    if reason as u16 == REASON_MACHINE_CHECK {
        return Outcome::HostMachineCheck;
    }
    let info = [u64::from(reason), qualification, 0];
    Outcome::Exit(Exit { kind: ExitKind::InvalidState, instruction_length: 0, info })
}

/// VMLAUNCH or VMRESUME failed, with this VM-instruction error.
pub(super) fn instruction_failed(error: u64) -> Outcome {
    let info = [INSTRUCTION_FAILED | error & 0xffff, 0, 0];
    Outcome::Exit(Exit { kind: ExitKind::InvalidState, instruction_length: 0, info })
}

/// Exit reason 0: an exception or NMI. Only what `event::INTERCEPTED` names arrives here.
fn exception(field: impl Fn(u32) -> u64) -> Leave {
    const TYPE: u64 = 7 << 8;
    const NMI: u64 = 2 << 8;
    const ERROR: u64 = 1 << 11;
    let info = field(ro::VMEXIT_INTERRUPTION_INFO);
    if info & TYPE == NMI {
        return Leave::Ended(Outcome::HostNmi);
    }
    let vector = info as u8;
    if vector == MC {
        return Leave::Ended(Outcome::HostMachineCheck);
    }
    let error = (info & ERROR != 0).then(|| field(ro::VMEXIT_INTERRUPTION_ERR_CODE) as u32);
    Leave::Exception(Event::exception(vector, error))
}

/// Whether an exit of this kind may have interrupted the delivery of an event, as those of intercepted
/// exceptions may: the IDT-vectoring information is defined for all, but clear for the others (Intel SDM 3C
/// 28.2.4), which need not read it. After a triple fault it does not matter.
#[inline(always)]
pub(super) const fn interrupts_delivery(kind: ExitKind) -> bool {
    // Other: EPT misconfiguration.
    matches!(kind, ExitKind::StageTwoFault | ExitKind::TaskSwitch | ExitKind::Other)
}

/// Bit 12 of an exit qualification, and of the interruption information.
pub(in crate::arch) const UNBLOCKED_NMI: u64 = 1 << 12;

/// Whether the exit may have undone the blocking of NMIs by an IRET that has not completed, and if so
/// has (Intel SDM 3C 28.2.3): bit 12 of what `field` gives.
pub(super) fn unblocked_nmi(reason: u32, field: impl Fn(u32) -> u64) -> bool {
    match reason as u16 {
        // #DF does not return by IRET, but no #DF is intercepted.
        REASON_EXCEPTION_OR_NMI => field(ro::VMEXIT_INTERRUPTION_INFO) & UNBLOCKED_NMI != 0,
        REASON_EPT_VIOLATION => field(ro::EXIT_QUALIFICATION) & UNBLOCKED_NMI != 0,
        _ => false,
    }
}

/// Flags of a stage-two fault and whether its linear address is valid (Intel SDM 3C table 28-7).
const fn ept_violation(qualification: u64) -> (u64, bool) {
    // The bits coincide.
    const _: () =
        assert!(FAULT_READ == 1 && FAULT_WRITE == 2 && FAULT_FETCH == 4 && FAULT_LINEAR == 0x80);
    let flags = qualification & (FAULT_READ | FAULT_WRITE | FAULT_FETCH | FAULT_LINEAR);
    (flags, flags & FAULT_LINEAR != 0)
}

/// The bits of the qualification that tell whether an EPT violation is of a write to a linear address: neither of an update in the
/// guest's page tables, nor of an instruction that reads and writes (Intel SDM 3C table 28-7).
pub(in crate::arch) const STORE_MASK: u64 = FAULT_READ | FAULT_FETCH | STORE;
/// Those that are set: a write, its linear address valid, and not of the translation of that.
pub(in crate::arch) const STORE: u64 = FAULT_WRITE | FAULT_LINEAR | 1 << 8;

/// Word 1 of [`ExitKind::Io`] (Intel SDM 3C table 28-5).
const fn io(qualification: u64) -> u64 {
    let port = qualification >> 16 & 0xffff;
    let size = (qualification & 7) + 1;
    // Bits 3 to 5: in, string, REP.
    port | size << 16 | (qualification >> 3 & 7) << 24
}

/// Word 1 of [`ExitKind::ControlRegister`]: the format is the same (Intel SDM 3C table 28-3).
const fn control_register(qualification: u64) -> u64 {
    qualification & 0xffff_0f3f
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn fields(list: &[(u32, u64)]) -> impl Fn(u32) -> u64 + use<> {
        let map: HashMap<u32, u64> = list.iter().copied().collect();
        move |field| *map.get(&field).unwrap_or_else(|| panic!("field {field:#x} is not needed"))
    }

    fn exit(reason: u32, list: &[(u32, u64)]) -> Exit {
        match decode(reason, fields(list)) {
            Leave::Ended(Outcome::Exit(exit)) => exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn cpuid_reads_only_the_length() {
        let exit = exit(10, &[(ro::VMEXIT_INSTRUCTION_LEN, 2)]);
        assert_eq!(exit, Exit { kind: ExitKind::Cpuid, instruction_length: 2, info: [0; 3] });
    }

    #[test]
    fn ept_violation_with_and_without_linear_address() {
        let list = [
            (ro::EXIT_QUALIFICATION, 0x182),
            (ro::GUEST_PHYSICAL_ADDR_FULL, 0xfee0_0000),
            (ro::GUEST_LINEAR_ADDR, 0xffff_ffff_ff5f_c000),
        ];
        let with = exit(48, &list);
        assert_eq!(with.info, [FAULT_WRITE | FAULT_LINEAR, 0xfee0_0000, 0xffff_ffff_ff5f_c000]);
        let without =
            exit(48, &[(ro::EXIT_QUALIFICATION, 4), (ro::GUEST_PHYSICAL_ADDR_FULL, 0x1000)]);
        assert_eq!(without.info, [FAULT_FETCH, 0x1000, 0]);
    }

    #[test]
    fn what_a_doorbell_can_take() {
        let plain_store = |qualification: u64| qualification & STORE_MASK == STORE;
        assert!(plain_store(0x182) && plain_store(0x1ba));
        // Read, fetch, both ways, accessed bits, no linear address.
        assert!(![0x181, 0x184, 0x183, 0x82, 0x02].into_iter().any(plain_store));
    }

    #[test]
    fn io_words() {
        // IN EAX, DX from port CFCh; REP OUTSB to 3F8h.
        assert_eq!(io(0x0cfc_000b), 1 << 24 | 4 << 16 | 0xcfc);
        assert_eq!(io(0x03f8_0030), 1 << 26 | 1 << 25 | 1 << 16 | 0x3f8);
    }

    #[test]
    fn interrupts_and_exceptions() {
        let info = |value| fields(&[(ro::VMEXIT_INTERRUPTION_INFO, value)]);
        assert_eq!(decode(1, info(0x8000_0041)), Leave::Ended(Outcome::HostInterrupt(0x41)));
        assert_eq!(decode(0, info(0x8000_0202)), Leave::Ended(Outcome::HostNmi));
        assert_eq!(decode(0, info(0x8000_0312)), Leave::Ended(Outcome::HostMachineCheck));
        assert_eq!(decode(0, info(0x8000_0301)), Leave::Exception(Event::exception(1, None)));
        let ac = fields(&[
            (ro::VMEXIT_INTERRUPTION_INFO, 0x8000_0b11),
            (ro::VMEXIT_INTERRUPTION_ERR_CODE, 0),
        ]);
        assert_eq!(decode(0, ac), Leave::Exception(Event::exception(17, Some(0))));
    }

    #[test]
    fn failed_entries() {
        let Outcome::Exit(failed) = entry_failed(ENTRY_FAILED | 33, 4) else { panic!() };
        assert_eq!(failed.kind, ExitKind::InvalidState);
        assert_eq!(failed.info, [0x8000_0021, 4, 0]);
        assert_eq!(entry_failed(ENTRY_FAILED | 41, 0), Outcome::HostMachineCheck);
        let Outcome::Exit(failed) = instruction_failed(7) else { panic!() };
        assert_eq!(failed.info, [1 << 32 | 7, 0, 0]);
    }

    #[test]
    fn every_reason_is_something() {
        for reason in 0..100u32 {
            let leave = decode(reason, |_| 0);
            if let Leave::Ended(Outcome::Exit(exit)) = leave {
                assert_ne!(exit.kind, ExitKind::Kick);
                assert_ne!(exit.kind, ExitKind::Startup);
            }
        }
    }
}
