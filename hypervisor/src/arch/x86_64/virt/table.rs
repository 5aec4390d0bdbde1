//! Whose each register is: one row for every one that guests or threads can change. The MSR maps of both extensions follow
//! from it.
//!
//! Threads have general registers, RFLAGS but for IOPL, TF and IF, and the FS and GS selectors; of the rest they read what
//! is the machine's. What threads see of a guest is what the kernel gives its monitor on the state page, and, while no
//! other program runs, XCR0 and TSC_AUX, which the monitor has set itself (WRMSR and XSETBV exit), and DR0 to DR3 and under
//! VMX DR6, which cannot be read at privilege level 3 and break nothing, as DR7 is off.

use x86::msr;

/// Who switches a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// VM entry and exit, or VMLOAD and VMSAVE beside them: at each exit.
    Processor,
    /// The kernel: the guest's when its vCPU is loaded, the machine's when it is suspended, which is before any program but
    /// its monitor, or another vCPU runs.
    Kernel,
    /// The kernel: as `Kernel`, but the machine's before any thread runs.
    Lent,
    /// The kernel, when another vCPU comes to run; it is out of threads' reach. Where CPUs show it to them nevertheless
    /// (LazyFP), the kernel clears it when the vCPU is suspended.
    Resident,
    /// Nobody: it is the machine's, and the same for all. A guest's access exits or raises an exception.
    Nobody,
}

/// What a guest does with the MSRs of a row without an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Reads and writes.
    All,
    /// Reads.
    Read,
    /// Neither.
    None,
}

/// How an extension treats registers.
type Treatment = (Keeper, Access);

/// Registers that are treated alike.
pub(super) struct Row {
    /// Their names, for readers.
    #[cfg_attr(not(test), expect(dead_code))]
    pub names: &'static str,
    /// Their numbers, if they are MSRs, and what else is in reach of RDMSR.
    pub msrs: &'static [u32],
    pub vmx: Treatment,
    pub svm: Treatment,
}

const fn row(names: &'static str, msrs: &'static [u32], vmx: Treatment, svm: Treatment) -> Row {
    Row { names, msrs, vmx, svm }
}

const SWITCHED: Treatment = (Keeper::Processor, Access::All);
/// The guest's writes exit, as the bits are checked.
const CHECKED: Treatment = (Keeper::Processor, Access::None);
const SET_BY_MONITOR: Treatment = (Keeper::Kernel, Access::None);
const KEPT: Treatment = (Keeper::Kernel, Access::All);
const LENT: Treatment = (Keeper::Lent, Access::All);
/// Writes exit, so that the values need not be read back.
const LENT_TO_READ: Treatment = (Keeper::Lent, Access::Read);
const RESIDENT: Treatment = (Keeper::Resident, Access::All);
const TRAPPED: Treatment = (Keeper::Nobody, Access::None);

/// The table. The image holds [`OPEN`] of it only.
pub(super) const TABLE: [Row; 17] = [
    row("general, RIP, RFLAGS", &[], SWITCHED, SWITCHED),
    row("segments, LDTR, TR, GDTR, IDTR", &[], SWITCHED, SWITCHED),
    row("CR0, CR3, CR4, DR7", &[], SWITCHED, SWITCHED),
    row("EFER", &[msr::IA32_EFER], CHECKED, CHECKED),
    // VMX does not switch CR2: the kernel does, at each entry and exit.
    row("CR2", &[], SWITCHED, SWITCHED),
    // Under VMX accesses exit; under SVM it is V_TPR of the VMCB.
    row("CR8", &[], TRAPPED, SWITCHED),
    row(
        "SYSENTER",
        &[msr::IA32_SYSENTER_CS, msr::IA32_SYSENTER_ESP, msr::IA32_SYSENTER_EIP],
        SWITCHED,
        SWITCHED,
    ),
    row("PAT", &[msr::IA32_PAT], SWITCHED, SWITCHED),
    row("FS and GS base", &[msr::IA32_FS_BASE, msr::IA32_GS_BASE], SWITCHED, SWITCHED),
    row("KERNEL_GS_BASE", &[msr::IA32_KERNEL_GSBASE], LENT, SWITCHED),
    row(
        "SYSCALL",
        &[msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK],
        LENT_TO_READ,
        SWITCHED,
    ),
    row("TSC_AUX", &[msr::IA32_TSC_AUX], SET_BY_MONITOR, SET_BY_MONITOR),
    row("XCR0", &[], SET_BY_MONITOR, SET_BY_MONITOR),
    row("DR0 to DR3, DR6", &[], KEPT, KEPT),
    row("x87, SSE, AVX, AVX-512, PKRU", &[], RESIDENT, RESIDENT),
    // MPX and AMX are not in XCR0, so their instructions raise #UD.
    row("MPX, AMX, IA32_XSS", &[super::hw::msr::XSS], TRAPPED, TRAPPED),
    // As any MSR that is not named above: counters, debug and branch records, speculation, memory types, APIC.
    row(
        "counters, DEBUGCTL, SPEC_CTRL, PRED_CMD, MTRRs, APIC base",
        &[
            msr::IA32_PMC0,
            msr::IA32_PERFEVTSEL0,
            msr::IA32_PERF_GLOBAL_CTRL,
            msr::IA32_DEBUGCTL,
            0x48,
            0x49,
            msr::IA32_MTRR_DEF_TYPE,
            msr::IA32_APIC_BASE,
        ],
        TRAPPED,
        TRAPPED,
    ),
];

/// An MSR that guests access without an exit, and how under VMX and under SVM.
#[derive(Clone, Copy)]
pub(super) struct Open {
    pub msr: u32,
    pub vmx: Access,
    pub svm: Access,
}

/// All of them.
pub(super) static OPEN: [Open; 11] = {
    let mut open = [Open { msr: 0, vmx: Access::None, svm: Access::None }; 11];
    let (mut count, mut row) = (0, 0);
    while row < TABLE.len() {
        let Row { msrs, vmx, svm, .. } = TABLE[row];
        let mut i = 0;
        while i < msrs.len() && !matches!((vmx.1, svm.1), (Access::None, Access::None)) {
            open[count] = Open { msr: msrs[i], vmx: vmx.1, svm: svm.1 };
            (count, i) = (count + 1, i + 1);
        }
        row += 1;
    }
    assert!(count == open.len());
    open
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_guests_change_is_switched() {
        for row in &TABLE {
            for (keeper, access) in [row.vmx, row.svm] {
                let kept = keeper != Keeper::Nobody;
                assert!(kept || access == Access::None, "{}", row.names);
            }
        }
    }

    #[test]
    fn the_readme_has_each_row() {
        let text = include_str!("../../../../README.md");
        for row in &TABLE {
            assert!(text.contains(&format!("\n| {} |", row.names)), "{}", row.names);
        }
    }

    #[test]
    fn each_register_has_one_row() {
        let mut msrs: Vec<u32> = TABLE.iter().flat_map(|row| row.msrs).copied().collect();
        let count = msrs.len();
        msrs.sort();
        msrs.dedup();
        assert_eq!(msrs.len(), count);
    }
}
