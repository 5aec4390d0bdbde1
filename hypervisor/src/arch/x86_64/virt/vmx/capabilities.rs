//! What this processor's VMX can do, and the controls that follow from it (Intel SDM 3D appendix A).

use x86::msr::{self, rdmsr};
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

use super::super::super::cpuid;
use super::super::features::Missing;
use super::super::state::cr0;
use super::msr_bitmap;

/// Field that the `x86` crate does not name.
pub(super) const ENCLV_EXITING_BITMAP: u32 = 0x2036;

/// A word of VM-execution, exit or entry controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlWord {
    /// Primary processor-based.
    Primary,
    /// Secondary processor-based.
    Secondary,
    /// Pin-based.
    Pin,
    /// VM exit.
    Exit,
    /// VM entry.
    Entry,
}

/// What is needed of a word, what is taken where it is there, and what must not be forced on.
struct Wishes {
    word: ControlWord,
    /// Its capability MSR: bits set in the lower half are forced on, bits clear in the upper half are forced off.
    msr: u32,
    needed: u32,
    taken: u32,
    unwanted: u32,
}

/// The primary word comes first, as it says whether the secondary one is there.
static WISHES: [Wishes; 5] = [
    Wishes {
        word: ControlWord::Primary,
        msr: msr::IA32_VMX_TRUE_PROCBASED_CTLS,
        // CR8 exits: without them, MOV to CR8 would write the machine's task priority.
        needed: PrimaryControls::USE_TSC_OFFSETTING.bits()
            | PrimaryControls::HLT_EXITING.bits()
            | PrimaryControls::MWAIT_EXITING.bits()
            | PrimaryControls::MONITOR_EXITING.bits()
            | PrimaryControls::RDPMC_EXITING.bits()
            | PrimaryControls::CR8_LOAD_EXITING.bits()
            | PrimaryControls::CR8_STORE_EXITING.bits()
            | PrimaryControls::MOV_DR_EXITING.bits()
            | PrimaryControls::UNCOND_IO_EXITING.bits()
            | PrimaryControls::USE_MSR_BITMAPS.bits()
            | PrimaryControls::SECONDARY_CONTROLS.bits(),
        taken: 0,
        unwanted: PrimaryControls::CR3_LOAD_EXITING.bits()
            | PrimaryControls::CR3_STORE_EXITING.bits()
            | PrimaryControls::INVLPG_EXITING.bits()
            | PrimaryControls::RDTSC_EXITING.bits()
            | PrimaryControls::PAUSE_EXITING.bits()
            | PrimaryControls::INTERRUPT_WINDOW_EXITING.bits()
            | PrimaryControls::NMI_WINDOW_EXITING.bits(),
    },
    Wishes {
        word: ControlWord::Secondary,
        msr: msr::IA32_VMX_PROCBASED_CTLS2,
        needed: SecondaryControls::ENABLE_EPT.bits()
            | SecondaryControls::ENABLE_VPID.bits()
            | SecondaryControls::UNRESTRICTED_GUEST.bits()
            | SecondaryControls::WBINVD_EXITING.bits(),
        // RDTSCP: TSC_AUX is the guest's. INVPCID: stays in the VPID. XSAVES: IA32_XSS is 0. ENCLS
        // exits, so that a guest does not run SGX unasked. What is not here raises #UD in guests:
        // VMFUNC, UMWAIT, PCONFIG, ENQCMD and the like.
        taken: SecondaryControls::ENABLE_RDTSCP.bits()
            | SecondaryControls::ENABLE_INVPCID.bits()
            | SecondaryControls::ENABLE_XSAVES_XRSTORS.bits()
            | SecondaryControls::ENCLS_EXITING.bits()
            | SecondaryControls::ENCLV_EXITING.bits(),
        unwanted: 0,
    },
    Wishes {
        word: ControlWord::Pin,
        msr: msr::IA32_VMX_TRUE_PINBASED_CTLS,
        needed: PinbasedControls::EXTERNAL_INTERRUPT_EXITING.bits()
            | PinbasedControls::NMI_EXITING.bits()
            | PinbasedControls::VIRTUAL_NMIS.bits(),
        taken: 0,
        unwanted: 0,
    },
    Wishes {
        word: ControlWord::Exit,
        msr: msr::IA32_VMX_TRUE_EXIT_CTLS,
        needed: ExitControls::HOST_ADDRESS_SPACE_SIZE.bits()
            | ExitControls::ACK_INTERRUPT_ON_EXIT.bits()
            | ExitControls::SAVE_DEBUG_CONTROLS.bits()
            | ExitControls::SAVE_IA32_PAT.bits()
            | ExitControls::LOAD_IA32_PAT.bits()
            | ExitControls::SAVE_IA32_EFER.bits()
            | ExitControls::LOAD_IA32_EFER.bits(),
        taken: 0,
        unwanted: 0,
    },
    Wishes {
        word: ControlWord::Entry,
        msr: msr::IA32_VMX_TRUE_ENTRY_CTLS,
        needed: EntryControls::LOAD_DEBUG_CONTROLS.bits()
            | EntryControls::LOAD_IA32_PAT.bits()
            | EntryControls::LOAD_IA32_EFER.bits(),
        taken: 0,
        unwanted: EntryControls::IA32E_MODE_GUEST.bits(),
    },
];

impl Wishes {
    /// The word, given its capability MSR.
    fn compute(&self, capability: u64) -> Result<u32, Missing> {
        let (forced_on, allowed) = (capability as u32, (capability >> 32) as u32);
        let absent = self.needed & !allowed;
        let forced = self.unwanted & forced_on;
        if absent != 0 || forced != 0 {
            return Err(Missing::Controls { word: self.word, absent, forced });
        }
        Ok(self.needed | self.taken & allowed | forced_on)
    }
}

/// What this processor's VMX can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Capabilities {
    /// First word of VMXON and VMCS regions.
    pub revision: u32,
    /// By [`ControlWord`].
    controls: [u32; WISHES.len()],
    /// CR0 bits that VMX operation demands, or forbids (clear in `cr0_allowed`).
    pub cr0_needed: u64,
    pub cr0_allowed: u64,
    pub cr4_needed: u64,
    pub cr4_allowed: u64,
    /// 1-GiB pages in EPT.
    pub giant_pages: bool,
    /// Type of the INVEPT and INVVPID that flush one context, or all where that is not there.
    pub invept: u64,
    pub invvpid: u64,
    /// Another hypervisor is below.
    pub is_nested: bool,
}

/// INVEPT, INVVPID: one context.
const SINGLE: u64 = 1;
/// INVEPT, INVVPID: all contexts.
pub(super) const ALL: u64 = 2;

impl Capabilities {
    /// Asks the current CPU, which has VMX by CPUID.
    pub fn find() -> Result<Capabilities, Missing> {
        msr_bitmap::fill();
        // SAFETY: a processor with VMX has the MSR.
        let feature_control = unsafe { rdmsr(msr::IA32_FEATURE_CONTROL) };
        if feature_control & (LOCKED | OUTSIDE_SMX) == LOCKED {
            return Err(Missing::Feature(
                "VMX is locked off by firmware (IA32_FEATURE_CONTROL): enable it there",
            ));
        }
        let is_nested = cpuid::leaf(1, 0).ecx >> 31 != 0;
        // SAFETY: a processor with VMX has these MSRs; the secondary controls and EPT abilities exist only
        // where the controls before them allow, which is tested first.
        Capabilities::compute(|msr| unsafe { rdmsr(msr) }, is_nested)
    }

    /// By what `read` finds in the capability MSRs.
    fn compute(read: impl Fn(u32) -> u64, is_nested: bool) -> Result<Capabilities, Missing> {
        let basic = read(msr::IA32_VMX_BASIC);
        if basic >> 55 & 1 == 0 {
            return Err(Missing::Feature("VMX without IA32_VMX_TRUE_*_CTLS"));
        }
        let mut controls = [0; WISHES.len()];
        for wishes in &WISHES {
            controls[wishes.word as usize] = wishes.compute(read(wishes.msr))?;
        }
        // Intel SDM 3D A.10.
        let abilities = read(msr::IA32_VMX_EPT_VPID_CAP);
        let ept = |bit: u32| abilities >> bit & 1 != 0;
        for &(bit, missing) in &[
            (6, "EPT without four-level tables"),
            (14, "EPT without write-back memory type"),
            (16, "EPT without 2-MiB pages"),
            (20, "EPT without INVEPT"),
            (32, "EPT without INVVPID"),
        ] {
            if !ept(bit) {
                return Err(Missing::Feature(missing));
            }
        }
        let invept = if ept(25) { SINGLE } else { ALL };
        let invvpid = if ept(41) { SINGLE } else { ALL };
        if invept == ALL && !ept(26) || invvpid == ALL && !ept(42) {
            return Err(Missing::Feature("EPT without a usable type of INVEPT and INVVPID"));
        }
        Ok(Capabilities {
            revision: basic as u32 & 0x7fff_ffff,
            controls,
            cr0_needed: read(msr::IA32_VMX_CR0_FIXED0),
            cr0_allowed: read(msr::IA32_VMX_CR0_FIXED1),
            cr4_needed: read(msr::IA32_VMX_CR4_FIXED0),
            cr4_allowed: read(msr::IA32_VMX_CR4_FIXED1),
            giant_pages: ept(17),
            invept,
            invvpid,
            is_nested,
        })
    }

    /// A word of controls.
    pub fn controls(&self, word: ControlWord) -> u32 {
        self.controls[word as usize]
    }

    /// CR0 bits that must be set in a guest: an unrestricted guest may be without PE and PG.
    pub fn guest_cr0_needed(&self) -> u64 {
        self.cr0_needed & !(cr0::PE | cr0::PG) & 0xffff_ffff
    }

    /// Whether the secondary control is on.
    pub fn has(&self, control: SecondaryControls) -> bool {
        self.controls(ControlWord::Secondary) & control.bits() != 0
    }
}

/// IA32_FEATURE_CONTROL: it cannot be written any more.
pub(super) const LOCKED: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON works outside SMX operation.
pub(super) const OUTSIDE_SMX: u64 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// The value of an MSR: Skylake-X as Bochs has it, near enough.
    fn machine(number: u32) -> u64 {
        let free = |forced: u32| (0xffff_ffff << 32) | u64::from(forced);
        match number {
            msr::IA32_VMX_BASIC => 1 << 55 | 0x2b,
            msr::IA32_VMX_TRUE_PINBASED_CTLS => free(0x16),
            msr::IA32_VMX_TRUE_PROCBASED_CTLS => free(0x0400_6172),
            msr::IA32_VMX_PROCBASED_CTLS2 => 0x03ff_ffff << 32,
            msr::IA32_VMX_TRUE_EXIT_CTLS => free(0x3_6dfb),
            msr::IA32_VMX_TRUE_ENTRY_CTLS => free(0x11fb),
            msr::IA32_VMX_CR0_FIXED0 => 0x8000_0021,
            msr::IA32_VMX_CR0_FIXED1 => 0xffff_ffff,
            msr::IA32_VMX_CR4_FIXED0 => 0x2000,
            msr::IA32_VMX_CR4_FIXED1 => 0x37_67ff,
            msr::IA32_VMX_EPT_VPID_CAP => 0x0f01_0673_4141,
            _ => unreachable!(),
        }
    }

    /// What is found where the bits `changed` of one MSR are others.
    fn find(number: u32, changed: u64) -> Result<Capabilities, Missing> {
        let read = |n| machine(n) ^ if n == number { changed } else { 0 };
        Capabilities::compute(read, false)
    }

    /// What `table` calls nobody's and is no MSR, and the debug registers before their first use.
    #[test]
    fn what_is_nobodys_exits() {
        for control in [
            PrimaryControls::RDPMC_EXITING,
            PrimaryControls::CR8_LOAD_EXITING,
            PrimaryControls::CR8_STORE_EXITING,
            PrimaryControls::MOV_DR_EXITING,
            PrimaryControls::USE_MSR_BITMAPS,
        ] {
            let found = find(0, 0).unwrap().controls(ControlWord::Primary);
            assert_eq!(found & control.bits(), control.bits());
            let without = u64::from(control.bits()) << 32;
            let found = find(msr::IA32_VMX_TRUE_PROCBASED_CTLS, without);
            assert!(found.is_err(), "{control:?}");
        }
    }

    #[test]
    fn a_capable_machine() {
        let found = find(0, 0).unwrap();
        assert_eq!(found.revision, 0x2b);
        assert_eq!(found.controls(ControlWord::Primary) & 0x0400_6172, 0x0400_6172);
        assert_ne!(found.controls(ControlWord::Primary) & PrimaryControls::HLT_EXITING.bits(), 0);
        assert!(found.has(SecondaryControls::UNRESTRICTED_GUEST));
        assert!(!found.has(SecondaryControls::ENABLE_VM_FUNCTIONS));
        assert!(!found.has(SecondaryControls::ENABLE_USER_WAIT_PAUSE));
        assert!(!found.has(SecondaryControls::ENCLV_EXITING));
        assert_eq!(found.guest_cr0_needed(), 0x20);
        assert_eq!((found.invept, found.invvpid), (SINGLE, SINGLE));
    }

    #[test]
    fn no_unrestricted_guest() {
        let missing = find(msr::IA32_VMX_PROCBASED_CTLS2, 0x80 << 32).unwrap_err();
        assert_eq!(missing.to_string(), "VMX Secondary controls lack bits 0x80, force bits 0x0");
    }

    #[test]
    fn forced_cr3_exits() {
        let missing = find(msr::IA32_VMX_TRUE_PROCBASED_CTLS, 1 << 15).unwrap_err();
        assert_eq!(missing.to_string(), "VMX Primary controls lack bits 0x0, force bits 0x8000");
    }

    #[test]
    fn invept_of_all_contexts_only() {
        let found = find(msr::IA32_VMX_EPT_VPID_CAP, 1 << 25);
        assert_eq!(found.unwrap().invept, ALL);
        let found = find(msr::IA32_VMX_EPT_VPID_CAP, 3 << 25);
        assert!(matches!(found, Err(Missing::Feature(_))));
    }
}
