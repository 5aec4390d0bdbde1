//! Speculation: what x86-64 CPUs leak, by what they say of themselves, and the measures against it.
//!
//! Registers are set once on each CPU and guests do not reach them. Barriers ([`Measures::BARRIERS`]) are taken where
//! `CpuArch` prepares a thread or a guest, and by the backends of `virt`; without any, these places cost nothing.

use super::cpuid::{is_amd, leaf};
use crate::speculation::{Item, Verdict, choose};
use core::arch::asm;
use x86::msr::{IA32_EFER, rdmsr, wrmsr};

bitflags::bitflags! {
    /// What is done against speculation on a CPU.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Measures: u16 {
        /// Indirect branch predictors are emptied when another program or guest comes to run than the one before.
        const PREDICTORS = 1 << 0;
        /// CPU buffers are overwritten before programs and guests run.
        const BUFFERS = 1 << 1;
        /// The return stack is filled after each VM exit, before the first return.
        const RETURNS = 1 << 2;
        /// IA32_SPEC_CTRL.IBRS: branch predictions of the kernel are its own.
        const IBRS = 1 << 3;
        /// IA32_SPEC_CTRL.STIBP: those of each hyperthread are its own.
        const STIBP = 1 << 4;
        /// IA32_SPEC_CTRL.SSBD: loads do not bypass stores.
        const SSBD = 1 << 5;
        /// IA32_SPEC_CTRL.BHI_DIS_S: the kernel's branches do not follow programs' histories.
        const HISTORY = 1 << 6;
        /// EFER.AIBRSE: as IBRS.
        const AUTOMATIC_IBRS = 1 << 7;
        /// IA32_TSX_CTRL: transactions abort.
        const NO_TRANSACTIONS = 1 << 8;
        /// A guest's vector registers are cleared before threads run.
        const VECTORS = 1 << 9;
        /// What is done over and over, for programs.
        const BARRIERS = Self::PREDICTORS.bits() | Self::BUFFERS.bits();
    }
}

/// What a CPU says of itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// "AuthenticAMD" or "HygonGenuine".
    pub amd: bool,
    /// Family, with the extended family.
    pub family: u32,
    /// Model, with the extended model.
    pub model: u32,
    /// CPUID 1:EDX.
    pub basic: u32,
    /// CPUID 7.0:EBX.
    pub structured_ebx: u32,
    /// CPUID 7.0:EDX.
    pub structured: u32,
    /// CPUID 7.2:EDX.
    pub structured2: u32,
    /// CPUID 8000_0008:EBX.
    pub sizes: u32,
    /// CPUID 8000_0021:EAX.
    pub amd_features: u32,
    /// CPUID 8000_0021:ECX.
    pub amd_immunities: u32,
    /// IA32_ARCH_CAPABILITIES, or 0.
    pub capabilities: u64,
}

/// Bits of IA32_ARCH_CAPABILITIES (Intel SDM 4, table 2-2).
mod capability {
    pub const RDCL_NO: u64 = 1 << 0;
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const TSX_CTRL: u64 = 1 << 7;
    pub const TAA_NO: u64 = 1 << 8;
    /// SBDR_SSDP_NO, FBSDP_NO, PSDP_NO.
    pub const MMIO_NO: u64 = 7 << 13;
    pub const FB_CLEAR: u64 = 1 << 17;
    pub const BHI_NO: u64 = 1 << 20;
    pub const GDS_CTRL: u64 = 1 << 25;
    pub const GDS_NO: u64 = 1 << 26;
    pub const RFDS_NO: u64 = 1 << 27;
    pub const RFDS_CLEAR: u64 = 1 << 28;
}

const IA32_SPEC_CTRL: u32 = 0x48;
const IA32_PRED_CMD: u32 = 0x49;
const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
const IA32_TSX_CTRL: u32 = 0x122;
const EFER_AUTOMATIC_IBRS: u64 = 1 << 21;
/// IA32_TSX_CTRL: RTM_DISABLE and TSX_CPUID_CLEAR.
const TSX_OFF: u64 = 3;

/// Models whose register files leak (Intel, "Register File Data Sampling": Goldmont, Tremont, Gracemont).
const REGISTER_FILES: [u32; 12] =
    [0x5c, 0x5f, 0x7a, 0x86, 0x8a, 0x96, 0x97, 0x9a, 0x9c, 0xb7, 0xba, 0xbe];

impl Identity {
    /// Reads that of the current CPU.
    pub fn read() -> Identity {
        let signature = leaf(1, 0);
        let structured = leaf(7, 0);
        let features = leaf(0x8000_0021, 0);
        let has_capabilities = structured.edx >> 29 & 1 != 0;
        Identity {
            amd: is_amd(leaf(0, 0).ebx),
            family: (signature.eax >> 8 & 0xf) + (signature.eax >> 20 & 0xff),
            model: signature.eax >> 4 & 0xf | signature.eax >> 12 & 0xf0,
            basic: signature.edx,
            structured_ebx: structured.ebx,
            structured: structured.edx,
            structured2: if structured.eax >= 2 { leaf(7, 2).edx } else { 0 },
            sizes: leaf(0x8000_0008, 0).ebx,
            amd_features: features.eax,
            amd_immunities: features.ecx,
            capabilities: if has_capabilities {
                // SAFETY: CPUID says that the register exists.
                unsafe { rdmsr(IA32_ARCH_CAPABILITIES) }
            } else {
                0
            },
        }
    }

    /// Programs can read kernel memory: AMD's CPUs are not affected, others are unless they say so. They are not
    /// affected by L1TF either then.
    pub fn leaks_kernel_memory(&self) -> bool {
        self.lacks(capability::RDCL_NO)
    }

    /// It is affected, as it is not AMD's and does not say that it is immune.
    fn lacks(&self, immunity: u64) -> bool {
        !self.amd && !self.has(immunity)
    }

    fn has(&self, capability: u64) -> bool {
        self.capabilities & capability == capability
    }

    fn has_verw(&self) -> bool {
        self.structured >> 10 & 1 != 0
    }

    /// A feature that Intel and AMD report in different words.
    fn has_either(&self, intel: u32, amd: u32) -> bool {
        if self.amd { self.sizes >> amd & 1 != 0 } else { self.structured >> intel & 1 != 0 }
    }
}

/// A verdict on what affects some CPUs: mitigated where it `can` be, as the microcode, too, knows of it.
const fn verdict(
    affected: bool,
    can: bool,
    how: &'static str,
    measures: Measures,
) -> Verdict<Measures> {
    match (affected, can) {
        (false, _) => Verdict::NotAffected,
        (true, true) => Verdict::Mitigated(how, measures),
        (true, false) => Verdict::Open("the microcode has no mitigation"),
    }
}

/// A verdict on what leaks from buffers, if VERW `can` overwrite them.
const fn clearing(affected: bool, can: bool) -> Verdict<Measures> {
    verdict(affected, can, "VERW", Measures::BUFFERS)
}

/// A verdict on what the kernel does nothing about.
const fn open(affected: bool, why: &'static str) -> Verdict<Measures> {
    if affected { Verdict::Open(why) } else { Verdict::NotAffected }
}

/// The table.
const TABLE: &[Item<Identity, Measures>] = &[
    Item("Meltdown, L1TF", |cpu| open(cpu.leaks_kernel_memory(), "no page-table isolation")),
    // No CPU says that it is not affected.
    Item("LazyFP", |cpu| verdict(!cpu.amd, true, "clearing vector registers", Measures::VECTORS)),
    Item("MDS", |cpu| clearing(cpu.lacks(capability::MDS_NO), cpu.has_verw())),
    Item("TAA", |cpu| {
        let transactions = cpu.structured_ebx >> 11 & 1 != 0;
        let affected = transactions && cpu.lacks(capability::TAA_NO);
        match cpu.has(capability::TSX_CTRL) {
            true => verdict(affected, true, "TSX off", Measures::NO_TRANSACTIONS),
            false => clearing(affected, cpu.has_verw()),
        }
    }),
    Item("MMIO stale data", |cpu| {
        let all = cpu.has_verw() && !cpu.has(capability::MDS_NO);
        clearing(cpu.lacks(capability::MMIO_NO), all || cpu.has(capability::FB_CLEAR))
    }),
    Item("register files", |cpu| {
        let listed = cpu.family == 6 && REGISTER_FILES.contains(&cpu.model);
        clearing(listed && cpu.lacks(capability::RFDS_NO), cpu.has(capability::RFDS_CLEAR))
    }),
    Item("scheduler attacks (TSA)", |cpu| {
        let affected = cpu.amd && cpu.family == 0x19 && cpu.amd_immunities & 6 != 6;
        clearing(affected, cpu.amd_features >> 5 & 1 != 0)
    }),
    Item("gather data sampling", |cpu| {
        let gathers = cpu.structured_ebx >> 5 & 1 != 0;
        let can = cpu.has(capability::GDS_CTRL);
        verdict(gathers && cpu.lacks(capability::GDS_NO), can, "microcode", Measures::empty())
    }),
    Item("Spectre v2, between programs and guests", |cpu| {
        verdict(true, cpu.has_either(26, 12), "IBPB", Measures::PREDICTORS)
    }),
    Item("Spectre v2, between hyperthreads", |cpu| {
        verdict(cpu.basic >> 28 & 1 != 0, cpu.has_either(27, 15), "STIBP", Measures::STIBP)
    }),
    Item("Spectre v2, in the kernel", |cpu| {
        if cpu.amd_features >> 8 & 1 != 0 {
            return Verdict::Mitigated("automatic IBRS", Measures::AUTOMATIC_IBRS);
        }
        // AMD: IBRS, which may always be on.
        let always = cpu.amd && cpu.sizes >> 14 & 5 == 5;
        match always || !cpu.amd && cpu.has(capability::IBRS_ALL) {
            true => Verdict::Mitigated("IBRS", Measures::IBRS),
            false => Verdict::Open("the kernel has no retpolines"),
        }
    }),
    Item("return stack, after guests", |_| Verdict::Mitigated("filling", Measures::RETURNS)),
    Item("returns (Retbleed, SRSO)", |cpu| {
        let zen = cpu.amd && matches!(cpu.family, 0x17..=0x19);
        open(zen && cpu.amd_features >> 29 & 1 == 0, "the kernel does not untrain them")
    }),
    Item("branch history", |cpu| {
        let can = cpu.structured2 >> 4 & 1 != 0;
        verdict(cpu.lacks(capability::BHI_NO), can, "BHI_DIS_S", Measures::HISTORY)
    }),
    Item("store bypass", |cpu| {
        let immune = cpu.has(capability::SSB_NO) || cpu.amd && cpu.sizes >> 26 & 1 != 0;
        verdict(!immune, cpu.has_either(31, 24), "SSBD, for all", Measures::SSBD)
    }),
];

impl Measures {
    /// Those for a CPU; see [`choose`].
    pub fn choose(cpu: &Identity, mitigate: bool, report: bool) -> Measures {
        choose(TABLE, cpu, mitigate, report)
    }

    /// Sets the current CPU's registers.
    ///
    /// # Safety
    /// The measures are those for this CPU.
    pub unsafe fn set_registers(self) {
        let mut control = 0;
        for (measure, bit) in [
            (Measures::IBRS, 0),
            (Measures::STIBP, 1),
            (Measures::SSBD, 2),
            (Measures::HISTORY, 10),
        ] {
            control |= u64::from(self.contains(measure)) << bit;
        }
        // SAFETY: each bit and register is there, as the table has asked for it.
        unsafe {
            if control != 0 {
                wrmsr(IA32_SPEC_CTRL, control);
            }
            if self.contains(Measures::AUTOMATIC_IBRS) {
                wrmsr(IA32_EFER, rdmsr(IA32_EFER) | EFER_AUTOMATIC_IBRS);
            }
            if self.contains(Measures::NO_TRANSACTIONS) {
                wrmsr(IA32_TSX_CTRL, TSX_OFF);
            }
        }
    }
}

/// Fills the return stack with entries that lead nowhere. `eax` is changed, and the flags.
macro_rules! fill_return_stack {
    () => {
        "mov eax, 16; \
         30: call 31f; 32: pause; lfence; jmp 32b; \
         31: call 33f; 34: pause; lfence; jmp 34b; \
         33: dec eax; jnz 30b; add rsp, 32 * 8; lfence"
    };
}
pub(crate) use fill_return_stack;

/// Empties the branch predictors (IBPB) and, as that may leave it alone, the return stack.
///
/// # Safety
/// The CPU has IA32_PRED_CMD.
#[cold]
pub unsafe fn empty_predictors() {
    // SAFETY: by the caller's word; the calls keep to the stack, and end where they began.
    unsafe {
        wrmsr(IA32_PRED_CMD, 1);
        asm!(fill_return_stack!(), out("eax") _);
    }
}

/// Overwrites CPU buffers (VERW, Intel SDM 2, with microcode that says so).
#[inline]
pub fn overwrite_buffers() {
    let selector = 0u16;
    // SAFETY: VERW of a null selector clears ZF.
    unsafe { asm!("verw word ptr [{}]", in(reg) &raw const selector, options(readonly, nostack)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measures(cpu: &Identity) -> Measures {
        Measures::choose(cpu, true, false)
    }

    fn open(cpu: &Identity) -> Vec<&'static str> {
        let is_open = |item: &&Item<Identity, Measures>| matches!((item.1)(cpu), Verdict::Open(_));
        TABLE.iter().filter(is_open).map(|item| item.0).collect()
    }

    /// Skylake, first microcode with barriers.
    const OLD: Identity = Identity {
        amd: false,
        family: 6,
        model: 0x5e,
        basic: 1 << 28,
        structured_ebx: 1 << 11 | 1 << 5,
        structured: 1 << 10 | 1 << 26 | 1 << 27 | 1 << 31,
        structured2: 0,
        sizes: 0,
        amd_features: 0,
        amd_immunities: 0,
        capabilities: 0,
    };

    /// Sapphire Rapids.
    const NEW: Identity = Identity {
        model: 0x8f,
        structured2: 1 << 4,
        capabilities: capability::RDCL_NO
            | capability::IBRS_ALL
            | capability::MDS_NO
            | capability::TAA_NO
            | capability::MMIO_NO
            | capability::GDS_NO,
        ..OLD
    };

    /// Zen 3.
    const MILAN: Identity = Identity {
        amd: true,
        family: 0x19,
        model: 1,
        basic: 1 << 28,
        structured_ebx: 1 << 5,
        sizes: 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 24,
        amd_features: 1 << 5,
        structured: 0,
        structured2: 0,
        amd_immunities: 0,
        capabilities: 0,
    };

    #[test]
    fn an_old_intel_cpu_leaks_much() {
        assert!(OLD.leaks_kernel_memory());
        assert_eq!(
            measures(&OLD),
            Measures::BARRIERS
                | Measures::VECTORS
                | Measures::RETURNS
                | Measures::STIBP
                | Measures::SSBD
        );
        let open = open(&OLD);
        for name in ["Meltdown, L1TF", "Spectre v2, in the kernel", "branch history"] {
            assert!(open.contains(&name), "{name}");
        }
    }

    #[test]
    fn a_new_intel_cpu_needs_no_buffers_overwritten() {
        assert!(!NEW.leaks_kernel_memory());
        assert_eq!(
            measures(&NEW),
            Measures::PREDICTORS
                | Measures::VECTORS
                | Measures::RETURNS
                | Measures::IBRS
                | Measures::STIBP
                | Measures::SSBD
                | Measures::HISTORY
        );
        assert!(open(&NEW).is_empty());
    }

    #[test]
    fn transactions_are_off_where_that_helps() {
        let cascade_lake = Identity {
            capabilities: NEW.capabilities & !capability::TAA_NO | capability::TSX_CTRL,
            ..NEW
        };
        assert!(measures(&cascade_lake).contains(Measures::NO_TRANSACTIONS));
        assert!(!measures(&cascade_lake).contains(Measures::BUFFERS));
        let without = Identity { structured_ebx: 0, ..cascade_lake };
        assert!(!measures(&without).contains(Measures::NO_TRANSACTIONS));
    }

    #[test]
    fn each_leak_of_buffers_is_enough_for_barriers() {
        for (lost, clears) in [(capability::MDS_NO, 0), (capability::MMIO_NO, capability::FB_CLEAR)]
        {
            let cpu = Identity { capabilities: NEW.capabilities & !lost | clears, ..NEW };
            assert!(measures(&cpu).contains(Measures::BUFFERS), "{lost:#x}");
            assert!(open(&cpu).is_empty(), "{lost:#x}");
        }
        let alder_lake = Identity {
            model: 0x97,
            capabilities: NEW.capabilities | capability::RFDS_CLEAR,
            ..NEW
        };
        assert!(measures(&alder_lake).contains(Measures::BUFFERS));
        let immune =
            Identity { capabilities: alder_lake.capabilities | capability::RFDS_NO, ..alder_lake };
        assert!(!measures(&immune).contains(Measures::BUFFERS));
    }

    #[test]
    fn amd_cpus() {
        assert!(!MILAN.leaks_kernel_memory());
        assert_eq!(
            measures(&MILAN),
            Measures::BARRIERS
                | Measures::RETURNS
                | Measures::IBRS
                | Measures::STIBP
                | Measures::SSBD
        );
        assert_eq!(open(&MILAN), ["returns (Retbleed, SRSO)"]);
        let zen5 = Identity { family: 0x1a, amd_features: 1 << 8, ..MILAN };
        assert_eq!(
            measures(&zen5),
            Measures::PREDICTORS
                | Measures::RETURNS
                | Measures::AUTOMATIC_IBRS
                | Measures::STIBP
                | Measures::SSBD
        );
        let emulated = Identity { amd: true, family: 6, ..Identity::default() };
        assert_eq!(measures(&emulated), Measures::RETURNS);
    }

    #[test]
    fn the_readme_has_each_item() {
        crate::speculation::check_readme(TABLE);
    }

    #[test]
    fn nothing_is_done_if_mitigations_are_off() {
        for cpu in [OLD, NEW, MILAN] {
            assert_eq!(Measures::choose(&cpu, false, false), Measures::empty());
        }
    }

    #[test]
    fn vendors_do_not_mix() {
        // What one vendor says with a bit is nothing from the other.
        let other = Identity { amd: true, ..NEW };
        assert!(!measures(&other).contains(Measures::PREDICTORS));
        let other = Identity { amd: false, ..MILAN };
        assert!(!measures(&other).contains(Measures::PREDICTORS) && other.leaks_kernel_memory());
    }
}
