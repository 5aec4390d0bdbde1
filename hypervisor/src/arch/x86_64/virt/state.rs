//! The state page, and what of it may reach the processor.
//!
//! The page is shared with the monitor, which can change it at any time: every field is read once, by
//! [`peek!`], and made harmless by the functions of [`Limits`] before it is used.

use core::mem::transmute;

use abi::vcpu::x86_64::{Segment, VcpuState};
use raw_cpuid::CpuIdResult;
use x86::controlregs::{Cr0, Cr4};

/// Reads a field of a [`StatePage`], once.
macro_rules! peek {
    ($page:expr, $($field:tt)+) => {{
        let page: *mut abi::vcpu::x86_64::VcpuState = $page.as_ptr();
        // SAFETY: `StatePage::new`'s caller vouches for the page; its fields are integers, for which
        // every bit pattern is a value; the access is volatile because the monitor shares the page.
        unsafe { (&raw const (*page).$($field)+).read_volatile() }
    }};
}

/// Writes a field of a [`StatePage`].
macro_rules! poke {
    ($page:expr, $value:expr, $($field:tt)+) => {{
        let page: *mut abi::vcpu::x86_64::VcpuState = $page.as_ptr();
        let value = $value;
        // SAFETY: as in `peek!`.
        unsafe { (&raw mut (*page).$($field)+).write_volatile(value) }
    }};
}

pub(super) use {peek, poke};

/// Segment registers, in the order of the state page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum SegmentRegister {
    Cs,
    Ss,
    Ds,
    Es,
    Fs,
    Gs,
    Ldtr,
    Tr,
}

impl SegmentRegister {
    pub const ALL: [SegmentRegister; 8] = {
        use SegmentRegister::*;
        [Cs, Ss, Ds, Es, Fs, Gs, Ldtr, Tr]
    };
    pub const COUNT: usize = SegmentRegister::ALL.len();
}

/// A segment register in a [`StatePage`], which is as long as `peek!` and `poke!` demand it.
#[derive(Clone, Copy)]
pub(in crate::arch) struct SegmentPlace(*mut Segment);

impl SegmentPlace {
    /// Reads it, once, in whole words.
    #[inline(always)]
    pub fn read(self) -> Segment {
        let words = self.0 as *const u64;
        // SAFETY: as in `peek!`; the structure is these words.
        unsafe {
            let (low, middle, base) =
                (words.read_volatile(), words.add(1).read_volatile(), words.add(2).read_volatile());
            transmute([low, middle, base])
        }
    }

    /// Writes it, in whole words.
    #[inline(always)]
    pub fn write(self, segment: Segment) {
        let Segment { selector, reserved, access, limit, reserved2, base } = segment;
        let words = self.0 as *mut u64;
        let halves = self.0 as *mut u32;
        // SAFETY: as in `peek!`; the structure is these words.
        unsafe {
            halves.write_volatile(u32::from(selector) | u32::from(reserved) << 16);
            halves.add(1).write_volatile(access);
            words.add(1).write_volatile(u64::from(limit) | u64::from(reserved2) << 32);
            words.add(2).write_volatile(base);
        }
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Segment>() == 24 && offset_of!(Segment, access) == 4);
    assert!(offset_of!(Segment, limit) == 8 && offset_of!(Segment, base) == 16);
    let (first, last) = (offset_of!(VcpuState, cs), offset_of!(VcpuState, tr));
    assert!(last == first + SegmentRegister::Tr as usize * size_of::<Segment>());
};

/// CR0 bits (Intel SDM 3A 2.5).
pub(super) mod cr0 {
    use super::Cr0;
    pub const PE: u64 = Cr0::CR0_PROTECTED_MODE.bits() as u64;
    pub const ET: u64 = Cr0::CR0_EXTENSION_TYPE.bits() as u64;
    pub const TS: u64 = Cr0::CR0_TASK_SWITCHED.bits() as u64;
    pub const WP: u64 = Cr0::CR0_WRITE_PROTECT.bits() as u64;
    pub const NW: u64 = Cr0::CR0_NOT_WRITE_THROUGH.bits() as u64;
    pub const CD: u64 = Cr0::CR0_CACHE_DISABLE.bits() as u64;
    pub const PG: u64 = Cr0::CR0_ENABLE_PAGING.bits() as u64;
    /// All bits that are defined.
    pub const ALL: u64 = Cr0::all().bits() as u64;
}

/// CR4 bits.
pub(super) mod cr4 {
    use super::Cr4;
    pub const MCE: u64 = Cr4::CR4_ENABLE_MACHINE_CHECK.bits() as u64;
    pub const PCE: u64 = Cr4::CR4_ENABLE_PPMC.bits() as u64;
    pub const OSFXSR: u64 = Cr4::CR4_ENABLE_SSE.bits() as u64;
    pub const OSXMMEXCPT: u64 = Cr4::CR4_UNMASKED_SSE.bits() as u64;
    pub const VMXE: u64 = Cr4::CR4_ENABLE_VMX.bits() as u64;
    pub const OSXSAVE: u64 = Cr4::CR4_ENABLE_OS_XSAVE.bits() as u64;
    pub const PKE: u64 = Cr4::CR4_ENABLE_PROTECTION_KEY.bits() as u64;
}

/// EFER bits (Intel SDM 3A 2.2.1, AMD APM 2 3.1.7).
pub(super) mod efer {
    pub const SCE: u64 = 1 << 0;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
    pub const SVME: u64 = 1 << 12;
    pub const FFXSR: u64 = 1 << 14;
    pub const TCE: u64 = 1 << 15;
}

/// RFLAGS bits that exist; bit 1 is always set.
const RFLAGS_ALL: u64 = 0x003f_7fd7;
/// RFLAGS bit that is always set.
pub(super) const RFLAGS_FIXED: u64 = 1 << 1;
/// RFLAGS.IF.
pub(super) const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS.TF.
pub(super) const RFLAGS_TF: u64 = 1 << 8;

/// CR0 after reset, as the guest reads it.
pub(super) const RESET_CR0: u64 = cr0::CD | cr0::NW | cr0::ET;
/// PAT after reset.
pub(super) const RESET_PAT: u64 = 0x0007_0406_0007_0406;
/// DR7 after reset; bit 10 is always set.
pub(super) const RESET_DR7: u64 = 1 << 10;

const XCR0_X87: u64 = 1 << 0;
const XCR0_SSE: u64 = 1 << 1;
const XCR0_AVX: u64 = 1 << 2;
const XCR0_AVX512: u64 = 7 << 5;
/// XCR0 bit of the protection-key register.
pub(super) const XCR0_PKRU: u64 = 1 << 9;
/// State components that a guest may use, where the processor has them. Left out: MPX, which is gone
/// from processors; AMX, whose state takes more than a page; whatever needs IA32_XSS.
pub(super) const XCR0_KNOWN: u64 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU;

/// A vCPU's state page, in the kernel's address space.
#[derive(Clone, Copy)]
pub(super) struct StatePage(*mut VcpuState);

impl StatePage {
    /// # Safety
    ///
    /// `page` is the address of a mapped, writable page that nothing in the kernel holds a Rust reference
    /// to, as long as the result and its copies are used.
    pub unsafe fn new(page: *mut VcpuState) -> StatePage {
        StatePage(page)
    }

    /// The address, for [`peek!`], [`poke!`] and the assembly of the backends.
    pub fn as_ptr(&self) -> *mut VcpuState {
        self.0
    }

    /// The place of a segment register.
    #[inline(always)]
    pub fn segment(&self, register: SegmentRegister) -> SegmentPlace {
        // SAFETY: they are one behind the other, in the page.
        SegmentPlace(unsafe { (&raw mut (*self.0).cs).add(register as usize) })
    }

    /// EDX:EAX, the operand of WRMSR and XSETBV.
    pub fn edx_eax(&self) -> u64 {
        use abi::vcpu::x86_64::{RAX, RDX};
        peek!(self, gpr[RDX]) << 32 | peek!(self, gpr[RAX]) & 0xffff_ffff
    }
}

/// The MSRs of SYSCALL, as the state page and the VMCB have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub(in crate::arch) struct SyscallMsrs {
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
}

/// Which bits a guest may set on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CR4.
    pub cr4: u64,
    /// EFER, except for what the backend adds.
    pub efer: u64,
    /// XCR0.
    pub xcr0: u64,
    /// Linear-address bits that the processor implements.
    pub linear_bits: u32,
}

/// The CPUID words that [`Limits`] depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    /// Leaf 1.
    pub basic: CpuIdResult,
    /// Leaf 7, or zeros.
    pub structured: CpuIdResult,
    /// Leaf 8000_0001h.
    pub extended: CpuIdResult,
    /// Leaf 8000_0008h, or zeros.
    pub sizes: CpuIdResult,
}

/// The words among them that CR4 depends on.
#[derive(Clone, Copy)]
enum Word {
    BasicEcx,
    BasicEdx,
    StructuredEbx,
    StructuredEcx,
}

impl Limits {
    /// What CPUID allows. `xcr0` is 0 on a processor without XSAVE.
    pub(super) fn new(words: &Words, xcr0: u64) -> Limits {
        use Word::{BasicEcx, BasicEdx, StructuredEbx, StructuredEcx};
        /// CR4 bit, CPUID word, bit in it.
        static TABLE: [(u8, Word, u8); 18] = [
            (0, BasicEdx, 1),        // VME
            (1, BasicEdx, 1),        // PVI
            (2, BasicEdx, 4),        // TSD
            (3, BasicEdx, 2),        // DE
            (4, BasicEdx, 3),        // PSE
            (5, BasicEdx, 6),        // PAE
            (6, BasicEdx, 7),        // MCE
            (7, BasicEdx, 13),       // PGE
            (9, BasicEdx, 24),       // OSFXSR
            (10, BasicEdx, 25),      // OSXMMEXCPT
            (11, StructuredEcx, 2),  // UMIP
            (12, StructuredEcx, 16), // LA57
            (16, StructuredEbx, 0),  // FSGSBASE
            (17, BasicEcx, 17),      // PCIDE
            (18, BasicEcx, 26),      // OSXSAVE
            (20, StructuredEbx, 7),  // SMEP
            (21, StructuredEbx, 20), // SMAP
            (22, StructuredEcx, 3),  // PKE
        ];
        let Words { basic, structured, .. } = words;
        let by_word = [basic.ecx, basic.edx, structured.ebx, structured.ecx];
        let mut cr4 = cr4::PCE;
        for &(bit, word, flag) in &TABLE {
            cr4 |= u64::from(by_word[word as usize] >> flag & 1) << bit;
        }
        if xcr0 == 0 {
            cr4 &= !cr4::OSXSAVE;
        }
        if xcr0 & XCR0_PKRU == 0 {
            // Nobody would switch the register.
            cr4 &= !cr4::PKE;
        }
        let mut efer = efer::SCE | efer::LME | efer::LMA;
        for (bit, word, flag) in [
            (efer::NXE, words.extended.edx, 20),
            (efer::FFXSR, words.extended.edx, 25),
            (efer::TCE, words.extended.ecx, 17),
        ] {
            if word >> flag & 1 != 0 {
                efer |= bit;
            }
        }
        let linear_bits = match words.sizes.eax >> 8 & 0xff {
            0 => 48,
            bits => bits.clamp(48, 64),
        };
        Limits { cr4, efer, xcr0, linear_bits }
    }

    /// EFER as the guest may have it; LMA follows from LME, CR0.PG and CR0.PE, so that they never disagree.
    pub(super) fn efer(&self, value: u64, cr0: u64) -> u64 {
        const PAGING: u64 = cr0::PG | cr0::PE;
        let value = value & self.efer & !efer::LMA;
        if value & efer::LME != 0 && cr0 & PAGING == PAGING { value | efer::LMA } else { value }
    }

    /// XCR0 that XSETBV accepts, next to `value` (Intel SDM 1 13.3).
    pub(super) fn xcr0(&self, value: u64) -> u64 {
        let mut value = (value | XCR0_X87) & self.xcr0;
        if value & XCR0_SSE == 0 {
            value &= !(XCR0_AVX | XCR0_AVX512);
        }
        if value & XCR0_AVX == 0 || value & XCR0_AVX512 != XCR0_AVX512 {
            value &= !XCR0_AVX512;
        }
        value
    }

    /// `address` sign-extended from the widest linear address: what WRMSR accepts in address registers. It
    /// tests against the processor's width, not against the paging mode (Intel SDM 4, IA32_LSTAR).
    pub(super) fn canonical(&self, address: u64) -> u64 {
        let unused = 64 - self.linear_bits;
        (((address << unused) as i64) >> unused) as u64
    }
}

/// CR0 with the bits that exist.
pub(super) const fn sane_cr0(value: u64) -> u64 {
    value & cr0::ALL | cr0::ET
}

/// RFLAGS without reserved bits.
pub(super) const fn sane_rflags(value: u64) -> u64 {
    value & RFLAGS_ALL | RFLAGS_FIXED
}

/// DR7 without reserved bits and without RTM.
pub(super) const fn sane_dr7(value: u64) -> u64 {
    value & 0xffff_23ff | RESET_DR7
}

/// DR6 without reserved bits: those are read as set.
pub(super) const fn sane_dr6(value: u64) -> u64 {
    value & 0xe00f | 0xffff_0ff0
}

/// Whether DR7 arms a breakpoint or the protection of the debug registers.
pub(super) const fn dr7_active(value: u64) -> bool {
    value & 0x20ff != 0
}

/// PAT with entries of undefined type made uncacheable.
pub(super) const fn sane_pat(value: u64) -> u64 {
    let mut bytes = value.to_le_bytes();
    let mut i = 0;
    while i < bytes.len() {
        if !matches!(bytes[i], 0 | 1 | 4..=7) {
            bytes[i] = 0;
        }
        i += 1;
    }
    u64::from_le_bytes(bytes)
}
