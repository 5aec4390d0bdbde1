//! A monitor that answers exits with nonsense, and what its guest runs.

use crate::place::STATE;
use crate::random::Random;
use abi::vcpu::aarch64::{CONTROL_HALT, CONTROL_SERROR, Groups, VcpuState};
use abi::vcpu::{EXIT_KINDS, ExitKind, exit_kind, instruction_length};
use core::arch::naked_asm;

/// Bytes of each of the guest's pieces of code: four instructions.
const PIECE: u64 = 16;
/// Number of them.
const PIECES: u64 = 17;

/// What the guest runs, from address 0 on, at EL1 or EL0. One piece leads to the next.
#[unsafe(naked)]
extern "C" fn pieces() -> ! {
    naked_asm!(
        "2: wfi; wfe; yield; nop",
        "hvc #0; hvc #0xffff; smc #0; svc #0",
        "mrs x0, id_aa64pfr0_el1; mrs x1, midr_el1; mrs x2, ctr_el0; mrs x3, mpidr_el1",
        "mrs x0, actlr_el1; msr actlr_el1, x0; mrs x0, s3_1_c15_c0_0; msr s3_1_c15_c0_0, x0",
        "mrs x0, sctlr_el1; eor x0, x0, #1; msr sctlr_el1, x0; isb",
        "mov x0, #0x80000000; msr tcr_el1, x0; msr ttbr0_el1, x1; tlbi vmalle1is",
        "mov x0, #0x50000000; ldr x1, [x0]; str x1, [x0]; dc zva, x0",
        "mrs x0, pmcr_el0; msr pmcr_el0, x0; mrs x0, mdscr_el1; msr mdscr_el1, x0",
        "msr oslar_el1, x0; msr dbgbcr0_el1, x1; msr dbgbvr0_el1, x0; dc isw, x2",
        "mrs x0, cntvct_el0; msr cntv_tval_el0, xzr; mov x1, #1; msr cntv_ctl_el0, x1",
        "msr cntp_tval_el0, xzr; mov x1, #1; msr cntp_ctl_el0, x1; mrs x0, cntpct_el0",
        "mrs x0, s3_0_c12_c12_0; msr s3_0_c12_c12_1, x0; msr s3_0_c12_c11_5, x0; msr daifclr, #15",
        "mov x0, #0x300000; msr cpacr_el1, x0; isb; .inst 0x9e6703e0", // fmov d0, xzr
        "msr spsr_el1, x0; msr elr_el1, xzr; eret; nop",
        "brk #0; hlt #0; udf #0; .inst 0xd4a00002", // dcps2
        "mrs x0, hcr_el2; msr vttbr_el2, x0; at s1e1r, x0; msr spsel, #0",
        "ic iallu; dsb sy; .inst 0x04bf5020; b 2b", // rdvl x0, #1
    )
}

/// The guest's code.
pub fn code() -> impl Iterator<Item = u8> {
    let start = pieces as *const () as *const u8;
    // SAFETY: the function has as many instructions, and code can be read.
    (0..(PIECES * PIECE) as usize).map(move |at| unsafe { start.add(at).read_volatile() })
}

fn initial() -> VcpuState {
    VcpuState {
        pstate: 0x3c5,
        deadline: u64::MAX,
        sctlr_el1: 0x30d0_0800,
        vmpidr: 1 << 31,
        ..VcpuState::default()
    }
}

/// Answers the exit that `word` tells of; returns the groups that it says it changed.
pub fn answer(random: &mut Random, word: u64, now: u64) -> u64 {
    let page = STATE as *mut VcpuState;
    let words = STATE as *mut u64;
    let all = Groups::all().bits();
    let mut groups = match random.below(4) {
        0 => random.word(),
        1 => all & random.word(),
        _ => all,
    };
    // SAFETY: the kernel has mapped the state page there; if it has not, the handler faults, which is a move too.
    unsafe {
        let pc = &raw mut (*page).pc;
        if exit_kind(word) == Some(ExitKind::Startup) || random.one_in(6) {
            page.write_volatile(initial());
            pc.write_volatile(random.below(PIECES) * PIECE);
            if random.one_in(4) {
                (&raw mut (*page).pstate).write_volatile(0);
            }
        } else if random.one_in(2) {
            pc.write_volatile(pc.read_volatile().wrapping_add(instruction_length(word)));
            groups = Groups::PC.bits();
        } else {
            pc.write_volatile(random.below(PIECES * PIECE) & !3);
            (&raw mut (*page).deadline).write_volatile(now + random.below(100_000));
        }
        if random.one_in(3) {
            for _ in 0..random.below(4) {
                let at = words.add(random.below(size_of::<VcpuState>() as u64 / 8) as usize);
                at.write_volatile(match random.below(3) {
                    0 => random.edge(),
                    1 => at.read_volatile() ^ 1 << random.below(64),
                    _ => random.word(),
                });
            }
        }
        let controls = &raw mut (*page).controls;
        if random.one_in(8) {
            controls.write_volatile(random.word() & (CONTROL_HALT | CONTROL_SERROR | 4));
        } else {
            controls.write_volatile(0);
        }
    }
    groups
}

/// Groups that an exit of `kind` saves.
pub fn saved(random: &mut Random, kind: u32) -> u64 {
    debug_assert!(kind < EXIT_KINDS);
    if random.one_in(2) {
        Groups::PC.bits()
    } else {
        random.word()
    }
}
