//! What a guest runs, and its state.

use crate::random::Random;
use abi::vcpu::aarch64::{CONTROL_HALT, CONTROL_SERROR, LIST_EOI, LIST_GROUP1, LIST_STATE};
pub use abi::vcpu::aarch64::{Groups, VcpuState};
use core::arch::naked_asm;
use core::mem::offset_of;

/// The program counter's group.
pub const PC_GROUP: Groups = Groups::PC;
/// Offset of the program counter in the state.
pub const PC: usize = offset_of!(VcpuState, pc);
/// The controls, and a bit that is none.
pub const CONTROLS: u64 = CONTROL_HALT | CONTROL_SERROR | 1 << 2;

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

/// A state to start from, at the beginning of a piece; now and then at EL0, or with an interrupt controller that asks for maintenance.
pub fn initial(random: &mut Random) -> VcpuState {
    let mut state = trial::initial_state(random.below(PIECES) * PIECE);
    if random.one_in(4) {
        state.pstate = 0;
    }
    if random.one_in(3) {
        state.gic_control = random.word() & 0xff;
        for list in state.list.iter_mut().take(4) {
            *list = LIST_EOI | random.word() & (LIST_STATE | LIST_GROUP1 | 0x1f);
        }
    }
    state
}

/// An instruction's address.
pub fn anywhere(random: &mut Random) -> u64 {
    random.below(PIECES * PIECE) & !3
}

/// Takes out of the state what ends the emulator, not the kernel: nothing.
///
/// # Safety
/// None here; see the x86 version.
pub unsafe fn spare_the_emulator(_page: *mut VcpuState) -> Groups {
    Groups::empty()
}
