//! Host state: what one CPU's registers hold outside guest mode.

use x86::dtables::{DescriptorTablePointer, sgdt, sidt};
use x86::msr::{self, rdmsr, wrmsr};
use x86::segmentation::{cs, ss};
use x86::task::tr;
use x86::vmx::vmcs::host;

use super::super::features::Missing;
use super::super::hw;
use super::super::state::{SyscallMsrs, cr0, cr4};
use super::super::{HostVirt, KernelPage};
use super::capabilities::{ALL, Capabilities, LOCKED, OUTSIDE_SMX};
use super::vmcs;

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

/// Fields of the host-state area that are 0: threads have no segments but their own, and no SYSENTER: a null code segment
/// makes it raise #GP.
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
#[derive(Debug, Default)]
pub(in crate::arch) struct HostState {
    /// Fields of the host-state area that are written for each VMCS; CR3 and RSP are beside.
    fields: [(u32, u64); 12],
    pub gdtr: DescriptorTablePointer<u64>,
    pub msrs: SyscallMsrs,
}

impl HostState {
    /// Enters VMX operation and remembers the CPU's registers. `task_state` is the base of TR, `way_out` where exits arrive.
    ///
    /// # Safety
    ///
    /// As for `init_cpu`; `page` becomes the VMXON region.
    pub(in super::super) unsafe fn enable(
        capabilities: &Capabilities,
        page: KernelPage,
        task_state: HostVirt,
        way_out: u64,
    ) -> Result<HostState, Missing> {
        let cr0 = hw::cr0() | cr0::TS | capabilities.cr0_needed & 0xffff_ffff;
        let cr4 = hw::cr4() | capabilities.cr4_needed & 0xffff_ffff | cr4::VMXE;
        // SAFETY: a processor with VMX has the MSR, and takes the write while it is not locked. Bits that VMX operation
        // demands: PE, NE, PG in CR0, VMXE in CR4. The page is ours, in the window, and large enough for a VMXON region.
        unsafe {
            let control = rdmsr(msr::IA32_FEATURE_CONTROL);
            if control & LOCKED == 0 {
                wrmsr(msr::IA32_FEATURE_CONTROL, control | LOCKED | OUTSIDE_SMX);
            }
            hw::set_cr0(cr0);
            hw::set_cr4(cr4);
            (page.virt.0 as *mut u32).write_volatile(capabilities.revision);
            vmcs::vmxon(page.phys()).map_err(|_| Missing::Feature("VMXON failed"))?;
        }
        vmcs::invept(ALL, 0);
        vmcs::invvpid(ALL, 0);
        let (mut gdtr, mut idtr) = <[DescriptorTablePointer<u64>; 2]>::default().into();
        // SAFETY: reading registers has no effect; PAT, EFER and GS base are on every processor with VMX.
        let fields = unsafe {
            sgdt(&mut gdtr);
            sidt(&mut idtr);
            [
                (host::CR0, cr0),
                (host::CR4, cr4),
                (host::IA32_EFER_FULL, rdmsr(msr::IA32_EFER)),
                (host::IA32_PAT_FULL, rdmsr(msr::IA32_PAT)),
                (host::CS_SELECTOR, cs().bits().into()),
                (host::SS_SELECTOR, ss().bits().into()),
                (host::TR_SELECTOR, tr().bits().into()),
                (host::GS_BASE, rdmsr(msr::IA32_GS_BASE)),
                (host::TR_BASE, task_state.0),
                (host::GDTR_BASE, gdtr.base as u64),
                (host::IDTR_BASE, idtr.base as u64),
                (host::RIP, way_out),
            ]
        };
        let msrs = SyscallMsrs::read();
        // The assembly takes both for granted: that threads' GS is 0, and that there are 256 gates.
        assert!(msrs.kernel_gs_base == 0 && idtr.limit >= 0xfff);
        Ok(HostState { fields, gdtr, msrs })
    }

    /// Writes the host state area of the current VMCS, but for CR3 and RSP.
    pub fn write(&self) {
        // SAFETY: the registers that the kernel runs with, and where it takes exits.
        unsafe {
            vmcs::write_all(&self.fields);
            vmcs::write_all(&ZERO_FIELDS.map(|field| (field, 0)));
        }
    }
}
