//! The command `bench`: boots the benchmark and prints what it measured.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use configs::Machine;

use crate::artifacts::BENCHMARK;
use crate::dialogue::Dialogue;
use crate::machine::{self, Kind, Settings};
use crate::{progress, trial, workspace};

/// The benchmark takes a second; emulators on a busy machine are slow.
const LIMIT: Duration = Duration::from_secs(180);

/// Sizes of the machines that it runs on: on each it has as many pairs of client and server as there are CPUs, and measures
/// the rest on the first one.
const CPUS: [u32; 3] = [1, 2, 4];

/// One row: counter ticks, the cost of reading the counter subtracted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// Dotted name, such as `ipc.other_domain.words0`.
    pub name: String,
    /// Least.
    pub min: u64,
    /// The middle one.
    pub median: u64,
    /// The one that 99 of 100 do not exceed.
    pub p99: u64,
    /// Most.
    pub max: u64,
    /// Number of samples.
    pub count: u64,
    /// The very first, with nothing warm.
    pub first: u64,
}

/// What a run measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What was measured.
    pub rows: Vec<Row>,
    /// What could not be, and why.
    pub unavailable: Vec<(String, String)>,
}

impl Report {
    /// Reads the benchmark's lines out of everything that the machine printed.
    pub fn parse(transcript: &str) -> Result<Report> {
        let mut report = Report::default();
        let lines = transcript
            .lines()
            .filter_map(|l| l.trim().strip_prefix("bench: "));
        for line in lines {
            let (name, rest) = match line.split_once(' ') {
                Some(parts) => parts,
                None => continue,
            };
            if let Some(why) = rest.strip_prefix("unavailable: ") {
                report.unavailable.push((name.into(), why.into()));
                continue;
            }
            let numbers: Result<Vec<u64>, _> = rest.split(' ').map(str::parse).collect();
            match numbers.as_deref() {
                Ok(&[min, median, p99, max, count, first]) => {
                    report.rows.push(Row {
                        name: name.into(),
                        min,
                        median,
                        p99,
                        max,
                        count,
                        first,
                    });
                }
                _ => {
                    return Err(anyhow!(
                        "the benchmark printed a line that is none of its: {line}"
                    ));
                }
            }
        }
        if report.rows.is_empty() {
            return Err(anyhow!("the benchmark printed no row"));
        }
        Ok(report)
    }

    /// The rows as a table.
    pub fn table(&self, unit: &str) -> String {
        let mut out = String::new();
        let heads = ["min", "median", "p99", "max", "first"];
        let _ = write!(out, "{:<36}", unit);
        for head in heads {
            let _ = write!(out, "{head:>9}");
        }
        out.push('\n');
        for row in &self.rows {
            let _ = write!(out, "{:<36}", row.name);
            for value in [row.min, row.median, row.p99, row.max, row.first] {
                let _ = write!(out, "{value:>9}");
            }
            out.push('\n');
        }
        for (name, why) in &self.unavailable {
            let _ = writeln!(out, "{name:<36} unavailable: {why}");
        }
        out
    }
}

/// Runs the benchmark on machines of a kind.
pub fn measure(kind: Kind) -> Result<Report> {
    machine::prepare(kind)?;
    let image = trial::image(kind.architecture(), BENCHMARK, trial::BENCHMARK_FILES)?;
    let mut all = Report::default();
    for cpus in CPUS {
        let machine = Machine::usual(kind.architecture(), trial::MEMORY, cpus);
        let settings = Settings {
            count_instructions: kind != Kind::Bochs,
            ..Settings::new(machine)
        };
        let _step = progress::step(&format!("Measuring with {cpus} CPUs"));
        let mut dialogue = Dialogue::new(machine::start(kind, &image, &settings)?);
        let end = dialogue.expect("(?m)^bench: end", LIMIT);
        end.with_context(|| {
            format!(
                "the benchmark did not end; it printed:\n{}",
                dialogue.transcript()
            )
        })?;
        let report = Report::parse(&dialogue.transcript())?;
        all.rows.extend(report.rows);
        all.unavailable.extend(report.unavailable);
    }
    Ok(all)
}

/// Appends one line of JSON to `file`.
fn append_json(file: &Path, kind: Kind, report: &Report) -> Result<()> {
    let line = serde_json::json!({
        "commit": commit(),
        "machine": kind.to_string(),
        "unit": "instructions",
        "results": report.rows,
    });
    let unwritable = || format!("{} cannot be written", file.display());
    let mut out = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .with_context(unwritable)?;
    writeln!(out, "{line}").with_context(unwritable)
}

fn commit() -> Option<String> {
    let mut git = std::process::Command::new("git");
    git.current_dir(workspace::root())
        .args(["rev-parse", "--short=12", "HEAD"]);
    let output = git.output().ok().filter(|o| o.status.success())?;
    String::from_utf8(output.stdout)
        .ok()
        .map(|s| s.trim().to_string())
}

/// Measures and prints.
pub fn run(kind: Kind, json: Option<&Path>) -> Result<()> {
    let report = measure(kind)?;
    print!("{}", report.table("instructions"));
    println!(
        "Every instruction counts one, whatever it costs on silicon; the cost of reading the counter is \
         subtracted. In rows of `throughput` all CPUs do the same at the same time; figures are those of one operation."
    );
    match json {
        Some(file) => append_json(file, kind, &report),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_nothing_else() {
        let text = "bulkhead: 1 CPUs\r\nbench: begin\r\nbench: a.b 1 2 3 4 512 9\r\n\
                    bench: c unavailable: no such CPU\r\nbench: end\r\n";
        let report = Report::parse(text).unwrap();
        assert_eq!(
            (report.rows.len(), report.rows[0].p99, report.rows[0].first),
            (1, 3, 9)
        );
        assert_eq!(
            report.unavailable,
            [("c".to_string(), "no such CPU".to_string())]
        );
        assert!(Report::parse("bench: a.b 1 2 3\n").is_err());
        assert!(Report::parse("bench: begin\n").is_err());
    }
}
