//! What this processor's VMX can do, and the controls that follow from it (Intel SDM 3D appendix A).

use x86::msr;
use x86::vmx::vmcs::control::{
    EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls,
};

use super::super::super::cpuid;
use super::super::features::Missing;
use super::super::hw::rdmsr;
use super::super::state::cr0;
use super::msr_bitmap;

/// Field that the `x86` crate does not name.
pub(super) const ENCLV_EXITING_BITMAP: u32 = 0x2036;

/// A word of VM-execution, exit or entry controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlWord {
    /// Pin-based.
    Pin,
    /// Primary processor-based.
    Primary,
    /// Secondary processor-based.
    Secondary,
    /// VM exit.
    Exit,
    /// VM entry.
    Entry,
}

impl ControlWord {
    /// What is needed, what is taken where it is there, and what must not be forced on.
    fn wishes(self) -> Wishes {
        match self {
            ControlWord::Pin => Wishes {
                needed: (PinbasedControls::EXTERNAL_INTERRUPT_EXITING
                    | PinbasedControls::NMI_EXITING
                    | PinbasedControls::VIRTUAL_NMIS)
                    .bits(),
                taken: 0,
                unwanted: 0,
            },
            ControlWord::Primary => Wishes {
                // CR8 exits: without them, MOV to CR8 would write the machine's task priority.
                needed: (PrimaryControls::USE_TSC_OFFSETTING
                    | PrimaryControls::HLT_EXITING
                    | PrimaryControls::MWAIT_EXITING
                    | PrimaryControls::MONITOR_EXITING
                    | PrimaryControls::RDPMC_EXITING
                    | PrimaryControls::CR8_LOAD_EXITING
                    | PrimaryControls::CR8_STORE_EXITING
                    | PrimaryControls::MOV_DR_EXITING
                    | PrimaryControls::UNCOND_IO_EXITING
                    | PrimaryControls::USE_MSR_BITMAPS
                    | PrimaryControls::SECONDARY_CONTROLS)
                    .bits(),
                taken: 0,
                unwanted: (PrimaryControls::CR3_LOAD_EXITING
                    | PrimaryControls::CR3_STORE_EXITING
                    | PrimaryControls::INVLPG_EXITING
                    | PrimaryControls::RDTSC_EXITING
                    | PrimaryControls::PAUSE_EXITING
                    | PrimaryControls::INTERRUPT_WINDOW_EXITING
                    | PrimaryControls::NMI_WINDOW_EXITING)
                    .bits(),
            },
            ControlWord::Secondary => Wishes {
                needed: (SecondaryControls::ENABLE_EPT
                    | SecondaryControls::ENABLE_VPID
                    | SecondaryControls::UNRESTRICTED_GUEST
                    | SecondaryControls::WBINVD_EXITING)
                    .bits(),
                // RDTSCP: TSC_AUX is the guest's. INVPCID: stays in the VPID. XSAVES: IA32_XSS is 0. ENCLS
                // exits, so that a guest does not run SGX unasked. What is not here raises #UD in guests:
                // VMFUNC, UMWAIT, PCONFIG, ENQCMD and the like.
                taken: (SecondaryControls::ENABLE_RDTSCP
                    | SecondaryControls::ENABLE_INVPCID
                    | SecondaryControls::ENABLE_XSAVES_XRSTORS
                    | SecondaryControls::ENCLS_EXITING
                    | SecondaryControls::ENCLV_EXITING)
                    .bits(),
                unwanted: 0,
            },
            ControlWord::Exit => Wishes {
                needed: (ExitControls::HOST_ADDRESS_SPACE_SIZE
                    | ExitControls::ACK_INTERRUPT_ON_EXIT
                    | ExitControls::SAVE_DEBUG_CONTROLS
                    | ExitControls::SAVE_IA32_PAT
                    | ExitControls::LOAD_IA32_PAT
                    | ExitControls::SAVE_IA32_EFER
                    | ExitControls::LOAD_IA32_EFER)
                    .bits(),
                taken: 0,
                unwanted: 0,
            },
            ControlWord::Entry => Wishes {
                needed: (EntryControls::LOAD_DEBUG_CONTROLS
                    | EntryControls::LOAD_IA32_PAT
                    | EntryControls::LOAD_IA32_EFER)
                    .bits(),
                taken: 0,
                unwanted: EntryControls::IA32E_MODE_GUEST.bits(),
            },
        }
    }

    /// The word, given its capability MSR: bits set in the lower half are forced on, bits clear in the
    /// upper half are forced off.
    fn compute(self, capability: u64) -> Result<u32, Missing> {
        let (forced_on, allowed) = (capability as u32, (capability >> 32) as u32);
        let Wishes {
            needed,
            taken,
            unwanted,
        } = self.wishes();
        let absent = needed & !allowed;
        let forced = unwanted & forced_on;
        if absent != 0 || forced != 0 {
            return Err(Missing::Controls {
                word: self,
                absent,
                forced,
            });
        }
        Ok(needed | taken & allowed | forced_on)
    }
}

struct Wishes {
    needed: u32,
    taken: u32,
    unwanted: u32,
}

/// The capability MSRs.
#[derive(Clone, Copy, Debug)]
struct Msrs {
    basic: u64,
    pin: u64,
    primary: u64,
    secondary: u64,
    exit: u64,
    entry: u64,
    cr0_fixed0: u64,
    cr0_fixed1: u64,
    cr4_fixed0: u64,
    cr4_fixed1: u64,
    ept_vpid: u64,
    /// CPUID 1, ECX bit 31: the processor is one of another hypervisor.
    is_nested: bool,
}

/// What this processor's VMX can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Capabilities {
    /// First word of VMXON and VMCS regions.
    pub revision: u32,
    pub pin: u32,
    pub primary: u32,
    pub secondary: u32,
    pub exit: u32,
    pub entry: u32,
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
        // SAFETY: a processor with VMX has these MSRs; the secondary controls and EPT abilities exist only
        // where the controls before them allow, which is tested first.
        unsafe {
            let feature_control = rdmsr(msr::IA32_FEATURE_CONTROL);
            if feature_control & (LOCKED | OUTSIDE_SMX) == LOCKED {
                return Err(Missing::FeatureControl);
            }
            let basic = rdmsr(msr::IA32_VMX_BASIC);
            if basic >> 55 & 1 == 0 {
                return Err(Missing::TrueControls);
            }
            let primary = rdmsr(msr::IA32_VMX_TRUE_PROCBASED_CTLS);
            ControlWord::Primary.compute(primary)?;
            let secondary = rdmsr(msr::IA32_VMX_PROCBASED_CTLS2);
            ControlWord::Secondary.compute(secondary)?;
            Capabilities::compute(&Msrs {
                basic,
                pin: rdmsr(msr::IA32_VMX_TRUE_PINBASED_CTLS),
                primary,
                secondary,
                exit: rdmsr(msr::IA32_VMX_TRUE_EXIT_CTLS),
                entry: rdmsr(msr::IA32_VMX_TRUE_ENTRY_CTLS),
                cr0_fixed0: rdmsr(msr::IA32_VMX_CR0_FIXED0),
                cr0_fixed1: rdmsr(msr::IA32_VMX_CR0_FIXED1),
                cr4_fixed0: rdmsr(msr::IA32_VMX_CR4_FIXED0),
                cr4_fixed1: rdmsr(msr::IA32_VMX_CR4_FIXED1),
                ept_vpid: rdmsr(msr::IA32_VMX_EPT_VPID_CAP),
                is_nested: cpuid::leaf(1, 0).ecx >> 31 != 0,
            })
        }
    }

    fn compute(msrs: &Msrs) -> Result<Capabilities, Missing> {
        // Intel SDM 3D A.10.
        let ept = |bit: u32| msrs.ept_vpid >> bit & 1 != 0;
        for &(bit, name) in &[
            (6, "four-level tables"),
            (14, "write-back memory type"),
            (16, "2-MiB pages"),
            (20, "INVEPT"),
            (32, "INVVPID"),
        ] {
            if !ept(bit) {
                return Err(Missing::Ept(name));
            }
        }
        let invept = if ept(25) { SINGLE } else { ALL };
        let invvpid = if ept(41) { SINGLE } else { ALL };
        if invept == ALL && !ept(26) || invvpid == ALL && !ept(42) {
            return Err(Missing::Ept("a usable type of INVEPT and INVVPID"));
        }
        Ok(Capabilities {
            revision: msrs.basic as u32 & 0x7fff_ffff,
            pin: ControlWord::Pin.compute(msrs.pin)?,
            primary: ControlWord::Primary.compute(msrs.primary)?,
            secondary: ControlWord::Secondary.compute(msrs.secondary)?,
            exit: ControlWord::Exit.compute(msrs.exit)?,
            entry: ControlWord::Entry.compute(msrs.entry)?,
            cr0_needed: msrs.cr0_fixed0,
            cr0_allowed: msrs.cr0_fixed1,
            cr4_needed: msrs.cr4_fixed0,
            cr4_allowed: msrs.cr4_fixed1,
            giant_pages: ept(17),
            invept,
            invvpid,
            is_nested: msrs.is_nested,
        })
    }

    /// CR0 bits that must be set in a guest: an unrestricted guest may be without PE and PG.
    pub fn guest_cr0_needed(&self) -> u64 {
        self.cr0_needed & !(cr0::PE | cr0::PG) & 0xffff_ffff
    }

    /// Whether the secondary control is on.
    pub fn has(&self, control: SecondaryControls) -> bool {
        self.secondary & control.bits() != 0
    }
}

/// IA32_FEATURE_CONTROL: it cannot be written any more.
pub(super) const LOCKED: u64 = 1 << 0;
/// IA32_FEATURE_CONTROL: VMXON works outside SMX operation.
pub(super) const OUTSIDE_SMX: u64 = 1 << 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Skylake-X as Bochs has it, near enough.
    fn machine() -> Msrs {
        let free = |forced: u32| (0xffff_ffff << 32) | u64::from(forced);
        Msrs {
            basic: 1 << 55 | 0x2b,
            pin: free(0x16),
            primary: free(0x0400_6172),
            secondary: 0x03ff_ffff << 32,
            exit: free(0x3_6dfb),
            entry: free(0x11fb),
            cr0_fixed0: 0x8000_0021,
            cr0_fixed1: 0xffff_ffff,
            cr4_fixed0: 0x2000,
            cr4_fixed1: 0x37_67ff,
            ept_vpid: 0x0f01_0673_4141,
            is_nested: false,
        }
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
            let found = Capabilities::compute(&machine()).unwrap();
            assert_eq!(found.primary & control.bits(), control.bits());
            let without = Msrs {
                primary: machine().primary & !(u64::from(control.bits()) << 32),
                ..machine()
            };
            assert!(Capabilities::compute(&without).is_err(), "{control:?}");
        }
    }

    #[test]
    fn a_capable_machine() {
        let found = Capabilities::compute(&machine()).unwrap();
        assert_eq!(found.revision, 0x2b);
        assert_eq!(found.primary & 0x0400_6172, 0x0400_6172);
        assert_ne!(found.primary & PrimaryControls::HLT_EXITING.bits(), 0);
        assert!(found.has(SecondaryControls::UNRESTRICTED_GUEST));
        assert!(!found.has(SecondaryControls::ENABLE_VM_FUNCTIONS));
        assert!(!found.has(SecondaryControls::ENABLE_USER_WAIT_PAUSE));
        assert!(!found.has(SecondaryControls::ENCLV_EXITING));
        assert_eq!(found.guest_cr0_needed(), 0x20);
        assert_eq!((found.invept, found.invvpid), (SINGLE, SINGLE));
    }

    #[test]
    fn no_unrestricted_guest() {
        let mut machine = machine();
        machine.secondary &= !(0x80 << 32);
        let missing = Capabilities::compute(&machine).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "VMX Secondary controls lack bits 0x80, force bits 0x0"
        );
    }

    #[test]
    fn forced_cr3_exits() {
        let mut machine = machine();
        machine.primary |= 1 << 15;
        let missing = Capabilities::compute(&machine).unwrap_err();
        assert_eq!(
            missing.to_string(),
            "VMX Primary controls lack bits 0x0, force bits 0x8000"
        );
    }

    #[test]
    fn invept_of_all_contexts_only() {
        let mut machine = machine();
        machine.ept_vpid &= !(1 << 25);
        assert_eq!(Capabilities::compute(&machine).unwrap().invept, ALL);
        machine.ept_vpid &= !(1 << 26);
        assert!(matches!(
            Capabilities::compute(&machine),
            Err(Missing::Ept(_))
        ));
    }
}
