//! What the processor's SVM can do, and host state of one CPU.

use core::arch::asm;

use x86::msr::{IA32_EFER, rdmsr, wrmsr};

use super::super::super::cpuid;
use super::super::cpu::PAGES_PER_CPU;
use super::super::features::Missing;
use super::super::hw;
use super::super::state::{cr0, efer};
use super::super::{HostPhys, KernelPage};
use super::maps;

/// VM_CR: EFER.SVME cannot be set.
const SVM_DISABLED: u64 = 1 << 4;

/// What the processor's SVM can do (CPUID leaf 8000_000Ah).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Capabilities {
    /// Number of ASIDs, 0 included.
    pub asids: u32,
    /// Exits tell the address of the next instruction.
    pub next_rip: bool,
    /// The processor looks at the clean bits.
    pub clean_bits: bool,
    /// One ASID can be flushed.
    pub flush_by_asid: bool,
}

impl Capabilities {
    /// Asks the current CPU, which has SVM by CPUID.
    pub fn find() -> Result<Capabilities, Missing> {
        maps::fill();
        // SAFETY: a processor with SVM has the MSR.
        if unsafe { rdmsr(hw::msr::VM_CR) } & SVM_DISABLED != 0 {
            return Err(Missing::Feature(
                "SVM is disabled by firmware (VM_CR.SVMDIS): enable it there",
            ));
        }
        let leaf = cpuid::leaf(0x8000_000a, 0);
        Capabilities::compute(leaf.ebx, leaf.edx)
    }

    fn compute(asids: u32, features: u32) -> Result<Capabilities, Missing> {
        let has = |bit: u32| features >> bit & 1 != 0;
        if !has(0) {
            return Err(Missing::Feature("SVM without nested paging"));
        }
        if asids < 2 {
            return Err(Missing::Feature("SVM with fewer than two ASIDs"));
        }
        Ok(Capabilities {
            // Tags are 16 bits wide.
            asids: asids.min(1 << 16),
            next_rip: has(3),
            clean_bits: has(5),
            flush_by_asid: has(6),
        })
    }
}

/// Enables SVM on the current CPU. Returns where VMSAVE has put what VMRUN does not switch: FS, GS, TR, LDTR,
/// KERNEL_GS_BASE, the SYSCALL and SYSENTER MSRs. Written once, loaded after every exit.
///
/// # Safety
///
/// As for `init_cpu`; the first page becomes the host save area of VMRUN, whose format is the processor's,
/// the second that of VMSAVE.
pub unsafe fn enable([area, saved]: [KernelPage; PAGES_PER_CPU]) -> HostPhys {
    // SAFETY: a processor with SVM that is not disabled has the EFER bit and the MSR; the pages are the
    // caller's to give; TS keeps threads from vector registers.
    unsafe {
        hw::set_cr0(hw::cr0() | cr0::TS);
        wrmsr(IA32_EFER, rdmsr(IA32_EFER) | efer::SVME);
        wrmsr(hw::msr::VM_HSAVE_PA, area.phys().0);
        asm!("vmsave rax", in("rax") saved.phys().0, options(nostack, preserves_flags));
    }
    saved.phys()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu() {
        // QEMU 7.2: NPT and VGIF, 16 ASIDs.
        let found = Capabilities::compute(16, 1 << 16 | 1).unwrap();
        assert_eq!(
            found,
            Capabilities { asids: 16, next_rip: false, clean_bits: false, flush_by_asid: false }
        );
    }

    #[test]
    fn needs_nested_paging() {
        for (asids, features, what) in [(16, !1, "nested paging"), (1, 1, "two ASIDs")] {
            let missing = Capabilities::compute(asids, features).unwrap_err();
            assert!(missing.to_string().ends_with(what));
        }
    }
}
