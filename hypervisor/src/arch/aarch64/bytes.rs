//! Copying and filling memory: what the compiler calls for whole structures.
//!
//! System calls and exits copy messages of a few dozen bytes. The compiler's own functions are made for any alignment
//! that a device may ask for, and take three times as many instructions for that.

use core::arch::naked_asm;

/// Copies `size` bytes between places that do not overlap.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, size: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        "subs x2, x2, 16",
        "b.lo 3f",
        "2: ldp x4, x5, [x1], 16",
        "stp x4, x5, [x3], 16",
        "subs x2, x2, 16",
        "b.hs 2b",
        // The low bits are those of what is left.
        "3: tbz x2, 3, 4f",
        "ldr x4, [x1], 8",
        "str x4, [x3], 8",
        "4: tbz x2, 2, 5f",
        "ldr w4, [x1], 4",
        "str w4, [x3], 4",
        "5: tbz x2, 1, 6f",
        "ldrh w4, [x1], 2",
        "strh w4, [x3], 2",
        "6: tbz x2, 0, 7f",
        "ldrb w4, [x1]",
        "strb w4, [x3]",
        "7: ret",
    )
}

/// Fills `size` bytes with the lowest one of `value`.
#[unsafe(naked)]
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: i32, size: usize) -> *mut u8 {
    naked_asm!(
        "mov x3, x0",
        "and x1, x1, 255",
        "orr x1, x1, x1, lsl 8",
        "orr x1, x1, x1, lsl 16",
        "orr x1, x1, x1, lsl 32",
        "subs x2, x2, 16",
        "b.lo 3f",
        "2: stp x1, x1, [x3], 16",
        "subs x2, x2, 16",
        "b.hs 2b",
        "3: tbz x2, 3, 4f",
        "str x1, [x3], 8",
        "4: tbz x2, 2, 5f",
        "str w1, [x3], 4",
        "5: tbz x2, 1, 6f",
        "strh w1, [x3], 2",
        "6: tbz x2, 0, 7f",
        "strb w1, [x3]",
        "7: ret",
    )
}
