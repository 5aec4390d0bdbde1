//! The guest: fills its registers with patterns, lets the other one run, and looks whether they are still there.

use core::arch::naked_asm;

/// HVC: the other guest's turn.
pub const YIELD: u64 = 1;
/// HVC: a register holds something else. `x0` is its number, `x1` what it should hold, `x2` what it holds.
pub const CHANGED: u64 = 2;
/// HVC: all turns were taken.
pub const FINISHED: u64 = 3;

/// x20 is its seed, x21 the turns left, x22 whether pointer authentication is there, x23 whether the interrupt
/// controller's CPU interface is in system registers, x26 and x27 whether RAS and SME are there. The pattern of a
/// register is the seed, rotated by the register's number, with the bits of a mask.
#[unsafe(naked)]
extern "C" fn guest() -> ! {
    naked_asm!(
        r#"
            .arch_extension fp
            .arch_extension simd
            .macro pattern number, mask
            movz    x3, #(\mask & 0xffff)
            movk    x3, #(\mask >> 16 & 0xffff), lsl #16
            movk    x3, #(\mask >> 32 & 0xffff), lsl #32
            movk    x3, #(\mask >> 48 & 0xffff), lsl #48
            ror     x1, x20, #\number
            and     x1, x1, x3
            .endm
            .macro put register, number, mask
            pattern \number, \mask
            msr     \register, x1
            .endm
            .macro get register, number, mask
            pattern \number, \mask
            mov     x0, #\number
            mrs     x2, \register
            and     x2, x2, x3
            cmp     x1, x2
            b.ne    90f
            .endm
            // A register that CPUs may have without any bit.
            .macro get_or_zero register, number, mask
            pattern \number, \mask
            mov     x0, #\number
            mrs     x2, \register
            cbz     x2, 91f
            cmp     x1, x2
            b.ne    90f
        91:
            .endm
            .macro general register, number
            ror     \register, x20, #\number
            .endm
            .macro same register, number
            mov     x0, #(100 + \number)
            ror     x1, x20, #\number
            mov     x2, \register
            cmp     x1, x2
            b.ne    90f
            .endm

            mov     x1, #(3 << 20)
            msr     cpacr_el1, x1
            isb
        2:  // SCTLR_EL1: bits that act on EL0, as the seed has them: alignment checks, byte order, cache maintenance and
            // waiting at EL0.
            movz    x1, #0x0800
            movk    x1, #0x30d0, lsl #16
            and     x2, x20, #(1 << 24)
            orr     x1, x1, x2
            and     x2, x20, #(1 << 4)
            orr     x1, x1, x2
            and     x2, x20, #(1 << 1)
            orr     x1, x1, x2
            msr     sctlr_el1, x1
            mov     x24, x1
            put sp_el0, 1, 0xffffffffffffffff
            put elr_el1, 2, 0xffffffffffffffff
            put spsr_el1, 3, 0xf00003df
            put esr_el1, 4, 0xffffffff
            put far_el1, 5, 0xffffffffffffffff
            put ttbr0_el1, 6, 0xfffffffffffffffe
            put ttbr1_el1, 7, 0xfffffffffffffffe
            put tcr_el1, 8, 0x7ff0ff3f3f
            put mair_el1, 9, 0xffffffffffffffff
            put vbar_el1, 10, 0xfffffffff800
            put contextidr_el1, 11, 0xffffffff
            put tpidr_el0, 12, 0xffffffffffffffff
            put tpidrro_el0, 13, 0xffffffffffffffff
            put tpidr_el1, 14, 0xffffffffffffffff
            put csselr_el1, 15, 0x6
            put cntkctl_el1, 16, 0x3ff
            put cntv_cval_el0, 18, 0xffffffffffffffff
            put afsr0_el1, 19, 0xffffffff
            put afsr1_el1, 20, 0xffffffff
            put amair_el1, 21, 0xffffffffffffffff
            put par_el1, 22, 0xfffffffff000
            // CNTV_CTL_EL0: masked, enabled or not.
            and     x1, x20, #1
            orr     x1, x1, #2
            msr     cntv_ctl_el0, x1
            mov     x1, x20
            mov     sp, x1
            cbz     x22, 3f
            put S3_0_C2_C1_0, 30, 0xffffffffffffffff
            put S3_0_C2_C1_1, 31, 0xffffffffffffffff
            put S3_0_C2_C1_2, 32, 0xffffffffffffffff
            put S3_0_C2_C1_3, 33, 0xffffffffffffffff
            put S3_0_C2_C2_0, 34, 0xffffffffffffffff
            put S3_0_C2_C2_1, 35, 0xffffffffffffffff
            put S3_0_C2_C2_2, 36, 0xffffffffffffffff
            put S3_0_C2_C2_3, 37, 0xffffffffffffffff
            put S3_0_C2_C3_0, 38, 0xffffffffffffffff
            put S3_0_C2_C3_1, 39, 0xffffffffffffffff
        3:  cbz     x26, 7f
            // DISR_EL1, which is VDISR_EL2 here: A, IDS, ISS.
            put S3_0_C12_C1_1, 40, 0x81ffffff
        7:  cbz     x27, 8f
            put S3_3_C13_C0_5, 41, 0xffffffffffffffff
        8:  cbz     x23, 4f
            // ICC_PMR_EL1: five bits are there at least. ICC_IGRPEN1_EL1.
            put     S3_0_C4_C6_0, 50, 0xf8
            put     S3_0_C12_C12_7, 51, 0x1
        4:  // Vector registers, FPCR's rounding mode, FPSR's flags.
            .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            ror     x1, x20, #\number
            mov     v\number\().d[0], x1
            eor     x1, x1, #0xff
            mov     v\number\().d[1], x1
            .endr
            put     fpcr, 52, 0xc00000
            put     fpsr, 53, 0x800009f
            general x5, 5
            general x18, 18
            general x25, 25
            general x30, 30
            isb
            hvc     #{yield_}

            same    x5, 5
            same    x18, 18
            same    x25, 25
            same    x30, 30
            mov     x0, #60
            mrs     x2, sctlr_el1
            mov     x1, x24
            cmp     x1, x2
            b.ne    90f
            get sp_el0, 1, 0xffffffffffffffff
            get elr_el1, 2, 0xffffffffffffffff
            get spsr_el1, 3, 0xf00003df
            get esr_el1, 4, 0xffffffff
            get far_el1, 5, 0xffffffffffffffff
            get ttbr0_el1, 6, 0xfffffffffffffffe
            get ttbr1_el1, 7, 0xfffffffffffffffe
            get tcr_el1, 8, 0x7ff0ff3f3f
            get mair_el1, 9, 0xffffffffffffffff
            get vbar_el1, 10, 0xfffffffff800
            get contextidr_el1, 11, 0xffffffff
            get tpidr_el0, 12, 0xffffffffffffffff
            get tpidrro_el0, 13, 0xffffffffffffffff
            get tpidr_el1, 14, 0xffffffffffffffff
            get csselr_el1, 15, 0x6
            get cntkctl_el1, 16, 0x3ff
            get cntv_cval_el0, 18, 0xffffffffffffffff
            get_or_zero afsr0_el1, 19, 0xffffffff
            get_or_zero afsr1_el1, 20, 0xffffffff
            get_or_zero amair_el1, 21, 0xffffffffffffffff
            get par_el1, 22, 0xfffffffff000
            mov     x0, #61
            and     x1, x20, #1
            orr     x1, x1, #2
            mrs     x2, cntv_ctl_el0
            and     x2, x2, #3
            cmp     x1, x2
            b.ne    90f
            mov     x0, #62
            mov     x1, x20
            mov     x2, sp
            cmp     x1, x2
            b.ne    90f
            cbz     x22, 5f
            get S3_0_C2_C1_0, 30, 0xffffffffffffffff
            get S3_0_C2_C1_1, 31, 0xffffffffffffffff
            get S3_0_C2_C1_2, 32, 0xffffffffffffffff
            get S3_0_C2_C1_3, 33, 0xffffffffffffffff
            get S3_0_C2_C2_0, 34, 0xffffffffffffffff
            get S3_0_C2_C2_1, 35, 0xffffffffffffffff
            get S3_0_C2_C2_2, 36, 0xffffffffffffffff
            get S3_0_C2_C2_3, 37, 0xffffffffffffffff
            get S3_0_C2_C3_0, 38, 0xffffffffffffffff
            get S3_0_C2_C3_1, 39, 0xffffffffffffffff
        5:  cbz     x26, 7f
            get S3_0_C12_C1_1, 40, 0x81ffffff
        7:  cbz     x27, 8f
            get S3_3_C13_C0_5, 41, 0xffffffffffffffff
        8:  cbz     x23, 6f
            get     S3_0_C4_C6_0, 50, 0xf8
            get     S3_0_C12_C12_7, 51, 0x1
        6:  .irp number, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
            mov     x0, #(200 + \number)
            ror     x1, x20, #\number
            mov     x2, v\number\().d[0]
            cmp     x1, x2
            b.ne    90f
            eor     x1, x1, #0xff
            mov     x2, v\number\().d[1]
            cmp     x1, x2
            b.ne    90f
            .endr
            get     fpcr, 52, 0xc00000
            get     fpsr, 53, 0x800009f
            movz    x1, #0x7c15
            movk    x1, #0x7f4a, lsl #16
            movk    x1, #0x79b9, lsl #32
            movk    x1, #0x9e37, lsl #48
            add     x20, x20, x1
            subs    x21, x21, #1
            b.ne    2b
            hvc     #{finished}
            b       92f
        90: hvc     #{changed}
            // From now on the turns are all the other's.
        92: hvc     #{yield_}
            b       92b
            .global registers_guest_end
        registers_guest_end:
        "#,
        yield_ = const YIELD,
        finished = const FINISHED,
        changed = const CHANGED,
    )
}

unsafe extern "C" {
    static registers_guest_end: u8;
}

/// The guest's code. It runs wherever it is put.
pub fn code() -> impl Iterator<Item = u8> {
    let start = guest as *const () as usize;
    let length = (&raw const registers_guest_end).addr() - start;
    // SAFETY: the label is the function's end, and code can be read.
    (0..length).map(move |at| unsafe { (start as *const u8).add(at).read_volatile() })
}
