//! What the processor can do, found once on the boot CPU.

use core::fmt;

use abi::boot::Virtualization;
use abi::text::{Dec, Hex, Text};
use x86::msr::wrmsr;

use crate::cell::Given;
use crate::log;

use super::super::cpuid::{is_amd, leaf};
use super::fpu::Method;
use super::state::{self, Limits, Words};
use super::{hw, svm, vmx};

/// What the processor can do for guests.
#[derive(Clone, Debug)]
pub struct Features {
    /// The extension in use.
    pub virtualization: Virtualization,
    /// XCR0 bits that a guest may set: [`abi::boot::BootInfo::xcr0_mask`]. 3 without XSAVE: x87 and SSE.
    pub xcr0: u64,
    /// Second-level tables may have 1-GiB pages (2-MiB pages are always there).
    pub giant_pages: bool,
    /// Tags are 1 to `tags - 1`: VPIDs or ASIDs.
    pub tags: u32,
    /// How vector state is switched.
    pub fpu: Method,
    /// What a guest may set.
    pub limits: Limits,
    /// IA32_TSC_AUX is there.
    pub tsc_aux: bool,
    /// IA32_XSS is there.
    pub xss: bool,
    /// What only one of the extensions has; `None`: guests cannot run.
    pub(super) backend: Option<Backend>,
}

/// What only one of the extensions has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Backend {
    Vmx(vmx::Capabilities),
    Svm(svm::Capabilities),
}

impl Backend {
    /// Asks the current CPU.
    pub fn find() -> Result<Backend, Missing> {
        if leaf(1, 0).ecx >> 5 & 1 != 0 {
            vmx::Capabilities::find().map(Backend::Vmx)
        } else if leaf(0x8000_0001, 0).ecx >> 2 & 1 != 0 {
            svm::Capabilities::find().map(Backend::Svm)
        } else {
            Err(Missing::Feature("the CPU reports neither VMX nor SVM"))
        }
    }
}

/// Why a machine, or one CPU of it, cannot host guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// In words.
    Feature(&'static str),
    /// VMX controls that the processor does not have, or that it forces.
    Controls {
        /// Which word of controls.
        word: vmx::ControlWord,
        /// Bits that are needed but not there.
        absent: u32,
        /// Bits that must be clear but cannot be.
        forced: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Missing::Feature(why) => f.write_str(why),
            Missing::Controls { word, absent, forced } => {
                // By number (Intel SDM 3C 25.6 to 25.8): the names would make the kernel a tenth larger.
                write!(
                    f,
                    "VMX {word:?} controls lack bits {}, force bits {}",
                    Hex(absent.into()),
                    Hex(forced.into())
                )
            }
        }
    }
}

static FEATURES: Given<Features> = Given::new();

/// Chooses the extension. Called on the boot CPU before anything else of this module; says in the log
/// what it found, or why guests cannot run. Once.
pub fn detect() -> Virtualization {
    FEATURES.give(find).virtualization
}

/// What [`detect`] found.
///
/// # Panics
///
/// If [`detect`] was not called: an error of the kernel's start-up order.
pub fn features() -> &'static Features {
    FEATURES.get().expect("virt::detect comes first")
}

/// The end of the physical addresses that the processor can form. Needs no [`detect`].
pub fn physical_end() -> u64 {
    match leaf(0x8000_0008, 0).eax & 0xff {
        0 => 1 << 36,
        bits => 1 << bits.clamp(32, 52),
    }
}

fn find() -> Features {
    let words = Words {
        basic: leaf(1, 0),
        structured: leaf(7, 0),
        extended: leaf(0x8000_0001, 0),
        sizes: leaf(0x8000_0008, 0),
    };
    let xsave = words.basic.ecx >> 26 & 1 != 0;
    let (components, extensions) =
        if xsave { (usable_components(|sub| leaf(0xd, sub)), leaf(0xd, 1).eax) } else { (0, 0) };
    let amd = is_amd(leaf(0, 0).ebx);
    let mut limits = Limits::new(&words, components);

    let found = Backend::find();
    let (virtualization, name, giant_pages, tags) = match &found {
        Ok(Backend::Vmx(capabilities)) => {
            limits.cr4 &= capabilities.cr4_allowed;
            (Virtualization::Vmx, "VMX with EPT", capabilities.giant_pages, 1 << 16)
        }
        Ok(Backend::Svm(capabilities)) => {
            let giant_pages = words.extended.edx >> 26 & 1 != 0;
            (Virtualization::Svm, "SVM with nested paging", giant_pages, capabilities.asids)
        }
        Err(_) => (Virtualization::None, "", false, 0),
    };
    match &found {
        Ok(_) => {
            log::info!("guests: {}; XSAVE {} between guests only", Text(name), Hex(components))
        }
        Err(missing) => log::warning!("guests cannot run here: {missing}"),
    }
    Features {
        virtualization,
        xcr0: if components == 0 { 3 } else { components },
        giant_pages,
        tags,
        fpu: Method {
            components,
            optimised: extensions & 1 != 0,
            leaks_pointers: amd && words.sizes.ebx >> 2 & 1 == 0,
            xcr0_escapes: components != 0
                && words.basic.ecx >> 31 & 1 != 0
                && is_tcg(&leaf(0x4000_0000, 0)),
        },
        limits,
        tsc_aux: words.extended.edx >> 27 & 1 != 0 || words.structured.ecx >> 22 & 1 != 0,
        xss: extensions >> 3 & 1 != 0,
        backend: found.ok(),
    }
}

/// Whether leaf 4000_0000h is that of QEMU without KVM.
fn is_tcg(leaf: &raw_cpuid::CpuIdResult) -> bool {
    let words = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes);
    words.as_flattened() == b"TCGTCGTCGTCG"
}

/// State components that guests may use: known, there, and in a standard-format area of at most a page.
/// `leaf` is CPUID leaf 0Dh by sub-leaf.
fn usable_components(leaf: impl Fn(u32) -> raw_cpuid::CpuIdResult) -> u64 {
    let supported = leaf(0);
    let supported = u64::from(supported.edx) << 32 | u64::from(supported.eax);
    let mut components = supported & state::XCR0_KNOWN;
    for component in 2..63 {
        let bit = 1 << component;
        if components & bit != 0 {
            let area = leaf(component);
            if area.ebx.saturating_add(area.eax) > abi::PAGE_SIZE as u32 {
                log::info!(
                    "guests do without XSAVE component {}: its state takes more than a page",
                    Dec(component.into())
                );
                components &= !bit;
            }
        }
    }
    Limits { xcr0: components, ..Limits::default() }.xcr0(components)
}

/// Enables what guests' state needs on the current CPU: SSE and XSAVE, IA32_XSS = 0.
///
/// # Safety
///
/// Once for each CPU, at start-up; the kernel keeps the CR4 bits set.
pub(super) unsafe fn enable(features: &Features) {
    let mut cr4 = hw::cr4() | state::cr4::OSFXSR | state::cr4::OSXMMEXCPT;
    if features.fpu.components != 0 {
        cr4 |= state::cr4::OSXSAVE;
    }
    // SAFETY: all processors with long mode have SSE, CPUID reports XSAVE; threads run with CR0.TS.
    unsafe { hw::set_cr4(cr4) };
    if features.xss {
        // SAFETY: CPUID reports the MSR; without supervisor components XSAVES in a guest shows nothing.
        unsafe { wrmsr(hw::msr::XSS, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    fn leaf(eax: u32, ebx: u32, edx: u32) -> CpuIdResult {
        CpuIdResult { eax, ebx, ecx: 0, edx }
    }

    #[test]
    fn components_that_do_not_fit_are_left_out() {
        let machine = |pkru_offset| {
            move |sub| match sub {
                0 => leaf(0x602e7 | 0x18, 0, 0),
                2 => leaf(256, 576, 0),
                5 => leaf(64, 1088, 0),
                6 => leaf(512, 1152, 0),
                7 => leaf(1024, 1664, 0),
                9 => leaf(8, pkru_offset, 0),
                _ => leaf(0x2000, 2752, 0),
            }
        };
        assert_eq!(usable_components(machine(2688)), 0x2e7);
        assert_eq!(usable_components(machine(4090)), 0xe7);
    }

    #[test]
    fn avx512_is_whole_or_not_at_all() {
        let machine = |sub| match sub {
            0 => leaf(0xe7, 0, 0),
            7 => leaf(1024, 3500, 0),
            _ => leaf(256, 576, 0),
        };
        assert_eq!(usable_components(machine), 7);
    }
}
