//! What a machine measured: rows, read from what the benchmark prints.

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

/// One row: counter ticks, the cost of reading the counter subtracted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// What the kernel says of guests: what runs them, and what is moved for them that no instruction of a path shows.
    pub guests: Option<String>,
}

impl Report {
    /// Reads the benchmark's lines out of everything that the machine printed.
    pub fn parse(transcript: &str) -> Result<Report> {
        let mut said =
            transcript.lines().filter_map(|l| l.trim().strip_prefix("bulkhead: guests: "));
        let mut report = Report { guests: said.next().map(str::to_owned), ..Report::default() };
        let lines = transcript.lines().filter_map(|l| l.trim().strip_prefix("bench: "));
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

    /// The row of this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        find(&self.rows, name)
    }
}

/// The row of this name among `rows`.
pub fn find<'a>(rows: &'a [Row], name: &str) -> Option<&'a Row> {
    rows.iter().find(|row| row.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_and_nothing_else() {
        let text = "bulkhead: guests: EL2\r\nbench: begin\r\nbench: a.b 1 2 3 4 512 9\r\n\
                    bench: c unavailable: no such CPU\r\nbench: end\r\n";
        let report = Report::parse(text).unwrap();
        assert_eq!((report.rows.len(), report.rows[0].p99, report.rows[0].first), (1, 3, 9));
        assert_eq!(report.row("a.b"), report.rows.first());
        assert_eq!(report.guests.as_deref(), Some("EL2"));
        assert_eq!(report.unavailable, [("c".to_string(), "no such CPU".to_string())]);
        assert!(Report::parse("bench: a.b 1 2 3\n").is_err());
        assert!(Report::parse("bench: begin\n").is_err());
    }
}
