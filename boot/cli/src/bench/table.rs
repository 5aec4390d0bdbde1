//! Figures as text.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::measure::Unit;
use super::report::{Report, Row, find};

/// A report beside others: medians of each row in a column of its own.
pub struct Column<'a> {
    /// What stands above it.
    pub head: &'a str,
    /// Whose medians stand in it.
    pub rows: &'a [Row],
}

/// The rows of `report` as a table, with `columns` beside them. Rows that only others have come last.
pub fn table(report: &Report, unit: Unit, columns: &[Column<'_>]) -> String {
    let mut out = String::new();
    let heads = ["min", "median", "p99", "max", "first"];
    let _ = write!(out, "{:<36}", unit.to_string());
    for head in heads {
        let _ = write!(out, "{head:>9}");
    }
    for column in columns {
        let _ = write!(out, "  {}", column.head);
    }
    out.push('\n');
    for (name, row) in all_rows(report, columns) {
        let mut line = format!("{name:<36}");
        let own = row.map(|row| [row.min, row.median, row.p99, row.max, row.first]);
        for at in 0..heads.len() {
            let value = own.map_or("-".into(), |values| values[at].to_string());
            let _ = write!(line, "{value:>9}");
        }
        for column in columns {
            let value = find(column.rows, name).map_or("-".into(), |row| row.median.to_string());
            let _ = write!(line, "  {value:>width$}", width = column.head.chars().count());
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    for (name, why) in &report.unavailable {
        let _ = writeln!(out, "{name:<36} unavailable: {why}");
    }
    out
}

/// The names of the rows in `report` and `columns`, with what `report` says of each.
pub fn all_rows<'a>(report: &'a Report, columns: &[Column<'a>]) -> Vec<(&'a str, Option<&'a Row>)> {
    let mut all: Vec<_> = report.rows.iter().map(|row| (row.name.as_str(), Some(row))).collect();
    let mut known: BTreeMap<&str, ()> = all.iter().map(|(name, _)| (*name, ())).collect();
    for row in columns.iter().flat_map(|column| column.rows) {
        if known.insert(&row.name, ()).is_none() {
            all.push((&row.name, None));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_stand_beside() {
        let own = Report::parse("bench: a 1 2 3 4 5 6\nbench: c unavailable: why\n").unwrap();
        let other = Report::parse("bench: b 1 7 7 7 5 6\nbench: a 1 8 8 8 5 6\n").unwrap();
        let column = Column { head: "theirs", rows: &other.rows };
        let text = table(&own, Unit::Cycles, &[column]);
        let words = |at: usize| -> Vec<&str> {
            let line = text.lines().nth(at).unwrap();
            line.split_whitespace().collect()
        };
        assert_eq!(words(0).first().zip(words(0).last()), Some((&"cycles", &"theirs")));
        assert_eq!(words(1), ["a", "1", "2", "3", "4", "6", "8"]);
        assert_eq!(words(2), ["b", "-", "-", "-", "-", "-", "7"]);
        assert_eq!(words(3), ["c", "unavailable:", "why"]);
    }
}
