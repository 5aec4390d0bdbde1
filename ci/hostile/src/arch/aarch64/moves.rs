//! What a program may try beside system calls. Most of it ends in an exception.

use crate::random::Random;
use core::arch::asm;

/// An instruction that stands alone; it may change `x0` and `x1`. `x2` is an address that can be written.
macro_rules! instruction {
    ($($text:literal),*) => {{
        let mut place = [0u64; 16];
        // SAFETY: the thread has nothing to lose; whatever happens to its registers, its handler starts it anew.
        unsafe {
            asm!($($text,)* inout("x0") 0u64 => _, inout("x1") 0u64 => _, in("x2") place.as_mut_ptr())
        }
    }};
}

/// A system call with this stack pointer and these condition flags.
fn system_call_with(tag: u64, stack: u64, flags: u64) {
    // SAFETY: as for `instruction!`; the stack pointer comes back out of x20, which every operation preserves.
    unsafe {
        asm!(
            "mov x20, sp",
            "msr nzcv, x21",
            "mov sp, x22",
            "svc #0",
            "mov sp, x20",
            in("x21") flags, in("x22") stack, out("x20") _,
            inout("x0") tag => _, inout("x1") 3u64 => _,
            out("x2") _, out("x3") _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _, out("x9") _,
            out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _, out("x15") _, out("x16") _,
            out("x17") _, out("x18") _,
        )
    }
}

/// Goes to `address`, with `stack` if that is not 0.
fn jump(address: u64, stack: u64) {
    // SAFETY: as for `instruction!`.
    unsafe {
        asm!("cbz {0}, 2f", "mov sp, {0}", "2: br {1}", in(reg) stack, in(reg) address, options(noreturn))
    }
}

/// Number of moves.
pub const MOVES: u64 = 72;

/// Does one of them.
pub fn make(random: &mut Random) {
    let edge = random.edge();
    match random.below(MOVES) {
        0 => instruction!(".inst 0x9e6703e0"), // fmov d0, xzr
        1 => instruction!(".inst 0x04bf5020"), // rdvl x0, #1
        2 => instruction!("udf #0"),
        3 => instruction!("brk #0"),
        4 => instruction!("hlt #0"),
        5 => instruction!("hvc #0"),
        6 => instruction!("smc #0"),
        7 => instruction!("svc #1"),
        8 => instruction!("svc #0xffff"),
        9 => instruction!("eret"),
        10 => instruction!("wfi"),
        11 => instruction!("wfe"),
        12 => instruction!(".inst 0xd4a00002"), // dcps2
        13 => instruction!("msr daifset, #15"),
        14 => instruction!("msr daifclr, #15"),
        15 => instruction!("msr spsel, #1"),
        16 => instruction!("mrs x0, currentel"),
        17 => instruction!("mrs x0, sctlr_el1"),
        18 => instruction!("msr sctlr_el1, x0"),
        19 => instruction!("msr ttbr0_el1, x0"),
        20 => instruction!("msr vbar_el1, x0"),
        21 => instruction!("msr hcr_el2, x0"),
        22 => instruction!("mrs x0, vttbr_el2"),
        23 => instruction!("mrs x0, midr_el1"),
        24 => instruction!("mrs x0, id_aa64pfr0_el1"),
        25 => instruction!("msr tpidr_el0, x2"),
        26 => instruction!("msr tpidrro_el0, x2"),
        27 => instruction!("mrs x0, cntpct_el0"),
        28 => instruction!("mrs x0, cntvct_el0"),
        29 => instruction!("msr cntv_cval_el0, xzr", "mov x0, #1", "msr cntv_ctl_el0, x0"),
        30 => instruction!("msr cntp_cval_el0, xzr", "mov x0, #1", "msr cntp_ctl_el0, x0"),
        31 => instruction!("msr cntkctl_el1, x0"),
        32 => instruction!("msr cntvoff_el2, x2"),
        33 => instruction!("mrs x0, pmccntr_el0"),
        34 => instruction!("msr pmcr_el0, x2"),
        35 => instruction!("msr pmuserenr_el0, x2"),
        36 => instruction!("mrs x0, ctr_el0", "mrs x1, dczid_el0"),
        37 => instruction!("dc zva, xzr"),
        38 => instruction!("dc civac, x2", "dc cvac, x2", "dc cvau, x2"),
        39 => instruction!("dc ivac, x2"),
        40 => instruction!("dc isw, xzr"),
        41 => instruction!("dc cisw, xzr"),
        42 => instruction!("ic iallu"),
        43 => instruction!("ic ivau, x2"),
        44 => instruction!("ic ivau, xzr"),
        45 => instruction!("tlbi vmalle1is"),
        46 => instruction!("tlbi alle2"),
        47 => instruction!("at s1e0r, x2"),
        48 => instruction!("mrs x0, s3_0_c12_c12_0"), // ICC_IAR1_EL1
        49 => instruction!("msr s3_0_c12_c12_1, x0"), // ICC_EOIR1_EL1
        50 => instruction!("msr s3_0_c12_c11_5, x0"), // ICC_SGI1R_EL1
        51 => instruction!("msr mdscr_el1, x2"),
        52 => instruction!("msr oslar_el1, x0"),
        53 => instruction!("msr dbgbcr0_el1, x2"),
        54 => instruction!("mrs x0, s3_1_c15_c0_0"), // left to implementations
        55 => instruction!("mrs x0, s3_3_c4_c5_1", "msr dlr_el0, x0"), // DSPSR_EL0
        56 => instruction!("ldxr x0, [x2]", "stxr w1, x0, [x2]", "clrex"),
        57 => instruction!("ldur x0, [x2, #3]"),
        58 => instruction!("add x0, x2, #1", "ldxr x1, [x0]"),
        59 => instruction!("sdiv x0, x1, xzr"),
        60 => jump(edge, 0),
        61 => jump(edge, random.edge()),
        // Behind what stage 2 translates, at the kernel, and where no instruction is.
        62 => jump(random.pick(&[abi::USER_END, 1 << 39, 1 << 48, !0xfff]), 0),
        63 => jump(crate::arch::entry as *const () as u64 + 2, 0),
        64..67 => {
            system_call_with(random.pick(&[0, 4, 20, 0xff, edge]), random.edge(), random.word())
        }
        67 => system_call_with(0xff, edge & !15 | 8, 0),
        // SAFETY: as for `instruction!`.
        68 => unsafe {
            (edge as *const u64).read_volatile();
        },
        // SAFETY: as for `instruction!`.
        69 => unsafe { asm!("strb wzr, [{0}]", in(reg) random.word() | 0xffff_8000_0000_0000) },
        // SAFETY: as for `instruction!`.
        70 => unsafe {
            asm!("mov sp, {0}", "str x0, [sp, #-16]!", "udf #0", in(reg) edge | 4, options(noreturn))
        },
        // SAFETY: as for `instruction!`.
        _ => unsafe {
            asm!("mov sp, {0}", "str x0, [sp, #-16]!", "udf #0", in(reg) edge, options(noreturn))
        },
    }
}
