//! RDMSR and WRMSR.
use super::{Platform, Vcpu, vector};
use crate::arch::x86_64::apic::local::register;
use crate::arch::x86_64::msr::{self, Kept, Msr, Syscall};
use crate::memory::GuestPhys;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{Groups, RAX, RCX, RDX};

use super::events::PV_EOI_ENABLED;

/// Why an access is not done.
enum Refusal {
    /// #GP.
    Protection,
    /// The exit has to come again with more state.
    NeedsState,
}

const TSC_DEADLINE: u32 = 0x6e0;
const X2APIC_EOI: u32 = 0x800 + register::EOI;

impl<P: Platform> Vcpu<P> {
    /// WRMSR. What a kernel does at every interrupt comes first.
    #[inline(never)]
    pub(super) fn write_msr(&mut self, length: u64) -> Groups {
        let number = self.state.gpr(RCX) as u32;
        let value = self.state.gpr(RDX) << 32 | self.state.gpr(RAX) & 0xffff_ffff;
        if number == TSC_DEADLINE {
            self.apic.set_deadline(value);
            return self.update_deadline() | self.skip(length);
        }
        if number == X2APIC_EOI && value == 0 && self.apic.is_x2apic() {
            self.sync_pv_eoi();
            let effect = self.apic.end_of_interrupt();
            self.apply(effect);
            return self.request_window() | self.skip(length);
        }
        self.write_other_msr(number, value, length)
    }

    #[inline(never)]
    fn write_other_msr(&mut self, number: u32, value: u64, length: u64) -> Groups {
        match self.set_msr(number, value) {
            Ok(groups) => groups | self.skip(length),
            Err(Refusal::NeedsState) => self.widen(ExitKind::WriteMsr),
            Err(Refusal::Protection) => {
                if self.reported_msrs.first(number) {
                    log::info!("MSR {number:#x} does not take {value:#x}: #GP");
                }
                self.exception(vector::GP, Some(0))
            }
        }
    }

    /// RDMSR.
    pub(super) fn read_msr(&mut self, length: u64) -> Groups {
        let number = self.state.gpr(RCX) as u32;
        match self.get_msr(number) {
            Ok(value) => {
                self.state.set_gpr(RAX, value & 0xffff_ffff);
                self.state.set_gpr(RDX, value >> 32);
                self.skip(length)
            }
            Err(Refusal::NeedsState) => self.widen(ExitKind::ReadMsr),
            Err(Refusal::Protection) => {
                if self.reported_msrs.first(number) {
                    log::info!("MSR {number:#x} is not there: #GP");
                }
                self.exception(vector::GP, Some(0))
            }
        }
    }

    fn get_msr(&mut self, number: u32) -> Result<u64, Refusal> {
        Ok(match msr::find(number).ok_or(Refusal::Protection)? {
            Msr::ReadOnly(value) | Msr::Ignored(value) | Msr::Only(value) => value,
            Msr::Kept(kept) => self.kept[kept.index()],
            Msr::ApicBase => self.apic.base(),
            Msr::X2apic(register) => {
                self.sync_pv_eoi();
                if !self.apic.is_x2apic() {
                    return Err(Refusal::Protection);
                }
                if register == register::ICR {
                    return Ok(self.apic.command());
                }
                let now = self.tsc();
                self.apic.read(register, now).map_err(|_| Refusal::Protection)?.into()
            }
            Msr::TscDeadline => self.apic.timer().deadline(),
            Msr::Tsc => self.tsc(),
            Msr::TscAux => self.tsc_aux,
            Msr::SystemTime => self.system_time,
            Msr::WallClock => self.wall_clock,
            Msr::PvEoi => self.pv_eoi,
            Msr::Efer | Msr::Syscall(_) if !self.wide.contains(ExitKind::ReadMsr) => {
                return Err(Refusal::NeedsState);
            }
            Msr::Efer => self.state.efer(),
            Msr::Syscall(which) => {
                let state = &self.state;
                match which {
                    Syscall::Star => state.star(),
                    Syscall::Lstar => state.lstar(),
                    Syscall::Cstar => state.cstar(),
                    Syscall::Sfmask => state.sfmask(),
                    Syscall::KernelGsBase => state.kernel_gs_base(),
                    Syscall::SysenterCs => state.sysenter_cs(),
                    Syscall::SysenterEsp => state.sysenter_esp(),
                    Syscall::SysenterEip => state.sysenter_eip(),
                }
            }
        })
    }

    fn set_msr(&mut self, number: u32, value: u64) -> Result<Groups, Refusal> {
        let none = Ok(Groups::empty());
        match msr::find(number).ok_or(Refusal::Protection)? {
            Msr::ReadOnly(_) => Err(Refusal::Protection),
            Msr::Ignored(_) => none,
            Msr::Only(only) if value == only => none,
            Msr::Only(_) => Err(Refusal::Protection),
            Msr::Kept(Kept::MtrrDefType) if value & !0xcff != 0 => Err(Refusal::Protection),
            Msr::Kept(kept) => {
                self.kept[kept.index()] = value;
                none
            }
            Msr::ApicBase => {
                self.sync_pv_eoi();
                self.apic.set_base(value).map_err(|_| Refusal::Protection)?;
                self.lines().publish();
                Ok(self.update_deadline())
            }
            Msr::X2apic(register) => {
                self.sync_pv_eoi();
                if !self.apic.is_x2apic() {
                    return Err(Refusal::Protection);
                }
                let now = self.tsc();
                let effect =
                    self.apic.write_msr(register, value, now).map_err(|_| Refusal::Protection)?;
                self.apply(effect);
                self.lines().publish();
                Ok(self.request_window() | self.update_deadline())
            }
            Msr::TscDeadline => {
                self.apic.set_deadline(value);
                Ok(self.update_deadline())
            }
            Msr::Tsc => Ok(self.set_tsc(value)),
            Msr::TscAux if value >> 32 != 0 => Err(Refusal::Protection),
            Msr::TscAux => {
                self.tsc_aux = value;
                self.state.set_tsc_offset(self.tsc_offset);
                self.state.set_tsc_aux(value);
                Ok(Groups::TSC)
            }
            Msr::SystemTime => {
                self.system_time = value;
                self.publish_time();
                none
            }
            Msr::WallClock => {
                self.wall_clock = value;
                self.wall_version = self.wall_version.wrapping_add(2);
                let at = GuestPhys(value & !3);
                let _ = self.vm.clock.publish_wall(&self.vm.ram, at, self.wall_version);
                none
            }
            Msr::PvEoi => self.set_pv_eoi(value),
            Msr::Efer | Msr::Syscall(_) if !self.wide.contains(ExitKind::WriteMsr) => {
                Err(Refusal::NeedsState)
            }
            Msr::Efer => self.set_efer(value),
            Msr::Syscall(which) => {
                let state = &mut self.state;
                match which {
                    Syscall::Star => state.set_star(value),
                    Syscall::Lstar => state.set_lstar(value),
                    Syscall::Cstar => state.set_cstar(value),
                    Syscall::Sfmask => state.set_sfmask(value),
                    Syscall::KernelGsBase => state.set_kernel_gs_base(value),
                    Syscall::SysenterCs => state.set_sysenter_cs(value),
                    Syscall::SysenterEsp => state.set_sysenter_esp(value),
                    Syscall::SysenterEip => state.set_sysenter_eip(value),
                }
                Ok(Groups::SYSCALL)
            }
        }
    }

    /// EFER: system calls, long mode, no-execute. LME cannot change while paging is on.
    fn set_efer(&mut self, value: u64) -> Result<Groups, Refusal> {
        const SCE: u64 = 1 << 0;
        const LME: u64 = 1 << 8;
        const LMA: u64 = 1 << 10;
        const NXE: u64 = 1 << 11;
        let old = self.state.efer();
        let paging = self.state.cr0() & crate::arch::x86_64::paging::CR0_PG != 0;
        if value & !(SCE | LME | LMA | NXE) != 0 || paging && (old ^ value) & LME != 0 {
            return Err(Refusal::Protection);
        }
        self.state.set_efer(value & !LMA | old & LMA);
        Ok(Groups::CONTROL)
    }

    fn set_tsc(&mut self, value: u64) -> Groups {
        let offset = value.wrapping_sub(self.platform.counter());
        // The clock goes on from where it is.
        let moved = offset.wrapping_sub(self.tsc_offset);
        self.clock_origin = self.clock_origin.wrapping_add(moved);
        self.apic.move_clock(moved);
        self.tsc_offset = offset;
        self.state.set_tsc_offset(offset);
        self.state.set_tsc_aux(self.tsc_aux);
        self.publish_time();
        Groups::TSC | self.update_deadline()
    }

    fn publish_time(&mut self) {
        if self.system_time & 1 == 0 {
            return;
        }
        self.clock_version = self.clock_version.wrapping_add(2);
        let at = GuestPhys(self.system_time & !1);
        // Without RAM there the guest sees no time.
        let _ = self.vm.clock.publish(&self.vm.ram, at, self.clock_version, self.clock_origin);
    }

    fn set_pv_eoi(&mut self, value: u64) -> Result<Groups, Refusal> {
        // Bit 1 is reserved, the address has four bytes.
        if value & 2 != 0 {
            return Err(Refusal::Protection);
        }
        self.sync_pv_eoi();
        if self.pv_eoi_armed {
            // The interrupt in service is ended the long way.
            self.pv_eoi_armed = false;
            let at = GuestPhys(self.pv_eoi & !PV_EOI_ENABLED);
            let _ = self.vm.ram.write(at, &[0; 4]);
        }
        self.pv_eoi = value;
        Ok(Groups::empty())
    }
}
