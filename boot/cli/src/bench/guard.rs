//! Figures against those that were there before, and against those that are to be reached.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::json::{self, Run};
use super::report::{Row, find};
use crate::machine::Kind;
use crate::workspace;

/// How much more than the baseline a figure may be, in parts of a hundred.
const TOLERANCE: u64 = 3;

/// A figure that differs from the baseline's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row.
    pub name: String,
    /// The baseline's median.
    pub before: u64,
    /// That of the run; `None`: the row is not measured any more.
    pub now: Option<u64>,
}

impl Change {
    /// Whether it is a regression.
    pub fn is_worse(&self) -> bool {
        match self.now {
            Some(now) => now * 100 > self.before * (100 + TOLERANCE),
            None => true,
        }
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Change { name, before, now } = self;
        match now {
            Some(now) => {
                let percent = (*now as f64 / *before as f64 - 1.0) * 100.0;
                write!(f, "{name}: {now}, was {before} ({percent:+.1} %)")
            }
            None => write!(f, "{name}: not measured, was {before}"),
        }
    }
}

/// The file of a machine's baseline: a run as `--json` writes it.
pub fn baseline_file(kind: Kind) -> PathBuf {
    workspace::root().join(format!("ci/bench/baseline/{kind}.json"))
}

/// How a machine's baseline is renewed.
pub fn renewal(kind: Kind) -> String {
    let file = format!("ci/bench/baseline/{kind}.json");
    format!("rm -f {file} && cargo run -- bench --machine {kind} --json {file}")
}

/// The run in a machine's baseline that was measured in the same way as `run`.
pub fn baseline(kind: Kind, run: &Run) -> Result<Run> {
    let runs = json::read(&baseline_file(kind))?;
    let found = runs.into_iter().rfind(|old| old.is_like(run));
    found.with_context(|| {
        format!(
            "{} has no run with {}; renew it: {}",
            baseline_file(kind).display(),
            run.measures(),
            renewal(kind)
        )
    })
}

/// Whether figures of the two have to agree: of the same compiler, emulator and model of CPU.
pub fn is_comparable(baseline: &Run, run: &Run) -> bool {
    let key = |run: &Run| (run.emulator.clone(), run.cpu_flags.clone(), run.config.clone());
    key(baseline) == key(run)
}

/// What differs between the medians of two runs. Rows of machines with several CPUs count only if both have some.
pub fn changes(baseline: &[Row], now: &[Row]) -> Vec<Change> {
    let is_of_several = |row: &Row| {
        let cpus = row.name.rsplit_once(".cpus").and_then(|(_, n)| n.parse::<u32>().ok());
        cpus.is_some_and(|cpus| cpus > 1)
    };
    let has_several = now.iter().any(is_of_several);
    let counting = baseline.iter().filter(|row| has_several || !is_of_several(row));
    let compared = counting.map(|row| Change {
        name: row.name.clone(),
        before: row.median,
        now: find(now, &row.name).map(|row| row.median),
    });
    compared.filter(|change| change.now != Some(change.before)).collect()
}

/// What is to be reached, and what others have measured for themselves.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Bounds.
    #[serde(rename = "goal")]
    pub goals: Vec<Goal>,
    /// Others' figures.
    pub literature: Vec<Literature>,
}

/// A bound.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Goal {
    /// The machine that it is for.
    pub machine: String,
    /// The row.
    pub row: String,
    /// The most that its median may be.
    pub at_most: u64,
    /// It is not reached yet.
    #[serde(default)]
    pub open: bool,
}

/// A figure that others have measured.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Literature {
    /// The machine, as near as it comes.
    pub machine: String,
    /// The row that it is comparable with.
    pub row: String,
    /// What was measured, of which system.
    pub what: String,
    /// The figures; two where it depends on what `what` names.
    pub values: Vec<u64>,
    /// Where it is from.
    pub source: String,
}

/// The figures in `figures.toml`.
pub fn figures() -> Result<Figures> {
    toml::from_str(include_str!("figures.toml")).context("figures.toml")
}

/// The bounds for a machine, each with the median of its row, if that was measured.
pub fn goals(kind: Kind, rows: &[Row]) -> Result<Vec<(Goal, Option<u64>)>> {
    let goals = figures()?.goals.into_iter();
    let here = goals.filter(|goal| goal.machine == kind.to_string());
    Ok(here
        .map(|goal| {
            let median = find(rows, &goal.row).map(|row| row.median);
            (goal, median)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Report;

    fn rows(text: &str) -> Vec<Row> {
        Report::parse(text).unwrap().rows
    }

    #[test]
    fn more_than_three_parts_of_a_hundred_is_worse() {
        let old = rows(
            "bench: a 1 100 1 1 1 1\nbench: b 1 100 1 1 1 1\nbench: c 1 100 1 1 1 1\nbench: d 1 9 1 1 1 1\n\
             bench: t.x.cpus2 1 9 1 1 1 1\n",
        );
        let new = rows("bench: a 1 103 1 1 1 1\nbench: b 1 104 1 1 1 1\nbench: c 1 100 1 1 1 1\n");
        let found: Vec<_> =
            changes(&old, &new).iter().map(|c| (c.to_string(), c.is_worse())).collect();
        assert_eq!(
            found,
            [
                ("a: 103, was 100 (+3.0 %)".to_string(), false),
                ("b: 104, was 100 (+4.0 %)".to_string(), true),
                ("d: not measured, was 9".to_string(), true),
            ]
        );
        let several = rows("bench: t.x.cpus2 1 8 1 1 1 1\n");
        assert_eq!(changes(&old[4..], &several)[0].now, Some(8));
    }

    #[test]
    fn figures_are_of_machines_and_rows_that_there_are() {
        let figures = figures().unwrap();
        let kinds = [Kind::QemuX86, Kind::Bochs, Kind::QemuArm64].map(|kind| kind.to_string());
        let mut named = figures.goals.iter().map(|goal| &goal.machine);
        assert!(named.all(|machine| kinds.contains(machine)));
        for entry in &figures.literature {
            assert!(kinds.contains(&entry.machine) && !entry.source.is_empty(), "{entry:?}");
            assert!((1..=2).contains(&entry.values.len()), "{entry:?}");
        }
        let measured = rows("bench: syscall.null 1 27 1 1 1 1\n");
        let goals = goals(Kind::QemuX86, &measured).unwrap();
        assert!(goals.iter().any(|(goal, median)| goal.at_most == 35 && *median == Some(27)));
    }
}
