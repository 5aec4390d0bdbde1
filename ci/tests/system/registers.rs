//! Guests' registers: two guests fill them with patterns and look whether they stay; their monitor looks after its own.

use anyhow::{Result, ensure};
use bulkhead::artifacts::REGISTERS;
use bulkhead::dialogue::Dialogue;
use ci::{ANSWER, Target, seconds};
use configs::Architecture;

/// Both guests take all of their turns.
fn are_kept_apart(machine: &mut Dialogue) -> Result<()> {
    let end = r"(?:registers: (done \d+ rounds|FAILED[^\r\n]*)|bulkhead: (panic[^\r\n]*))\r?\n";
    let end = machine.expect(end, seconds(60))?;
    ensure!(end == "done 200 rounds", "{end}");
    Ok(())
}

fn guests_do_not_see_each_others_registers(on: Target) {
    on.tries(REGISTERS, &[], are_kept_apart);
}

/// Emulated CPUs are not asked to take measures against speculation otherwise. What QEMU's say of themselves leaves few.
fn measures_against_speculation_are_taken_and_reported(on: Target) {
    on.tries_with(REGISTERS, &[], "mitigations=on", false, |machine| {
        let lines: &[&str] = match on.architecture() {
            Architecture::X86_64 => &[
                "Meltdown, L1TF: not affected",
                "Spectre v2, between programs and guests: AFFECTED: the microcode has no mitigation",
                "return stack, after guests: mitigated by filling",
            ],
            Architecture::Arm64 => &[
                "Meltdown: not affected",
                "Spectre v2, between programs and guests: AFFECTED: firmware has no mitigation",
                "store bypass: AFFECTED: firmware has no mitigation",
            ],
        };
        for line in lines {
            machine.expect(&format!("bulkhead: {line}\\s"), ANSWER)?;
        }
        are_kept_apart(machine)
    });
}

tests! {
    guests_do_not_see_each_others_registers: x86, bochs, a53_gic2, a72_gic3, max_gic3;
    measures_against_speculation_are_taken_and_reported: x86, a72_gic3;
}
