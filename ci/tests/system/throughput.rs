//! A client with its servers on each CPU: an operation takes as many instructions as where there is one CPU.

use std::collections::BTreeMap;

use bulkhead::artifacts::BENCHMARK;
use bulkhead::bench::Report;
use bulkhead::machine::Kind;
use ci::{Target, seconds};

/// Instructions of each operation that is measured on all CPUs at the same time.
fn instructions(on: Target) -> BTreeMap<String, u64> {
    let count = on.kind != Kind::Bochs;
    let mut figures = BTreeMap::new();
    on.tries_with(BENCHMARK, &[], "", count, |machine| {
        machine.expect("(?m)^bench: end", seconds(180))?;
        let report = Report::parse(&machine.transcript())?;
        let suffix = format!(".cpus{}", on.cpus);
        let name = |row: &str| {
            let operation = row.strip_prefix("throughput.")?;
            operation.strip_suffix(&suffix).map(str::to_owned)
        };
        for (row, why) in report.unavailable {
            anyhow::ensure!(name(&row).is_none(), "{row}: {why}");
        }
        let rows = report.rows.iter();
        figures.extend(rows.filter_map(|row| Some((name(&row.name)?, row.median))));
        anyhow::ensure!(!figures.is_empty(), "nothing was measured on all CPUs");
        Ok(())
    });
    figures
}

fn independent_pairs_share_nothing(on: Target) {
    let alone = instructions(Target { cpus: 1, ..on });
    assert_eq!(instructions(on), alone, "on {on}; with one CPU: the latter");
}

tests! {
    independent_pairs_share_nothing: x86_4cpus, bochs_4cpus, a53_gic2_4cpus, max_gic3_4cpus;
}
