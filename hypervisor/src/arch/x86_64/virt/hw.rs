//! Processor registers, as plain numbers: what is read here is written back whole, unknown bits included.

use core::arch::asm;

/// MSRs that the `x86` crate does not name.
pub(super) mod msr {
    /// Extended supervisor state mask.
    pub const XSS: u32 = 0xda0;
    /// SVM: lock and disable bits.
    pub const VM_CR: u32 = 0xc001_0114;
    /// SVM: physical address of the host save area.
    pub const VM_HSAVE_PA: u32 = 0xc001_0117;
}

macro_rules! register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        #[inline(always)]
        pub fn $read() -> u64 {
            let value;
            // SAFETY: the kernel runs at privilege level 0, where reading the register has no effect.
            unsafe {
                asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack, preserves_flags))
            };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        ///
        /// # Safety
        ///
        /// The value is valid for the register, and the kernel and its threads bear its effect.
        #[inline(always)]
        #[allow(dead_code, reason = "not every register is written")]
        pub unsafe fn $write(value: u64) {
            // SAFETY: the caller's.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) };
        }
    };
}

register!(cr0, set_cr0, "cr0");
register!(cr2, set_cr2, "cr2");
register!(cr3, set_cr3, "cr3");
register!(cr4, set_cr4, "cr4");
register!(dr0, set_dr0, "dr0");
register!(dr1, set_dr1, "dr1");
register!(dr2, set_dr2, "dr2");
register!(dr3, set_dr3, "dr3");
register!(dr6, set_dr6, "dr6");

/// Reads XCR0. CR4.OSXSAVE is set.
pub(super) fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading the register has no effect; if CR4.OSXSAVE were clear, it would be an exception.
    unsafe {
        asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
            options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// Writes XCR0.
///
/// # Safety
///
/// The processor has XSAVE, CR4.OSXSAVE is set, and the value is valid.
#[inline(always)]
pub(super) unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's. Threads cannot use the components, as CR0.TS is set while they run.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nomem, nostack, preserves_flags))
    };
}
