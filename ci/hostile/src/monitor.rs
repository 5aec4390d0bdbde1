//! A monitor that answers exits with nonsense.

use crate::arch::guest::{
    CONTROLS, Groups, PC, PC_GROUP, VcpuState, anywhere, initial, spare_the_emulator,
};
use crate::place::STATE;
use crate::random::Random;
use abi::vcpu::{ExitKind, exit_kind, instruction_length};

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
        let pc = words.byte_add(PC);
        if exit_kind(word) == Some(ExitKind::Startup) || random.one_in(6) {
            page.write_volatile(initial(random));
        } else if random.one_in(2) {
            pc.write_volatile(pc.read_volatile().wrapping_add(instruction_length(word)));
            groups = PC_GROUP.bits();
        } else {
            pc.write_volatile(anywhere(random));
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
            controls.write_volatile(random.word() & CONTROLS);
        } else {
            controls.write_volatile(0);
        }
        groups |= spare_the_emulator(page).bits();
    }
    groups
}

/// Groups that exits of a kind save.
pub fn saved(random: &mut Random) -> u64 {
    if random.one_in(2) { PC_GROUP.bits() } else { random.word() }
}
