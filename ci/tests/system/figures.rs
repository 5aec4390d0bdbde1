//! The benchmark's figures on one CPU, in instructions: they repeat, do not rise, and keep within the bounds that are set.

use anyhow::ensure;
use bulkhead::bench::guard::{self, Change};
use bulkhead::bench::json::Run;
use bulkhead::bench::path::Path;
use bulkhead::bench::trace::{self, Tracer};
use bulkhead::bench::{Measures, Report, Row, Unit, Way, describe, measure};
use bulkhead::machine::{Kind, Settings};
use ci::{Target, with_machine};

/// Most bytes of the kernel's code, in whole cache lines, that a call and its reply touch.
const CODE: u64 = 2 << 10;

/// Rows that have to have a path.
const PATHS: [&str; 5] = [
    "syscall.null",
    "ipc.same_domain.words0",
    "ipc.other_domain.words0",
    "signal.no_waiter",
    "exit.hypercall",
];

/// Runs the benchmark.
fn run(way: &Way, plugin: Option<&str>) -> Report {
    let machine = measure::machine(way.kind, 1);
    let on = Target { kind: way.kind, board: machine.board, cpus: machine.cpus };
    let image = way.image().unwrap_or_else(|e| panic!("{e:#}"));
    let settings = Settings { plugin, ..way.settings(1) };
    let mut report = Report::default();
    with_machine("bench", on, &image, &settings, |machine| {
        machine.expect("(?m)^bench: end", measure::LIMIT)?;
        report = Report::parse(&machine.transcript())?;
        ensure!(report.unavailable.is_empty(), "{:?}", report.unavailable);
        Ok(())
    });
    report
}

/// Two runs, the second one with the plugin that traces it, if QEMU loads plugins.
fn figures(kind: Kind) {
    let way = Way { kind, unit: Unit::Instructions, measures: Measures::Off };
    let tracer = match trace::obstacle(kind).unwrap_or_else(|e| panic!("{e:#}")) {
        Some(why) => {
            eprintln!("paths are not looked at: {why}");
            None
        }
        None => Some(Tracer::new(kind.architecture()).unwrap_or_else(|e| panic!("{e:#}"))),
    };
    let report = run(&way, None);
    let again = run(&way, tracer.as_ref().map(Tracer::option));
    assert_eq!(report, again, "{kind}: a run does not repeat");
    let run = describe(&way, &report).unwrap_or_else(|e| panic!("{e:#}"));
    compare_with_the_baseline(kind, &run);
    keep_to_the_bounds(kind, &run.results);
    if let Some(tracer) = tracer {
        let paths = tracer.paths(&again, kind.architecture());
        look_at(&paths.unwrap_or_else(|e| panic!("{e:#}")));
    }
}

fn compare_with_the_baseline(kind: Kind, run: &Run) {
    let baseline = guard::baseline(kind, run).unwrap_or_else(|e| panic!("{e:#}"));
    let changes = guard::changes(&baseline.results, &run.results);
    for change in &changes {
        eprintln!("{kind}: {change}");
    }
    if !guard::is_comparable(&baseline, run) {
        eprintln!(
            "{kind}: the baseline is of {}, {}, {}; this is {}, {}, {}: not compared",
            baseline.emulator,
            baseline.cpu_flags,
            baseline.config,
            run.emulator,
            run.cpu_flags,
            run.config
        );
        return;
    }
    let worse: Vec<String> =
        changes.iter().filter(|change| change.is_worse()).map(Change::to_string).collect();
    assert!(
        worse.is_empty(),
        "{kind}: more than the baseline:\n  {}\nIf that is meant to be so, renew it: {}",
        worse.join("\n  "),
        guard::renewal(kind)
    );
}

/// Fails if a median is over its bound.
pub fn keep_to_the_bounds(kind: Kind, rows: &[Row]) {
    for (goal, median) in guard::goals(kind, rows).unwrap_or_else(|e| panic!("{e:#}")) {
        let (row, most) = (&goal.row, goal.at_most);
        let median = median.unwrap_or_else(|| panic!("{kind}: {row} is not measured"));
        if goal.open {
            eprintln!("{kind}: {row}: {median}; to be reached: {most}");
        } else {
            assert!(median <= most, "{kind}: {row}: {median}, at most {most} are allowed");
        }
    }
}

fn look_at(paths: &[Path]) {
    for name in PATHS {
        let path = paths.iter().find(|path| path.name == name);
        let path = path.unwrap_or_else(|| panic!("{name} has no path"));
        assert!(path.kernel != 0 && path.kernel < path.instructions, "{path:?}");
        assert_eq!(path.stages.values().sum::<u64>(), path.instructions, "{path:?}");
        assert!(!name.starts_with("ipc.") || path.code <= CODE, "{name}: {} bytes", path.code);
    }
}

#[test]
fn of_x86_repeat_do_not_rise_and_keep_within_bounds() {
    figures(Kind::QemuX86);
}

#[test]
fn of_arm64_repeat_do_not_rise_and_keep_within_bounds() {
    figures(Kind::QemuArm64);
}
