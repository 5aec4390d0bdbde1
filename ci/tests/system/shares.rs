//! Nobody takes more than its share of a CPU.

use anyhow::ensure;
use bulkhead::artifacts::SHARES;
use bulkhead::machine::Kind;
use ci::{Target, seconds};

fn floods_leave_what_others_were_promised(on: Target) {
    let counts = on.kind != Kind::Bochs;
    on.tries_with(SHARES, &[], "", counts, |machine| {
        let end = r"shares: (done|FAILED[^\r\n]*)\r?\n|bulkhead: (panic.*)";
        let end = machine.expect(end, seconds(300))?;
        let said = machine.transcript();
        for line in said.lines().filter(|line| line.starts_with("shares: ")) {
            eprintln!("{on}: {}", line.trim_end());
        }
        ensure!(end == "done", "{end}");
        Ok(())
    });
}

tests! {
    floods_leave_what_others_were_promised: x86, bochs, a53_gic2, max_gic3;
}
