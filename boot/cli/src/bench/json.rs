//! Runs as data: one line of JSON for each.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::measure::Unit;
use super::report::Row;

/// A run, as it stands in a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The commit that was measured; `-dirty` behind it: with changes.
    pub commit: Option<String>,
    /// The machine, as `--machine` names it.
    pub machine: String,
    /// The emulator, with its version.
    pub emulator: String,
    /// The model of the machine's CPUs, and what it is told besides.
    pub cpu_flags: String,
    /// What else figures depend on: the compiler, and what is done against speculation.
    pub config: String,
    /// Of all figures.
    pub unit: Unit,
    /// The figures.
    pub results: Vec<Row>,
}

impl Run {
    /// As a line.
    pub fn line(&self) -> Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }

    /// Whether figures of this and the other mean the same: of the same system on the same machine, measured in the same way.
    pub fn is_like(&self, other: &Run) -> bool {
        fn key(run: &Run) -> (&str, Option<&str>, &str, Unit) {
            // The compiler built Bulkhead; other systems stand there by their names.
            let system = run.config.split(' ').next();
            (&run.machine, system, run.measures(), run.unit)
        }
        key(self) == key(other)
    }

    /// What is done against speculation.
    pub fn measures(&self) -> &str {
        self.config.rsplit_once(", ").map_or("", |(_, last)| last)
    }
}

/// The runs in a file.
pub fn read(file: &Path) -> Result<Vec<Run>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    let lines = text.lines().enumerate();
    let runs = lines.filter(|(_, line)| !line.trim().is_empty());
    runs.map(|(number, line)| {
        serde_json::from_str(line).with_context(|| {
            format!("{}:{}: this line is no run of the benchmark", file.display(), number + 1)
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_what_others_read() {
        let run = Run {
            commit: Some("abc".into()),
            machine: "qemu-x86".into(),
            emulator: "QEMU 7.2".into(),
            cpu_flags: "max".into(),
            config: "rustc 1.95.0, mitigations=off".into(),
            unit: Unit::Instructions,
            results: vec![Row {
                name: "syscall.null".into(),
                min: 1,
                median: 2,
                p99: 3,
                max: 4,
                count: 5,
                first: 6,
            }],
        };
        let line = run.line().unwrap();
        assert_eq!(
            line,
            r#"{"commit":"abc","machine":"qemu-x86","emulator":"QEMU 7.2","cpu_flags":"max","#
                .to_owned()
                + r#""config":"rustc 1.95.0, mitigations=off","unit":"instructions","results":[{"#
                + r#""name":"syscall.null","min":1,"median":2,"p99":3,"max":4,"count":5,"first":6}]}"#
                + "\n"
        );
        assert_eq!(run.measures(), "mitigations=off");
        let with = |config: &str| Run { config: config.into(), ..run.clone() };
        assert!(run.is_like(&with("rustc 1.96.0, mitigations=off")));
        assert!(!run.is_like(&with("rustc 1.95.0, mitigations=on")));
        assert!(!run.is_like(&with("KVM of Linux 6.1, mitigations=off")));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("{line}\n{line}")).unwrap();
        assert_eq!(read(file.path()).unwrap(), [run.clone(), run]);
        std::fs::write(&file, format!("{line}nonsense\n")).unwrap();
        let error = read(file.path()).unwrap_err();
        assert!(error.to_string().contains(":2: "), "{error}");
    }
}
