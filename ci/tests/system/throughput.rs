//! A client with its servers on each CPU: an operation takes as many instructions as where there is one CPU, and writes to
//! no cache line that another CPU uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, ensure};
use bulkhead::artifacts::BENCHMARK;
use bulkhead::bench::{Report, trace};
use bulkhead::machine::{Kind, Settings, qemu};
use bulkhead::trial::{self, BENCHMARK_FILES};
use ci::{Target, seconds, with_machine};

use crate::figures::keep_to_the_bounds;

/// Instructions of each operation that is measured on all CPUs at the same time.
fn instructions(on: Target) -> BTreeMap<String, u64> {
    let count = on.kind != Kind::Bochs;
    let mut figures = BTreeMap::new();
    on.tries_with(BENCHMARK, BENCHMARK_FILES, "", count, |machine| {
        machine.expect("(?m)^bench: end", seconds(180))?;
        let report = Report::parse(&machine.transcript())?;
        // The bounds of Bochs are looked at here, as booting it takes long.
        if (on.kind, on.cpus) == (Kind::Bochs, 1) {
            keep_to_the_bounds(on.kind, &report.rows);
        }
        let suffix = format!(".cpus{}", on.cpus);
        let name = |row: &str| {
            let operation = row.strip_prefix("throughput.")?;
            operation.strip_suffix(&suffix).map(str::to_owned)
        };
        for (row, why) in report.unavailable {
            ensure!(name(&row).is_none(), "{row}: {why}");
        }
        let rows = report.rows.iter();
        figures.extend(rows.filter_map(|row| Some((name(&row.name)?, row.median))));
        ensure!(!figures.is_empty(), "nothing was measured on all CPUs");
        Ok(())
    });
    figures
}

fn independent_pairs_share_nothing(on: Target) {
    let alone = instructions(Target { cpus: 1, ..on });
    assert_eq!(instructions(on), alone, "on {on}; with one CPU: the latter");
}

fn what_a_cpu_writes_is_its_own(on: Target) {
    static PLUGIN: OnceLock<PathBuf> = OnceLock::new();
    if !qemu::loads_plugins(on.architecture()).unwrap_or_else(|e| panic!("{e:#}")) {
        eprintln!("skipped: this QEMU loads no plugins, or such of another version");
        return;
    }
    let library = PLUGIN.get_or_init(|| trace::plugin().unwrap_or_else(|e| panic!("{e:#}")));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("lines");
    let (begin, end) = (bench::LOOP_BEGINS, bench::LOOP_ENDS);
    let (file, seen) = (library.display(), out.display());
    let option = format!("file={file},begin={begin},end={end},out={seen}");
    let settings = Settings {
        count_instructions: true,
        plugin: Some(&option),
        ..Settings::new(on.machine(trial::MEMORY))
    };
    let image = trial::image(on.architecture(), BENCHMARK, BENCHMARK_FILES);
    let image = image.unwrap_or_else(|error| panic!("{on}: {error:#}"));
    with_machine("watched bench", on, &image, &settings, |machine| {
        machine.expect("(?m)^bench: end", seconds(180))?;
        let report = Report::parse(&machine.transcript())?;
        ensure!(report.unavailable.is_empty(), "{:?}", report.unavailable);
        let seen = std::fs::read_to_string(&out).context("the plugin says nothing")?;
        let all = format!("{} cpus wrote ", on.cpus);
        ensure!(seen.starts_with(&all), "{seen}");
        Ok(())
    });
}

tests! {
    independent_pairs_share_nothing: x86_4cpus, bochs_4cpus, a53_gic2_4cpus, max_gic3_4cpus;
    what_a_cpu_writes_is_its_own: x86_4cpus, a53_gic2_4cpus;
}
