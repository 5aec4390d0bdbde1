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

/// Reads an MSR.
///
/// # Safety
///
/// The processor has it.
#[inline(always)]
pub(super) unsafe fn rdmsr(number: u32) -> u64 {
    // SAFETY: the kernel runs at privilege level 0; the MSR exists by the caller's word.
    unsafe { x86::msr::rdmsr(number) }
}

/// Writes an MSR.
///
/// # Safety
///
/// The processor has it and takes the value; the kernel and its threads bear its effect.
#[inline(always)]
pub(super) unsafe fn wrmsr(number: u32, value: u64) {
    // SAFETY: the caller's.
    unsafe { x86::msr::wrmsr(number, value) }
}

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

/// A descriptor-table register as LGDT, SGDT, LIDT and SIDT have it.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, packed)]
pub(super) struct TablePointer {
    pub limit: u16,
    pub base: u64,
}

/// Reads GDTR.
pub(super) fn gdtr() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: SGDT stores ten bytes, the size of the operand.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags)) };
    pointer
}

/// Reads IDTR.
pub(super) fn idtr() -> TablePointer {
    let mut pointer = TablePointer::default();
    // SAFETY: SIDT stores ten bytes, the size of the operand.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut pointer, options(nostack, preserves_flags)) };
    pointer
}

/// Loads GDTR.
///
/// # Safety
///
/// `pointer` is what [`gdtr`] gave on this CPU, and the table is still there.
#[inline(always)]
pub(super) unsafe fn set_gdtr(pointer: &TablePointer) {
    // SAFETY: the caller's.
    unsafe { asm!("lgdt [{}]", in(reg) pointer, options(readonly, nostack, preserves_flags)) };
}

macro_rules! selector {
    ($read:ident, $name:literal) => {
        #[doc = concat!("Reads selector register ", $name, ".")]
        pub(super) fn $read() -> u16 {
            let selector: u64;
            // SAFETY: only a general register is written.
            unsafe {
                asm!(concat!("mov {:r}, ", $name), out(reg) selector,
                    options(nomem, nostack, preserves_flags))
            };
            selector as u16
        }
    };
}

selector!(cs, "cs");
selector!(ss, "ss");

/// Reads the task register.
pub(super) fn tr() -> u16 {
    let selector: u16;
    // SAFETY: STR writes a register only.
    unsafe { asm!("str {:x}", out(reg) selector, options(nomem, nostack, preserves_flags)) };
    selector
}

/// Base address of the 64-bit task state segment `selector` in the descriptor table at `table`.
///
/// # Safety
///
/// `table` is the base of a descriptor table that holds the two slots of the segment's descriptor.
pub(super) unsafe fn task_base(table: u64, selector: u16) -> u64 {
    let slot = (table + u64::from(selector & !7)) as *const u64;
    // SAFETY: the descriptor is 16 bytes, 8-aligned as the table is, and readable by the caller's word.
    let (low, high) = unsafe { (slot.read_volatile(), slot.add(1).read_volatile()) };
    low >> 16 & 0xff_ffff | (low >> 56) << 24 | high << 32
}
