//! Control registers that the guest does not own whole, and XCR0.
use super::{Platform, Vcpu, vector};
use crate::arch::x86_64::apic::local::register;
use abi::vcpu::x86_64::{Groups, RAX, RCX, RDX};

const CR0_PE: u64 = 1 << 0;
const CR0_TS: u64 = 1 << 3;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
const CR4_PCIDE: u64 = 1 << 17;
/// XSAVE and its relatives are enabled.
pub(super) const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Word 1 of the exit ([`abi::vcpu::ExitKind::ControlRegister`]).
const UNKNOWN: u64 = 1 << 63;

impl<P: Platform> Vcpu<P> {
    /// MOV to or from a control register, CLTS, LMSW.
    pub(super) fn control_register(&mut self, length: u64, qualification: u64) -> Groups {
        let (number, access) = (qualification & 15, qualification >> 4 & 3);
        let general = (qualification >> 8 & 15) as usize;
        let done = match (number, access) {
            _ if qualification & UNKNOWN != 0 => None,
            (0, 0) => self.set_cr0(self.state.gpr(general)),
            (0, 2) => self.set_cr0(self.state.cr0() & !CR0_TS),
            // LMSW: the lower four bits, but it cannot leave protected mode.
            (0, 3) => {
                let (old, source) = (self.state.cr0(), qualification >> 16 & 15);
                self.set_cr0(old & !0xe | source | old & CR0_PE)
            }
            (4, 0) => self.set_cr4(self.state.gpr(general)),
            (3, 0) => {
                self.state.set_cr3(self.state.gpr(general) & !(1 << 63));
                Some(Groups::CONTROL)
            }
            (8, 0) => self.set_cr8(self.state.gpr(general)),
            (_, 1) => self.read_control(number).map(|value| {
                self.state.set_gpr(general, value);
                // RSP is in a group of its own.
                if general == abi::vcpu::x86_64::RSP { Groups::RSP_RFLAGS } else { Groups::empty() }
            }),
            _ => None,
        };
        match done {
            Some(groups) => groups | self.skip(length),
            None => self.exception(vector::GP, Some(0)),
        }
    }

    fn read_control(&mut self, number: u64) -> Option<u64> {
        Some(match number {
            0 => self.state.cr0(),
            3 => self.state.cr3(),
            4 => self.state.cr4(),
            8 => {
                let now = self.tsc();
                u64::from(self.apic.read(register::TPR, now).unwrap_or(0) >> 4)
            }
            _ => return None,
        })
    }

    fn set_cr0(&mut self, value: u64) -> Option<Groups> {
        let invalid = value >> 32 != 0
            || value & (CR0_PG | CR0_PE) == CR0_PG
            || value & (CR0_NW | CR0_CD) == CR0_NW;
        let old = self.state.cr0();
        let enables = value & !old & CR0_PG != 0;
        let long = self.state.efer() & EFER_LME != 0;
        if invalid || enables && long && self.state.cr4() & CR4_PAE == 0 {
            return None;
        }
        self.state.set_cr0(value);
        if (value ^ old) & CR0_PG != 0 {
            // Long mode is active with paging.
            let efer = self.state.efer() & !EFER_LMA;
            self.state.set_efer(if enables && long { efer | EFER_LMA } else { efer });
        }
        Some(Groups::CONTROL)
    }

    fn set_cr4(&mut self, value: u64) -> Option<Groups> {
        let long = self.state.efer() & EFER_LMA != 0;
        let invalid = value >> 32 != 0
            || value & CR4_VMXE != 0
            || long && value & CR4_PAE == 0
            || !long && value & CR4_PCIDE != 0;
        if invalid {
            return None;
        }
        self.state.set_cr4(value);
        Some(Groups::CONTROL)
    }

    fn set_cr8(&mut self, value: u64) -> Option<Groups> {
        if value > 15 {
            return None;
        }
        self.sync_pv_eoi();
        let now = self.tsc();
        let _ = self.apic.write_mapped(register::TPR, (value << 4) as u32, now);
        Some(self.request_window())
    }

    /// XSETBV.
    pub(super) fn set_xcr(&mut self, length: u64) -> Groups {
        let value = self.state.gpr(RDX) << 32 | self.state.gpr(RAX) & 0xffff_ffff;
        let kernel = self.state.ss().access >> 5 & 3 == 0;
        let allowed = kernel && self.state.gpr(RCX) as u32 == 0 && self.vm.cpuid.allows_xcr0(value);
        if !allowed {
            return self.exception(vector::GP, Some(0));
        }
        self.state.set_xcr0(value);
        Groups::XCR0 | self.skip(length)
    }
}
