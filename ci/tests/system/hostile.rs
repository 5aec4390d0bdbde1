//! Hostile programs: the kernel stands, and what they took comes back.

use anyhow::{Result, ensure};
use bulkhead::artifacts::{Artifacts, HOSTILE};
use bulkhead::bench;
use bulkhead::machine::{Image, Kind, Settings};
use ci::{seconds, with_machine};
use configs::{Architecture, Machine};

/// Boots the hostile root task, which takes eight seconds of its machine.
fn survives(name: &str, cpus: u32) -> Result<()> {
    let artifacts = Artifacts::trials(Architecture::X86_64)?;
    let image = Image {
        kernel: artifacts.kernel.clone(),
        bundle: bench::pack(&artifacts, HOSTILE)?,
        options: String::new(),
    };
    let machine = Machine::usual(Architecture::X86_64, 512 << 20, cpus);
    let settings = Settings::new(machine);
    with_machine(name, Kind::QemuX86, &image, &settings, |machine| {
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
    survives("hostile", 1).unwrap();
}

#[test]
fn the_kernel_survives_hostile_programs_on_two_cpus() {
    survives("hostile-two-cpus", 2).unwrap();
}
