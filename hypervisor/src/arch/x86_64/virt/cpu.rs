//! What a CPU has for its vCPUs.

use core::sync::atomic::{AtomicU32, Ordering};

use x86::msr::{IA32_TSC_AUX, rdmsr, wrmsr};

use super::super::speculation::Measures;
use super::features::{self, Backend, Missing};
use super::state::Limits;
use super::vmx::HostState;
use super::{HostPhys, HostVirt, KernelPage, fpu, svm};

/// Pages that a CPU needs: VMXON region, or host save area; host state of VMSAVE.
pub const PAGES_PER_CPU: usize = 2;

/// Identifies a CPU, or one start of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CpuId(u32);

impl CpuId {
    pub const NONE: CpuId = CpuId(0);
}

/// Identifies a vCPU: the physical address of its control structure. 0 is none.
pub(super) type VcpuId = u64;

/// What one CPU has for its vCPUs. It stays on that CPU. Before [`init_cpu`], no vCPU can be entered.
#[derive(Debug, Default)]
pub struct CpuVirt {
    pub(super) id: CpuId,
    pub(super) limits: Limits,
    /// The vCPU whose VMCS is current.
    pub(in crate::arch) current: VcpuId,
    /// The vCPU whose registers are in the processor where threads have theirs: not yet suspended.
    pub(super) loaded: VcpuId,
    pub(super) fpu: fpu::Unit,
    /// A VM exit has shortened the task state segment.
    pub(in crate::arch) task_limit_lost: bool,
    /// CPU buffers are overwritten before guest code runs.
    pub(super) overwrites_buffers: bool,
    /// The return stack is filled after guest code has run.
    pub(in crate::arch) fills_returns: bool,
    /// A guest's vector registers are cleared before threads run.
    clears_vectors: bool,
    has_tsc_aux: bool,
    tsc_aux: u64,
    host_tsc_aux: u64,
    /// Under VMX, the host state.
    pub(in crate::arch) host: HostState,
    /// Under SVM, where VMSAVE has put what VMRUN does not switch ([`svm::enable`]).
    pub(super) saved: HostPhys,
}

static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// Makes the current CPU able to run vCPUs, after [`super::detect`] has run on the boot CPU.
///
/// The values of CR0 (with TS), CR4, EFER, PAT, CS, SS, TR, GDTR, IDTR, GS base, KERNEL_GS_BASE and the SYSCALL
/// MSRs at this moment are what the CPU has after every exit and, for those that are switched lazily, after
/// [`super::VcpuArch::suspend`].
///
/// `task_state` is the base of TR. `ways_out` are where exits arrive under VMX: where the return stack is not filled, and
/// where it is.
///
/// # Safety
///
/// Once on each CPU, late in its start-up: the registers above have their final values, and interrupts
/// are off. The pages are zeroed, mapped, and used for nothing else for ever. CR4 bits that this sets
/// (VMXE, OSFXSR, OSXMMEXCPT, OSXSAVE), CR0.NE and EFER.SVME stay set; threads run with CR0.TS set.
pub unsafe fn init_cpu(
    cpu: &mut CpuVirt,
    pages: [KernelPage; PAGES_PER_CPU],
    measures: Measures,
    task_state: HostVirt,
    ways_out: [u64; 2],
) -> Result<(), Missing> {
    let features = features::features();
    let found = Backend::find()?;
    if features.backend.as_ref() != Some(&found) {
        return Err(Missing::Feature("its virtualisation differs from the boot CPU's"));
    }
    // SAFETY: the caller's; `enable` sets the CR4 bits that the unit needs.
    unsafe {
        features::enable(features);
        cpu.fpu.start(features.fpu);
    }
    cpu.overwrites_buffers = measures.contains(Measures::BUFFERS);
    cpu.fills_returns = measures.contains(Measures::RETURNS);
    let way_out = ways_out[usize::from(cpu.fills_returns)];
    // SAFETY: the caller's.
    unsafe {
        match found {
            Backend::Vmx(it) => cpu.host = HostState::enable(&it, pages[0], task_state, way_out)?,
            Backend::Svm(_) => cpu.saved = svm::enable(pages),
        }
    }
    cpu.clears_vectors = measures.contains(Measures::VECTORS);
    cpu.limits = features.limits;
    cpu.has_tsc_aux = features.tsc_aux;
    if features.tsc_aux {
        // SAFETY: CPUID reports the MSR.
        cpu.host_tsc_aux = unsafe { rdmsr(IA32_TSC_AUX) };
        cpu.tsc_aux = cpu.host_tsc_aux;
    }
    cpu.id = CpuId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    Ok(())
}

impl CpuVirt {
    /// Whether a VM exit has cut the limit of the task register to 67h since the last call: the I/O permission
    /// bitmap is then out of reach, and TR must be loaded anew before a thread with ports runs.
    #[inline(always)]
    pub fn take_task_limit_lost(&mut self) -> bool {
        core::mem::replace(&mut self.task_limit_lost, false)
    }

    /// Gives RDTSCP and RDPID a vCPU's value.
    #[inline(always)]
    pub(super) fn load_tsc_aux(&mut self, value: u64) {
        if self.tsc_aux != value && self.has_tsc_aux {
            // SAFETY: CPUID reports the MSR; the upper half is clear (`load`).
            unsafe { wrmsr(IA32_TSC_AUX, value) };
            self.tsc_aux = value;
        }
    }

    /// Gives threads the machine's XCR0: after a vCPU was suspended and no other one is loaded.
    #[inline(always)]
    pub fn restore_xcr0(&mut self) {
        self.fpu.restore_xcr0();
    }

    /// Gives threads the machine's TSC_AUX. The vector registers stay those of the vCPU with this area, if CPUs keep
    /// threads from them.
    #[inline(always)]
    pub(super) fn restore_registers(&mut self, area: fpu::Area) {
        self.load_tsc_aux(self.host_tsc_aux);
        if self.clears_vectors {
            self.fpu.disown(area);
        }
    }
}
