//! Guests' registers: two guests that fill them with patterns, and what that does to their monitor.

use anyhow::{Result, ensure};
use bulkhead::artifacts::{Artifacts, REGISTERS};
use bulkhead::bench;
use bulkhead::machine::{Image, Kind, Settings};
use ci::{seconds, with_machine};
use configs::{Architecture, Board, Gic, Machine};

fn keeps_apart(name: &str, cpu: &'static str, gic: Gic) -> Result<()> {
    let artifacts = Artifacts::trials(Architecture::Arm64)?;
    let image = Image {
        kernel: artifacts.kernel.clone(),
        bundle: bench::pack(&artifacts, REGISTERS)?,
        options: String::new(),
    };
    let machine = Machine {
        board: Board::Virt { cpu, gic },
        ..Machine::usual(Architecture::Arm64, 512 << 20, 1)
    };
    let settings = Settings::new(machine);
    with_machine(name, Kind::QemuArm64, &image, &settings, |machine| {
        let end = r"registers: (done \d+ rounds|FAILED.*)|bulkhead: (panic.*)";
        let end = machine.expect(end, seconds(60))?;
        ensure!(end == "done 200 rounds", "{end}");
        Ok(())
    });
    Ok(())
}

#[test]
fn registers_of_guests_on_arm_stay_apart() {
    keeps_apart("registers-max", "max", Gic::V3).unwrap();
    keeps_apart("registers-a53", "cortex-a53", Gic::V2).unwrap();
    keeps_apart("registers-a72", "cortex-a72", Gic::V3).unwrap();
}
