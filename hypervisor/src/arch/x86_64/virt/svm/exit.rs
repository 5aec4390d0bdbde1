//! Exit codes of SVM (AMD APM 2 appendix C) as exit kinds of the ABI.

use abi::vcpu::ExitKind;
use abi::vcpu::{FAULT_FETCH, FAULT_READ, FAULT_WRITE};

use super::super::event::{Event, MC};
use super::super::{Exit, Leave, Outcome, Told};
use super::vmcb::Vmcb;

/// Exit codes that need a closer look.
const READ_DR0: u64 = 0x20;
const WRITE_DR15: u64 = 0x3f;
const EXCEPTION: u64 = 0x40;
const LAST_EXCEPTION: u64 = 0x5f;
const INTR: u64 = 0x60;
const NMI: u64 = 0x61;
const IRET: u64 = 0x74;
pub(in crate::arch) const IOIO: u64 = 0x7b;
pub(in crate::arch) const MSR: u64 = 0x7c;
const TASK_SWITCH: u64 = 0x7d;
pub(in crate::arch) const NESTED_PAGE_FAULT: u64 = 0x400;
/// VMRUN refused the state. The processor reports -1 in 64 bits, QEMU 7.2 in 32.
const INVALID: u64 = u32::MAX as u64;

/// By exit code, with the length of the instruction on processors that do not tell: without prefixes, which none of these
/// instructions has any use for. It is the low half of word 0 of an exit.
pub(in crate::arch) static TOLD: [Told; 0x8f] = {
    use ExitKind as K;
    Told::table(&[
        (0x64, K::InterruptWindow, 0),
        (0x72, K::Cpuid, 2),
        // INVD, WBINVD.
        (0x76, K::CacheFlush, 2),
        (0x89, K::CacheFlush, 2),
        (0x77, K::Pause, 2),
        (0x78, K::Halt, 1),
        (0x7f, K::TripleFault, 0),
        (0x81, K::Hypercall, 3),
        (0x8d, K::SetXcr, 3),
    ])
};

/// Kind and default length of the exits whose word 1 is the raw code.
const fn raw(code: u64) -> (ExitKind, u8) {
    use ExitKind as K;
    match code {
        // RDPMC, RSM.
        0x6f | 0x73 => (K::NoInstruction, 2),
        // INVLPGA; VMRUN, VMLOAD to SKINIT; MONITOR, MWAIT; RDPRU.
        0x7a | 0x80 | 0x82..=0x86 | 0x8a..=0x8c | 0x8e => (K::NoInstruction, 3),
        INVALID => (K::InvalidState, 0),
        _ => (K::Other, 0),
    }
}

/// How guest mode was left. `next_rip`: the processor saves the address of the next instruction.
pub(super) fn decode(vmcb: &Vmcb, next_rip: bool) -> Leave {
    let (kind, default_length, info) = match vmcb.exit_code & 0xffff_ffff {
        // An interrupt is pending; an NMI's handler has run, let by STGI.
        INTR | NMI => return Leave::Ended(Outcome::Resume),
        code @ EXCEPTION..=LAST_EXCEPTION => {
            return exception((code - EXCEPTION) as u8, vmcb.exit_info1);
        }
        READ_DR0..=WRITE_DR15 => return Leave::DebugRegisters,
        IRET => return Leave::Iret,
        NESTED_PAGE_FAULT => {
            let flags = stage_two_fault(vmcb.exit_info1);
            (ExitKind::StageTwoFault, 0, [flags, vmcb.exit_info2, 0])
        }
        MSR => {
            let kind = match vmcb.exit_info1 & 1 {
                0 => ExitKind::ReadMsr,
                _ => ExitKind::WriteMsr,
            };
            (kind, 2, [0; 3])
        }
        IOIO => {
            let length = vmcb.exit_info2.wrapping_sub(vmcb.rip) as u8;
            (ExitKind::Io, length, [io(vmcb.exit_info1), vmcb.exit_info2, 0])
        }
        TASK_SWITCH => (ExitKind::TaskSwitch, 0, [vmcb.exit_info1, vmcb.exit_info2, 0]),
        code => match TOLD.get(code as usize) {
            Some(&Told { kind, length }) if kind != ExitKind::Kick => (kind, length, [0; 3]),
            _ => {
                let (kind, length) = raw(code);
                (kind, length, [code, 0, 0])
            }
        },
    };
    let instruction_length = if next_rip && default_length != 0 {
        vmcb.next_rip.wrapping_sub(vmcb.rip) as u8
    } else {
        default_length
    };
    Leave::Ended(Outcome::Exit(Exit { kind, instruction_length, info }))
}

/// An intercepted exception: only what `event::INTERCEPTED` names arrives here.
fn exception(vector: u8, error: u64) -> Leave {
    match vector {
        MC => Leave::Ended(Outcome::HostMachineCheck),
        super::super::event::AC => Leave::Exception(Event::exception(vector, Some(error as u32))),
        _ => Leave::Exception(Event::exception(vector, None)),
    }
}

/// Flags of a stage-two fault, from an error code as that of #PF. Its P bit is not used: QEMU sets it
/// without rule.
const fn stage_two_fault(error: u64) -> u64 {
    const WRITE: u64 = 1 << 1;
    const FETCH: u64 = 1 << 4;
    if error & WRITE != 0 {
        FAULT_WRITE
    } else if error & FETCH != 0 {
        FAULT_FETCH
    } else {
        FAULT_READ
    }
}

/// Word 1 of [`ExitKind::Io`] (AMD APM 2 15.10.2).
const fn io(info: u64) -> u64 {
    let port = info >> 16 & 0xffff;
    // Bits 4 to 6: 8, 16, 32 bits.
    let size = info >> 4 & 7;
    let direction = info & 1;
    // Bits 2 and 3: string, REP.
    let string = info >> 2 & 3;
    port | size << 16 | direction << 24 | string << 25
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmcb(code: u64, info1: u64, info2: u64) -> Box<Vmcb> {
        // SAFETY: all bits zero is a value of the structure of integers.
        let mut vmcb: Box<Vmcb> = unsafe { Box::new_zeroed().assume_init() };
        vmcb.exit_code = code;
        vmcb.exit_info1 = info1;
        vmcb.exit_info2 = info2;
        vmcb.rip = 0x1000;
        vmcb.next_rip = 0x1004;
        vmcb
    }

    fn exit(code: u64, info1: u64, info2: u64, next_rip: bool) -> Exit {
        match decode(&vmcb(code, info1, info2), next_rip) {
            Leave::Ended(Outcome::Exit(exit)) => exit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths() {
        assert_eq!(exit(0x72, 0, 0, false).instruction_length, 2);
        assert_eq!(exit(0x72, 0, 0, true).instruction_length, 4);
        assert_eq!(exit(0x78, 0, 0, false).instruction_length, 1);
        assert_eq!(exit(0x7f, 0, 0, true).instruction_length, 0);
        assert_eq!(exit(IOIO, 0, 0x1001, false).instruction_length, 1);
    }

    #[test]
    fn msr_direction() {
        assert_eq!(exit(MSR, 0, 0, false).kind, ExitKind::ReadMsr);
        assert_eq!(exit(MSR, 1, 0, false).kind, ExitKind::WriteMsr);
    }

    #[test]
    fn io_words() {
        // IN AL, 60h; REP OUTSD to CFCh.
        assert_eq!(io(0x60 << 16 | 1 << 4 | 1), 1 << 24 | 1 << 16 | 0x60);
        assert_eq!(io(0xcfc << 16 | 1 << 6 | 3 << 2), 3 << 25 | 4 << 16 | 0xcfc);
    }

    #[test]
    fn faults() {
        assert_eq!(exit(NESTED_PAGE_FAULT, 1 << 32 | 4, 0x1000, false).info, [1, 0x1000, 0]);
        assert_eq!(exit(NESTED_PAGE_FAULT, 1 << 32 | 7, 0x1000, false).info, [2, 0x1000, 0]);
        assert_eq!(exit(NESTED_PAGE_FAULT, 1 << 32 | 0x14, 0, false).info, [4, 0, 0]);
    }

    #[test]
    fn others() {
        assert_eq!(decode(&vmcb(INTR, 0, 0), false), Leave::Ended(Outcome::Resume));
        assert_eq!(decode(&vmcb(0x52, 0, 0), false), Leave::Ended(Outcome::HostMachineCheck));
        assert_eq!(decode(&vmcb(0x41, 0, 0), false), Leave::Exception(Event::exception(1, None)));
        assert_eq!(
            decode(&vmcb(0x51, 0, 0), false),
            Leave::Exception(Event::exception(17, Some(0)))
        );
        assert_eq!(decode(&vmcb(0x37, 0, 0), false), Leave::DebugRegisters);
        assert_eq!(exit(u64::MAX, 0, 0, false).kind, ExitKind::InvalidState);
        assert_eq!(exit(INVALID, 0, 0, false).kind, ExitKind::InvalidState);
        assert_eq!(exit(0x401, 0, 0, false).kind, ExitKind::Other);
    }
}
