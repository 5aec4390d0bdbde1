//! First instructions: from the loader, and from firmware on the other CPUs.
//!
//! Both come at EL2 with the MMU off, wherever the image is; addresses are relative to the program counter until the
//! image window is mapped.

use super::super::layout::IMAGE;
use super::super::paging::{MAIR, TCR};
use super::super::smp::{HANDOVER, Handover};
use core::arch::global_asm;
use core::mem::offset_of;

/// Bytes of the stack that the boot CPU starts on.
const BOOT_STACK: usize = 64 << 10;
/// SCTLR_EL2: RES1 bits, I, SA, C, M (Arm ARM D17.2.119). WXN is not set: tables say what is executable.
const SCTLR: u64 = 0x30c5_0830 | 1 << 12 | 1 << 3 | 1 << 2 | 1 << 0;
/// Page of normal memory, read, write, execute: AttrIndx 0, AP[1], inner shareable, AF.
const PAGE: u64 = 0b11 | 1 << 6 | 3 << 8 | 1 << 10;

// The header (Linux Documentation/arch/arm64/booting.rst): code0, code1, text_offset, image_size, flags (little-endian,
// 4 KiB pages, anywhere in memory), three reserved words, magic, reserved.
global_asm!(
    r#"
    .section .head.text, "ax"
    .global _head
_head:
    b       boot_entry
    .long   0
    .quad   0
    .quad   __image_size
    .quad   0xa
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .long   0

    .section .boot.text, "ax"
    .macro load_address register, symbol
    adrp    \register, \symbol
    add     \register, \register, :lo12:\symbol
    .endm

    // Turns the MMU on with the tables at x9 and goes on at the image window's address in x10. Uses x11 and x12.
enable_mmu:
    mov     x11, #{mair}
    msr     mair_el2, x11
    ldr     x11, ={tcr}
    mrs     x12, id_aa64mmfr0_el1
    and     x12, x12, #0xf
    cmp     x12, #5
    b.ls    1f
    mov     x12, #5
1:  orr     x11, x11, x12, lsl #16
    msr     tcr_el2, x11
    msr     ttbr0_el2, x9
    dsb     sy
    isb
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    ldr     x11, ={sctlr}
    msr     sctlr_el2, x11
    isb
    br      x10

    // Drops what caches hold from x1 to x2. Uses x3 to x5.
invalidate:
    mrs     x4, ctr_el0
    ubfx    x4, x4, #16, #4
    mov     x5, #4
    lsl     x4, x5, x4
    mov     x3, x1
4:  dc      ivac, x3
    add     x3, x3, x4
    cmp     x3, x2
    b.lo    4b
    dsb     sy
    ret

boot_entry:
    mov     x19, x0
    mrs     x20, cntpct_el0
    msr     daifset, #0xf
    msr     spsel, #1
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.eq    2f
    // There is nothing to say it with: no device is known yet, and EL1 cannot host VMs.
1:  wfe
    b       1b
2:  // Without E2H, whatever firmware has left: it changes the meaning of other registers.
    mov     x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    load_address x21, __image_start
    load_address x1, __bss_start
    load_address x2, __bss_end
    // Whatever caches hold of this memory is older than what is written here with caches off.
    bl      invalidate
    mov     x3, x1
3:  stp     xzr, xzr, [x3], #16
    cmp     x3, x2
    b.lo    3b
    dsb     sy

    // Tables: the image in its window, and its first 2 MiB where they are.
    load_address x9, {tables}
    add     x3, x9, #0x1000
    orr     x4, x3, #3
    ubfx    x5, x21, #39, #9
    str     x4, [x9, x5, lsl #3]
    add     x6, x9, #0x2000
    orr     x4, x6, #3
    ubfx    x5, x21, #30, #9
    str     x4, [x3, x5, lsl #3]
    // 2 MiB by pages, here and in the window: as in the kernel's own tables, which replace these in one go, and a CPU may not find
    // both sizes (Arm ARM D8.14.1).
    add     x7, x9, #0x5000
    orr     x7, x7, #3
    ubfx    x5, x21, #21, #9
    str     x7, [x6, x5, lsl #3]
    ldr     x8, ={image}
    add     x3, x9, #0x3000
    orr     x4, x3, #3
    ubfx    x5, x8, #39, #9
    str     x4, [x9, x5, lsl #3]
    add     x6, x9, #0x4000
    orr     x4, x6, #3
    ubfx    x5, x8, #30, #9
    str     x4, [x3, x5, lsl #3]
    str     x7, [x6]
    add     x3, x9, #0x5000
    mov     x4, #{page}
    orr     x4, x21, x4
    mov     x2, #512
5:  str     x4, [x3], #8
    add     x4, x4, #0x1000
    subs    x2, x2, #1
    b.ne    5b
    dsb     sy
    // Once more: caches may have read ahead what was there before.
    load_address x1, __bss_start
    load_address x2, __bss_end
    bl      invalidate
    ldr     x10, =6f
    b       enable_mmu
6:  ldr     x1, ={stack}
    mov     x2, #{stack_size}
    add     sp, x1, x2
    msr     tpidr_el2, xzr
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x19
    mov     x1, x21
    mov     x2, x20
    bl      {start}
    b       .

    // PSCI CPU_ON: x0 is the ticket of the attempt. Who comes while it is valid takes its stack, leaving 0.
    .global ap_entry
ap_entry:
    mov     x19, x0
    msr     daifset, #0xf
    msr     spsel, #1
    mrs     x1, CurrentEL
    cmp     x1, #(2 << 2)
    b.ne    7f
    mov     x1, #(1 << 31)
    msr     hcr_el2, x1
    isb
    load_address x2, {handover}
    ldr     x9, [x2, #{handover_tables}]
    ldr     x10, =8f
    b       enable_mmu
7:  wfe
    b       7b
8:  ldr     x2, ={handover}
    ldr     x3, [x2, #{handover_ticket}]
    cmp     x3, x19
    b.ne    7b
    ldr     x3, [x2, #{handover_stack}]
    cbz     x3, 7b
    str     xzr, [x2, #{handover_stack}]
    mov     sp, x3
    msr     tpidr_el2, xzr
    mov     x29, xzr
    mov     x30, xzr
    ldr     x0, [x2, #{handover_index}]
    bl      {ap_start}
    b       .
    .ltorg
    "#,
    mair = const MAIR,
    tcr = const TCR,
    sctlr = const SCTLR,
    page = const PAGE,
    image = const IMAGE,
    tables = sym TABLES,
    stack = sym STACK,
    stack_size = const BOOT_STACK,
    start = sym super::start,
    handover = sym HANDOVER,
    handover_tables = const offset_of!(Handover, page_tables),
    handover_stack = const offset_of!(Handover, stack),
    handover_ticket = const offset_of!(Handover, ticket),
    handover_index = const offset_of!(Handover, index),
    ap_start = sym super::super::smp::ap_start,
);

#[repr(C, align(4096))]
struct Pages<const BYTES: usize>(core::cell::UnsafeCell<[u8; BYTES]>);

// SAFETY: used by the boot code alone, on one CPU.
unsafe impl<const BYTES: usize> Sync for Pages<BYTES> {}

/// The boot tables: root, two each for where the image is and for its window, one that both share, and those that [`more`] gives out.
static TABLES: Pages<{ (FIXED + MORE) << 12 }> =
    Pages(core::cell::UnsafeCell::new([0; (FIXED + MORE) << 12]));
const FIXED: usize = 6;
static STACK: Pages<BOOT_STACK> = Pages(core::cell::UnsafeCell::new([0; BOOT_STACK]));

/// Number of tables for what the loader handed over, pool and devices: each of a range's ends and each GiB takes one.
pub const MORE: usize = 24;

/// Address, in the image window, of the boot tables.
pub fn tables() -> u64 {
    TABLES.0.get() as u64
}

/// Address of table `index` (below [`MORE`]) for further boot mappings.
pub fn more(index: usize) -> u64 {
    tables() + ((FIXED + index) << 12) as u64
}

unsafe extern "C" {
    /// Where other CPUs start.
    pub fn ap_entry();
}
