//! Guests' registers: two guests fill them with patterns and look whether they stay; their monitor looks after its own.

use bulkhead::artifacts::REGISTERS;
use ci::{Target, seconds};

fn guests_do_not_see_each_others_registers(on: Target) {
    on.tries(REGISTERS, &[], |machine| {
        let end = r"(?:registers: (done \d+ rounds|FAILED[^\r\n]*)|bulkhead: (panic[^\r\n]*))\r?\n";
        let end = machine.expect(end, seconds(60))?;
        anyhow::ensure!(end == "done 200 rounds", "{end}");
        Ok(())
    });
}

tests! {
    guests_do_not_see_each_others_registers: x86, bochs, a53_gic2, a72_gic3, max_gic3;
}
