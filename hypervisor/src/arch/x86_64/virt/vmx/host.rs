//! Host state: what one CPU's registers hold outside guest mode.

use x86::msr;
use x86::vmx::vmcs::host;

use super::super::features::{Backend, Features};
use super::super::hw::{self, TablePointer, rdmsr, wrmsr};
use super::super::state::{SyscallMsrs, cr0, cr4};
use super::super::{InitError, KernelPage};
use super::capabilities::{ALL, Capabilities, LOCKED, OUTSIDE_SMX};
use super::vmcs;

/// MSRs in each of the lists that exits store and load, and entries load: none, see [`SyscallMsrs::replace`].
pub const LISTED_MSRS: u64 = 0;

/// The host and guests both use these MSRs, VMX does not switch them by itself, and the kernel needs them only
/// when a thread runs. They are switched by WRMSR, only those that differ, and not for exits that the
/// kernel handles itself. Against autoload lists, which cost about as much for each entry as WRMSR does and
/// run on every exit, this costs a Linux guest WRMSR of LSTAR each way and RDMSR of KERNEL_GS_BASE, if the
/// host's STAR and SFMASK are those of Linux. The guest's writes to the first four exit, so that
/// they need not be read back.
impl SyscallMsrs {
    fn read() -> SyscallMsrs {
        // SAFETY: every processor with long mode has these MSRs.
        unsafe {
            SyscallMsrs {
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
    #[inline(never)]
    pub unsafe fn replace(&self, from: &SyscallMsrs) -> [bool; 2] {
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

/// Fields of the host-state area that are written for each VMCS; CR3, RSP and RIP are beside.
const FIELDS: [u32; 11] = [
    host::CR0,
    host::CR4,
    host::IA32_EFER_FULL,
    host::IA32_PAT_FULL,
    host::CS_SELECTOR,
    host::SS_SELECTOR,
    host::TR_SELECTOR,
    host::GS_BASE,
    host::TR_BASE,
    host::GDTR_BASE,
    host::IDTR_BASE,
];
/// Those that are 0.
const ZERO_FIELDS: [u32; 8] = [
    host::DS_SELECTOR,
    host::ES_SELECTOR,
    host::FS_SELECTOR,
    host::GS_SELECTOR,
    host::FS_BASE,
    host::IA32_SYSENTER_CS,
    host::IA32_SYSENTER_ESP,
    host::IA32_SYSENTER_EIP,
];

/// Host state of one CPU, as it is when the CPU starts; it stays so, but for CR3.
#[derive(Debug)]
pub(in super::super) struct HostState {
    /// The values of [`FIELDS`].
    fields: [u64; FIELDS.len()],
    pub(super) gdtr: TablePointer,
    pub(super) msrs: SyscallMsrs,
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
        let Backend::Vmx(capabilities) = features.backend else {
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
            vmcs::vmxon(page.phys()).map_err(|_| InitError::Refused)?;
        }
        vmcs::invept(ALL, 0);
        vmcs::invvpid(ALL, 0);
        let (gdtr, idtr, tr) = (hw::gdtr(), hw::idtr(), hw::tr());
        // SAFETY: GDTR and TR are the kernel's; PAT, EFER and GS base are on every processor with VMX.
        let fields = unsafe {
            [
                cr0,
                cr4,
                rdmsr(msr::IA32_EFER),
                rdmsr(msr::IA32_PAT),
                u64::from(hw::cs()),
                u64::from(hw::ss()),
                u64::from(tr),
                rdmsr(msr::IA32_GS_BASE),
                hw::task_base(gdtr.base, tr),
                gdtr.base,
                idtr.base,
            ]
        };
        let msrs = SyscallMsrs::read();
        // The assembly takes both for granted: that threads' GS is 0, and that there are 256 gates.
        assert!(msrs.kernel_gs_base == 0 && idtr.limit >= 0xfff);
        Ok(HostState { fields, gdtr, msrs })
    }

    /// Writes the host state area of the current VMCS, but for CR3, RSP and RIP.
    pub fn write(&self) {
        for (&field, &value) in FIELDS.iter().zip(&self.fields) {
            // SAFETY: the registers that the kernel runs with.
            unsafe { vmcs::write(field, value) };
        }
        // SAFETY: threads have no segments but their own, and no SYSENTER: a null code segment makes it raise #GP.
        unsafe { vmcs::clear(&ZERO_FIELDS) };
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
