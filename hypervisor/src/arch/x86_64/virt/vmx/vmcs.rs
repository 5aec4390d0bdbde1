//! The VMX instructions, with their operands typed.
//!
//! The wrappers of the `x86` crate read the flags in a second statement, between which the compiler may
//! put others; these take the result in the same one.

use core::arch::asm;

use super::super::HostPhys;

/// A VMX instruction failed: the pointer or field is not valid, or the VMCS is in the wrong state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmFail;

macro_rules! pointer_instruction {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        pub unsafe fn $name(region: HostPhys) -> Result<(), VmFail> {
            let failed: u8;
            // SAFETY: the caller's. The operand is a 64-bit physical address in memory.
            unsafe {
                asm!(
                    concat!($mnemonic, " qword ptr [{pointer}]"),
                    "setbe {failed}",
                    pointer = in(reg) &raw const region.0,
                    failed = out(reg_byte) failed,
                    options(nostack),
                )
            };
            if failed == 0 { Ok(()) } else { Err(VmFail) }
        }
    };
}

pointer_instruction!(
    /// Enters VMX operation.
    ///
    /// # Safety
    ///
    /// CR4.VMXE is set; the region is a page with the revision in its first word, used for nothing else.
    vmxon, "vmxon"
);
pointer_instruction!(
    /// Writes a VMCS back to memory and makes it neither active nor launched.
    ///
    /// # Safety
    ///
    /// The CPU is in VMX operation; the region is a VMCS that is active on no other CPU.
    vmclear, "vmclear"
);
pointer_instruction!(
    /// Makes a VMCS current.
    ///
    /// # Safety
    ///
    /// As for [`vmclear`].
    vmptrld, "vmptrld"
);

/// Reads a field of the current VMCS. The value is arbitrary if there is no such field or VMCS.
#[inline(always)]
pub fn read(field: u32) -> u64 {
    let value: u64;
    // SAFETY: VMREAD has no effect but on its operand and the flags; the backend runs in VMX operation.
    unsafe {
        asm!("vmread {value}, {field}", field = in(reg) u64::from(field), value = out(reg) value,
            options(nomem, nostack))
    };
    value
}

/// Writes a field of the current VMCS.
///
/// # Safety
///
/// What the VMCS then says keeps the host safe: controls and host state as this backend has them, guest state
/// of any value, which VM entry checks.
#[inline(always)]
pub unsafe fn write(field: u32, value: u64) {
    if cfg!(debug_assertions) {
        let failed: u8;
        // SAFETY: the caller's.
        unsafe {
            asm!("vmwrite {field}, {value}", "setbe {failed}", field = in(reg) u64::from(field),
                value = in(reg) value, failed = out(reg_byte) failed, options(nomem, nostack))
        };
        debug_assert!(failed == 0, "VMWRITE {field:#x}");
    } else {
        // SAFETY: the caller's.
        unsafe {
            asm!("vmwrite {field}, {value}", field = in(reg) u64::from(field), value = in(reg) value,
                options(nomem, nostack))
        };
    }
}

/// Writes fields of the current VMCS.
///
/// # Safety
///
/// As for [`write`].
#[inline(never)]
pub unsafe fn write_all(fields: &[(u32, u64)]) {
    for &(field, value) in fields {
        // SAFETY: the caller's.
        unsafe { write(field, value) };
    }
}

macro_rules! invalidation {
    ($(#[$doc:meta])* $name:ident, $mnemonic:literal) => {
        $(#[$doc])*
        pub fn $name(kind: u64, operand: u64) {
            let descriptor = [operand, 0];
            // SAFETY: dropping cached translations is always allowed; the kind is one that the processor
            // reports. The operand is 16 bytes.
            unsafe {
                asm!(concat!($mnemonic, " {}, xmmword ptr [{}]"), in(reg) kind, in(reg) &raw const descriptor,
                    options(nostack))
            };
        }
    };
}

invalidation!(
    /// Drops translations cached for an EPT pointer.
    invept, "invept"
);
invalidation!(
    /// Drops linear and combined translations cached for a VPID.
    invvpid, "invvpid"
);
