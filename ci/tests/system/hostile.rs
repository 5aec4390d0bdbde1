//! Hostile programs: the kernel stands, and what they took comes back.

use anyhow::{Result, ensure};
use bulkhead::artifacts::{Artifacts, HOSTILE};
use bulkhead::bench;
use bulkhead::machine::{Image, Kind, Settings};
use ci::{seconds, with_machine};
use configs::{Architecture, Machine};

/// Boots the hostile root task, which takes eight seconds of its machine.
fn survives(name: &str, architecture: Architecture, cpus: u32) -> Result<()> {
    let kind = match architecture {
        Architecture::X86_64 => Kind::QemuX86,
        Architecture::Arm64 => Kind::QemuArm64,
    };
    let artifacts = Artifacts::trials(architecture)?;
    let image = Image {
        kernel: artifacts.kernel.clone(),
        bundle: bench::pack(&artifacts, HOSTILE)?,
        options: String::new(),
    };
    let machine = Machine::usual(architecture, 512 << 20, cpus);
    let settings = Settings::new(machine);
    with_machine(name, kind, &image, &settings, |machine| {
        machine.expect(&format!("hostile: begin: {cpus} CPUs"), seconds(30))?;
        let end = r"hostile: (done \d+ calls|FAILED.*)|bulkhead: (panic.*)";
        let end = machine.expect(end, seconds(60))?;
        let calls = end
            .strip_prefix("done ")
            .and_then(|e| e.strip_suffix(" calls"));
        let calls: u64 = calls.map_or(Ok(0), str::parse)?;
        ensure!(calls > 3000, "{end}");
        Ok(())
    });
    Ok(())
}

#[test]
fn the_kernel_survives_hostile_programs() {
    survives("hostile", Architecture::X86_64, 1).unwrap();
}

#[test]
fn the_kernel_survives_hostile_programs_on_two_cpus() {
    survives("hostile-two-cpus", Architecture::X86_64, 2).unwrap();
}

#[test]
fn the_arm_kernel_survives_hostile_programs() {
    survives("hostile-arm", Architecture::Arm64, 1).unwrap();
}

#[test]
fn the_arm_kernel_survives_hostile_programs_on_two_cpus() {
    survives("hostile-arm-two-cpus", Architecture::Arm64, 2).unwrap();
}
