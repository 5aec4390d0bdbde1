//! Model-specific registers: what the guest finds at each number.
//!
//! A number that is not in the table does not exist: #GP.
use guest_linux_shim::kvm::msr as kvm;

/// Meaning of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Msr {
    /// Reads as this; writes are refused.
    ReadOnly(u64),
    /// Reads as this; writes have no effect: features that are not there, as Linux expects to find them.
    Ignored(u64),
    /// Only this value can be written; it is what it reads as.
    Only(u64),
    /// Keeps what is written; starts as 0.
    Kept(Kept),
    /// IA32_APIC_BASE.
    ApicBase,
    /// Register of the x2APIC.
    X2apic(u32),
    /// IA32_TSC_DEADLINE.
    TscDeadline,
    /// IA32_TIME_STAMP_COUNTER.
    Tsc,
    /// IA32_TSC_AUX.
    TscAux,
    /// IA32_EFER.
    Efer,
    /// MSRs of SYSCALL and SYSENTER, where the kernel does not pass them through.
    Syscall(Syscall),
    /// KVM: system time.
    SystemTime,
    /// KVM: wall clock.
    WallClock,
    /// KVM: EOI without an exit.
    PvEoi,
}

/// MSRs of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the manual's names")]
pub enum Syscall {
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
}

/// MSRs that keep what is written, without any effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the manual's names")]
pub enum Kept {
    MtrrDefType,
    MiscEnable,
    McgStatus,
    BiosSignature,
}

/// Number of [`Kept`] MSRs.
pub const KEPT: usize = 4;

impl Kept {
    /// Index in an array of values.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Value after reset.
    pub const fn initial(self) -> u64 {
        match self {
            // MTRRs enabled, all memory write-back: there are no ranges.
            Kept::MtrrDefType => 1 << 11 | 6,
            // Fast strings; no branch trace, no precise sampling.
            Kept::MiscEnable => 1 | 1 << 11 | 1 << 12,
            _ => 0,
        }
    }

    /// Every one, by index.
    pub const ALL: [Kept; KEPT] =
        [Kept::MtrrDefType, Kept::MiscEnable, Kept::McgStatus, Kept::BiosSignature];
}

const TABLE: &[(u32, Msr)] = &[
    (0x10, Msr::Tsc),
    (kvm::WALL_CLOCK_OLD, Msr::WallClock),
    (kvm::SYSTEM_TIME_OLD, Msr::SystemTime),
    // IA32_PLATFORM_ID.
    (0x17, Msr::ReadOnly(0)),
    (0x1b, Msr::ApicBase),
    // EBL_CR_POWERON, read by Linux on old families.
    (0x2a, Msr::Ignored(0)),
    // SMI_COUNT: no SMI ever.
    (0x34, Msr::ReadOnly(0)),
    // IA32_FEATURE_CONTROL: locked, nothing enabled.
    (0x3a, Msr::ReadOnly(1)),
    // Microcode update trigger and signature.
    (0x79, Msr::Ignored(0)),
    (0x8b, Msr::Kept(Kept::BiosSignature)),
    // PLATFORM_INFO: no CPUID faulting, ratios unknown.
    (0xce, Msr::ReadOnly(0)),
    // PKG_CST_CONFIG_CONTROL.
    (0xe2, Msr::Ignored(0)),
    // IA32_MTRRCAP: no ranges, variable or fixed; write-combining.
    (0xfe, Msr::ReadOnly(1 << 10)),
    // MISC_FEATURE_ENABLES: no CPUID faulting, no MWAIT in user mode.
    (0x140, Msr::Only(0)),
    (0x174, Msr::Syscall(Syscall::SysenterCs)),
    (0x175, Msr::Syscall(Syscall::SysenterEsp)),
    (0x176, Msr::Syscall(Syscall::SysenterEip)),
    // IA32_MCG_CAP: no banks. IA32_MCG_STATUS.
    (0x179, Msr::ReadOnly(0)),
    (0x17a, Msr::Kept(Kept::McgStatus)),
    // IA32_MISC_ENABLE.
    (0x1a0, Msr::Kept(Kept::MiscEnable)),
    // IA32_ENERGY_PERF_BIAS, IA32_DEBUGCTL without any feature.
    (0x1b0, Msr::Ignored(0)),
    (0x1d9, Msr::Only(0)),
    // IA32_MTRR_DEF_TYPE.
    (0x2ff, Msr::Kept(Kept::MtrrDefType)),
    // RAPL_POWER_UNIT, PP1_ENERGY_STATUS.
    (0x606, Msr::ReadOnly(0)),
    (0x6e0, Msr::TscDeadline),
    // IA32_XSS: no supervisor components.
    (0xda0, Msr::Only(0)),
    (kvm::WALL_CLOCK, Msr::WallClock),
    (kvm::SYSTEM_TIME, Msr::SystemTime),
    (kvm::PV_EOI, Msr::PvEoi),
    (0xc000_0080, Msr::Efer),
    (0xc000_0081, Msr::Syscall(Syscall::Star)),
    (0xc000_0082, Msr::Syscall(Syscall::Lstar)),
    (0xc000_0083, Msr::Syscall(Syscall::Cstar)),
    (0xc000_0084, Msr::Syscall(Syscall::Sfmask)),
    (0xc000_0102, Msr::Syscall(Syscall::KernelGsBase)),
    (0xc000_0103, Msr::TscAux),
    // SYSCFG: no encryption. HWCR: TSC frequency selected, so that Linux does not warn.
    (0xc001_0010, Msr::Ignored(0)),
    (0xc001_0015, Msr::Ignored(1 << 24)),
    // Top of memory registers and the ranges before them.
    (0xc001_001a, Msr::Ignored(0)),
    (0xc001_001d, Msr::Ignored(0)),
    // NB_CFG.
    (0xc001_001f, Msr::Ignored(0)),
    // INT_PENDING (no C1E), MMIO_CONF_BASE (none), P-state limits, SMM base and mask.
    (0xc001_0055, Msr::Ignored(0)),
    (0xc001_0058, Msr::Ignored(0)),
    (0xc001_0111, Msr::Ignored(0)),
    (0xc001_0112, Msr::Ignored(0)),
    (0xc001_0113, Msr::Ignored(0)),
    // VM_CR: SVM disabled and locked.
    (0xc001_0114, Msr::ReadOnly(1 << 4 | 1 << 3)),
    // OSVW: no errata with a workaround.
    (0xc001_0140, Msr::ReadOnly(0)),
    (0xc001_0141, Msr::ReadOnly(0)),
    // LS_CFG, IC_CFG, DC_CFG, BU_CFG, FP_CFG.
    (0xc001_1020, Msr::Ignored(0)),
    (0xc001_1021, Msr::Ignored(0)),
    (0xc001_1022, Msr::Ignored(0)),
    (0xc001_1023, Msr::Ignored(0)),
    (0xc001_1028, Msr::Ignored(0)),
    // DE_CFG: LFENCE serialises, as on every processor that this runs on.
    (0xc001_1029, Msr::Ignored(1 << 1)),
    (0xc001_102a, Msr::Ignored(0)),
    (0xc001_102d, Msr::Ignored(0)),
];

/// What is at `number`.
#[inline]
pub fn find(number: u32) -> Option<Msr> {
    if let 0x800..0x900 = number {
        return Some(Msr::X2apic(number - 0x800));
    }
    TABLE.binary_search_by_key(&number, |&(number, _)| number).ok().map(|i| TABLE[i].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_searched() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        assert_eq!(find(0x6e0), Some(Msr::TscDeadline));
        assert_eq!(find(0x80b), Some(Msr::X2apic(0xb)));
        assert_eq!(find(0x10a), None);
        for (i, kept) in Kept::ALL.into_iter().enumerate() {
            assert_eq!(kept.index(), i);
        }
    }
}
