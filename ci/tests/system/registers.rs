//! Guests' registers: two guests fill them with patterns and look whether they stay; their monitor looks after its own.

use bulkhead::artifacts::{Artifacts, REGISTERS};
use bulkhead::bench;
use bulkhead::machine::{Image, Settings};
use ci::{Target, seconds, with_machine};

fn guests_do_not_see_each_others_registers(on: Target) {
    let artifacts = Artifacts::trials(on.architecture()).unwrap();
    let image = Image {
        kernel: artifacts.kernel.clone(),
        bundle: bench::pack(&artifacts, REGISTERS, &[]).unwrap(),
        options: String::new(),
    };
    let settings = Settings::new(on.machine(512 << 20));
    with_machine("registers", on, &image, &settings, |machine| {
        let end = r"registers: (done \d+ rounds|FAILED.*)|bulkhead: (panic.*)";
        let end = machine.expect(end, seconds(60))?;
        anyhow::ensure!(end == "done 200 rounds", "{end}");
        Ok(())
    });
}

tests! {
    guests_do_not_see_each_others_registers: a53_gic2, a72_gic3, max_gic3;
}
