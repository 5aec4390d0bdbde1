//! Host state: what one CPU's registers hold outside guest mode.

use x86::msr;
use x86::vmx::vmcs::host;

use super::super::features::{Backend, Features};
use super::super::hw::{self, TablePointer, rdmsr, wrmsr};
use super::super::state::{cr0, cr4};
use super::super::{InitError, KernelPage};
use super::capabilities::{ALL, Capabilities, LOCKED, OUTSIDE_SMX};
use super::vmcs;

/// MSRs in each of the lists that exits store and load, and entries load: none, see [`SwitchedMsrs`].
pub const LISTED_MSRS: u64 = 0;

/// MSRs that the host and guests both use, that VMX does not switch by itself, and that the kernel needs only
/// when a thread runs. They are switched by WRMSR, only those that differ, and not for exits that the
/// kernel handles itself. Against autoload lists, which cost about as much for each entry as WRMSR does and
/// run on every exit, this costs a Linux guest WRMSR of LSTAR each way and RDMSR of KERNEL_GS_BASE, if the
/// host's STAR and SFMASK are those of Linux. The guest's writes to the first four exit, so that
/// they need not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub(in crate::arch) struct SwitchedMsrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
}

impl SwitchedMsrs {
    fn read() -> SwitchedMsrs {
        // SAFETY: every processor with long mode has these MSRs.
        unsafe {
            SwitchedMsrs {
                star: rdmsr(msr::IA32_STAR),
                lstar: rdmsr(msr::IA32_LSTAR),
                cstar: rdmsr(msr::IA32_CSTAR),
                sfmask: rdmsr(msr::IA32_FMASK),
                kernel_gs_base: rdmsr(msr::IA32_KERNEL_GSBASE),
            }
        }
    }

    /// Replaces `from`, which the processor has, by `self`. Returns whether LSTAR differs, and whether any of STAR, CSTAR and
    /// SFMASK does.
    ///
    /// # Safety
    ///
    /// The values are valid: canonical addresses, 32-bit mask. No thread runs with a guest's.
    #[inline(always)]
    pub unsafe fn replace(&self, from: &SwitchedMsrs) -> [bool; 2] {
        // SAFETY: the caller's.
        unsafe {
            if self.lstar != from.lstar {
                wrmsr(msr::IA32_LSTAR, self.lstar);
            }
            if self.kernel_gs_base != from.kernel_gs_base {
                wrmsr(msr::IA32_KERNEL_GSBASE, self.kernel_gs_base);
            }
            let others =
                self.star ^ from.star | self.cstar ^ from.cstar | self.sfmask ^ from.sfmask;
            if others != 0 {
                wrmsr(msr::IA32_STAR, self.star);
                wrmsr(msr::IA32_CSTAR, self.cstar);
                wrmsr(msr::IA32_FMASK, self.sfmask);
            }
            [self.lstar != from.lstar, others != 0]
        }
    }
}

/// Host state of one CPU, as it is when the CPU starts; it stays so, but for CR3.
#[derive(Debug)]
pub(in super::super) struct HostState {
    cr0: u64,
    cr4: u64,
    efer: u64,
    pat: u64,
    cs: u16,
    ss: u16,
    tr: u16,
    tr_base: u64,
    gs_base: u64,
    pub(super) gdtr: TablePointer,
    idtr: TablePointer,
    pub(super) msrs: SwitchedMsrs,
    pub(super) capabilities: &'static Capabilities,
}

impl HostState {
    /// Enters VMX operation and remembers the CPU's registers.
    ///
    /// # Safety
    ///
    /// As for `init_cpu`; `page` becomes the VMXON region.
    pub unsafe fn enable(
        features: &'static Features,
        page: KernelPage,
    ) -> Result<HostState, InitError> {
        let Backend::Vmx(capabilities) = &features.backend else {
            return Err(InitError::Unsupported);
        };
        // SAFETY: a processor with VMX has the MSR, and takes the write while it is not locked.
        unsafe {
            let control = rdmsr(msr::IA32_FEATURE_CONTROL);
            if control & LOCKED == 0 {
                wrmsr(msr::IA32_FEATURE_CONTROL, control | LOCKED | OUTSIDE_SMX);
            } else if control & OUTSIDE_SMX == 0 {
                return Err(InitError::Firmware);
            }
        }
        if !Capabilities::find().is_ok_and(|found| found == *capabilities) {
            return Err(InitError::Different);
        }
        let cr0 = hw::cr0() | cr0::TS | capabilities.cr0_needed & 0xffff_ffff;
        let cr4 = hw::cr4() | capabilities.cr4_needed & 0xffff_ffff | cr4::VMXE;
        // SAFETY: bits that VMX operation demands: PE, NE, PG in CR0, VMXE in CR4. The page is ours, in
        // the window, and large enough for a VMXON region.
        unsafe {
            hw::set_cr0(cr0);
            hw::set_cr4(cr4);
            (page.virt.0 as *mut u32).write_volatile(capabilities.revision);
            vmcs::vmxon(page.phys).map_err(|_| InitError::Refused)?;
        }
        vmcs::invept(ALL, 0);
        vmcs::invvpid(ALL, 0);
        let gdtr = hw::gdtr();
        let tr = hw::tr();
        // SAFETY: GDTR and TR are the kernel's; PAT, EFER and GS base are on every processor with VMX.
        let host = unsafe {
            HostState {
                cr0,
                cr4,
                efer: rdmsr(msr::IA32_EFER),
                pat: rdmsr(msr::IA32_PAT),
                cs: hw::cs(),
                ss: hw::ss(),
                tr,
                tr_base: hw::task_base(gdtr.base, tr),
                gs_base: rdmsr(msr::IA32_GS_BASE),
                gdtr,
                idtr: hw::idtr(),
                msrs: SwitchedMsrs::read(),
                capabilities,
            }
        };
        // The assembly takes both for granted: that threads' GS is 0, and that there are 256 gates.
        assert!(host.msrs.kernel_gs_base == 0 && host.idtr.limit >= 0xfff);
        Ok(host)
    }

    /// Writes the host state area of the current VMCS, but for CR3, RSP and RIP.
    pub fn write(&self) {
        let fields = [
            (host::CR0, self.cr0),
            (host::CR4, self.cr4),
            (host::IA32_EFER_FULL, self.efer),
            (host::IA32_PAT_FULL, self.pat),
            (host::CS_SELECTOR, u64::from(self.cs)),
            (host::SS_SELECTOR, u64::from(self.ss)),
            (host::DS_SELECTOR, 0),
            (host::ES_SELECTOR, 0),
            (host::FS_SELECTOR, 0),
            (host::GS_SELECTOR, 0),
            (host::TR_SELECTOR, u64::from(self.tr)),
            (host::FS_BASE, 0),
            (host::GS_BASE, self.gs_base),
            (host::TR_BASE, self.tr_base),
            (host::GDTR_BASE, self.gdtr.base),
            (host::IDTR_BASE, self.idtr.base),
            // Threads do not have SYSENTER: a null code segment makes it raise #GP.
            (host::IA32_SYSENTER_CS, 0),
            (host::IA32_SYSENTER_ESP, 0),
            (host::IA32_SYSENTER_EIP, 0),
        ];
        for (field, value) in fields {
            // SAFETY: the registers that the kernel runs with.
            unsafe { vmcs::write(field, value) };
        }
    }

    /// Restores the limit of GDTR, which an exit sets to FFFFh: a thread must not reach what is behind the table with a
    /// selector of its choice. That of IDTR is FFFFh, too: with 256 gates no vector is beyond it.
    #[inline(always)]
    pub fn restore_tables(&self) {
        // SAFETY: the values come from this CPU's registers (`enable`), and the tables stay.
        unsafe {
            hw::set_gdtr(&self.gdtr);
        }
    }
}
