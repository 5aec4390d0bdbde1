//! What was measured as a page: one file that needs nothing else.

mod chart;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::guard::{Figures, Goal};
use super::json::Run;
use super::path::{Path, Stage};
use super::report::{Report, Row, find};
use super::table::{self, Column};
use chart::{Bar, Group};

/// Most earlier runs that are shown.
const EARLIER: usize = 6;

/// First parts of the names of rows that are compared with each other.
const COMPARED: [&str; 5] = ["syscall", "ipc", "signal", "exit", "inject"];

/// The row whose path is shown part by part.
const SHOWN: &str = "exit.hypercall";

/// What a page is made of.
pub struct Page<'a> {
    /// What was measured, and what could not be.
    pub report: &'a Report,
    /// The run as data.
    pub run: &'a Run,
    /// The same with what the kernel does against speculation by itself, where it runs so.
    pub protected: Option<&'a Run>,
    /// Who was measured too, with its name.
    pub peer: Option<(&'a str, &'a Report)>,
    /// The paths, or why there are none.
    pub paths: Result<&'a [Path], &'a str>,
    /// Runs that were there before, the oldest first.
    pub earlier: &'a [Run],
    /// Bounds and figures of others.
    pub figures: &'a Figures,
    /// What figures mean.
    pub explanation: &'a str,
}

/// The runs among `all` that can be compared with `run`, at most the last few.
pub fn earlier(mut all: Vec<Run>, run: &Run) -> Vec<Run> {
    all.retain(|old| old.is_like(run));
    all.drain(..all.len().saturating_sub(EARLIER));
    all
}

impl Page<'_> {
    /// The page's text.
    pub fn text(&self) -> String {
        let run = self.run;
        let title = format!("Bulkhead: VM exits and IPC on {}", run.machine);
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) }
                    style { (PreEscaped(include_str!("html/style.css"))) }
                }
                body {
                    h1 { (title) }
                    dl {
                        dt { "Commit" } dd { (run.commit.as_deref().unwrap_or("unknown")) }
                        dt { "Emulator" } dd { (run.emulator) }
                        dt { "CPU" } dd { (run.cpu_flags) }
                        dt { "Built and run with" } dd { (run.config) }
                        @if let Some(guests) = &self.report.guests { dt { "Guests" } dd { (guests) } }
                        dt { "Unit" } dd { (run.unit) }
                    }
                    p.note { (self.explanation) }
                    (self.charts())
                    (self.all())
                    (self.paths())
                    (self.history())
                    (self.literature())
                }
            }
        };
        page.into_string()
    }

    fn goal(&self, row: &str) -> Option<&Goal> {
        let mut goals = self.figures.goals.iter();
        goals.find(|goal| goal.machine == self.run.machine && goal.row == row)
    }

    /// The columns beside the run.
    fn columns(&self) -> Vec<Column<'_>> {
        let protected =
            self.protected.map(|run| Column { head: run.measures(), rows: &run.results });
        let peer = self.peer.map(|(head, report)| Column { head, rows: &report.rows });
        protected.into_iter().chain(peer).collect()
    }

    fn charts(&self) -> Markup {
        let columns = self.columns();
        let (compared, others): (Vec<_>, Vec<_>) = table::all_rows(self.report, &columns)
            .into_iter()
            // What several CPUs do at the same time has tables only.
            .filter(|(name, _)| !name.starts_with("throughput."))
            .partition(|(name, _)| COMPARED.contains(&name.split('.').next().unwrap_or_default()));
        html! {
            h2 { "Exits against IPC" }
            p.note {
                "Medians of round trips, in " (self.run.unit) "."
                span.key.own {} (self.run.measures())
                @if let Some(run) = self.protected { span.key.safe {} (run.measures()) }
                @if let Some((peer, _)) = self.peer { span.key.peer {} (peer) }
                span.key.bound {} "to be kept within"
            }
            (self.chart(&compared, &columns, "Medians of system calls, IPC and exits"))
            @if !others.is_empty() {
                h2 { "Other operations" }
                (self.chart(&others, &columns, "Medians of other operations"))
            }
        }
    }

    /// Medians of rows, with those of the columns.
    fn chart(&self, rows: &[(&str, Option<&Row>)], columns: &[Column<'_>], title: &str) -> Markup {
        let groups = rows.iter().map(|(name, own)| {
            let own = own.map(|row| ("own", "Bulkhead", row.median));
            let beside = columns.iter().filter_map(|column| {
                let is_peer = self.peer.is_some_and(|(name, _)| name == column.head);
                let class = if is_peer { "peer" } else { "safe" };
                Some((class, column.head, find(column.rows, name)?.median))
            });
            let bars = own.into_iter().chain(beside).map(|(class, who, value)| Bar {
                class,
                hint: format!("{name}, {who}: {value} {}", self.run.unit),
                value,
            });
            Group { name, bars: bars.collect(), bound: self.goal(name).map(|goal| goal.at_most) }
        });
        chart::bars(&groups.collect::<Vec<_>>(), title)
    }

    fn all(&self) -> Markup {
        let columns = self.columns();
        let last = self.earlier.last();
        html! {
            h2 { "All figures" }
            div.wide { table {
                tr {
                    th { (self.run.unit) }
                    @for head in ["min", "median", "p99", "max", "first", "samples", "at most"] { th { (head) } }
                    @for column in &columns { th { (column.head) } }
                    @if let Some(last) = last { th { "since " (last.commit.as_deref().unwrap_or("before")) } }
                }
                @for (name, row) in table::all_rows(self.report, &columns) {
                    tr {
                        td { (name) }
                        @match row {
                            Some(row) => @for value in [row.min, row.median, row.p99, row.max, row.first, row.count] {
                                td { (value) }
                            },
                            None => @for _ in 0..6 { td { "–" } },
                        }
                        td { (self.goal(name).map_or(String::new(), |goal| goal.at_most.to_string())) }
                        @for column in &columns {
                            td { (find(column.rows, name).map_or("–".into(), |row| row.median.to_string())) }
                        }
                        @if let (Some(last), Some(row)) = (last, row) {
                            (change(find(&last.results, name).map(|old| old.median), row.median))
                        }
                    }
                }
                @for (name, why) in &self.report.unavailable {
                    tr { td { (name) } td.words colspan="9" { "unavailable: " (why) } }
                }
            } }
        }
    }

    fn paths(&self) -> Markup {
        let paths = match self.paths {
            Ok(paths) => paths,
            Err(why) => {
                return html! { h2 { "Paths" } p { "Unavailable: " (why) "." } };
            }
        };
        let rows: Vec<(&str, Vec<Bar<'_>>)> = paths
            .iter()
            .map(|path| {
                let parts = path.stages.iter().map(|(stage, count)| Bar {
                    class: class(*stage),
                    hint: format!("{}, {stage}: {count}", path.name),
                    value: *count,
                });
                (path.name.as_str(), parts.collect())
            })
            .collect();
        html! {
            h2 { "Paths" }
            p.note {
                "Instructions of each round trip, by what they are for."
                @for stage in Stage::ALL { span.key.(class(stage)) {} (stage) }
            }
            (chart::stacks(&rows, "Instructions by stage"))
            div.wide { table {
                tr {
                    th { "path" }
                    @for head in ["all", "kernel", "bytes of code", "privileged", "serialising"] { th { (head) } }
                    th.words { "which" }
                }
                @for path in paths {
                    tr {
                        td { (path.name) }
                        @for value in [path.instructions, path.kernel, path.code, path.privileged, path.serialising] {
                            td { (value) }
                        }
                        td.words { (path.dear()) }
                    }
                }
            } }
            @if let Some(path) = paths.iter().find(|path| path.name == SHOWN) { (self.parts(path)) }
        }
    }

    /// The path of one row, part by part.
    fn parts(&self, path: &Path) -> Markup {
        html! {
            h2 { "The path of " (path.name) }
            div.wide { table {
                tr { th { "stage" } th.words { "function" } th { "instructions" } th { "so far" } }
                @for (at, (stage, function, count)) in path.parts.iter().enumerate() {
                    tr {
                        td { span.key.(class(*stage)) {} (stage) }
                        td.words { (function) }
                        td { (count) }
                        td { (path.parts[..=at].iter().map(|(_, _, count)| count).sum::<u64>()) }
                    }
                }
            } }
        }
    }

    fn history(&self) -> Markup {
        if self.earlier.is_empty() {
            return html! {};
        }
        html! {
            h2 { "Earlier runs" }
            p.note { "Medians; the last column is this run." }
            div.wide { table {
                tr {
                    th { (self.run.unit) }
                    @for run in self.earlier {
                        th title=(format!("{}, {}", run.emulator, run.config)) {
                            (run.commit.as_deref().unwrap_or("unknown"))
                        }
                    }
                    th { "now" }
                }
                @for row in &self.report.rows {
                    tr {
                        td { (row.name) }
                        @for run in self.earlier {
                            td { (find(&run.results, &row.name).map_or("–".into(), |old| old.median.to_string())) }
                        }
                        td { (row.median) }
                    }
                }
            } }
        }
    }

    fn literature(&self) -> Markup {
        let here = |machine: &str| machine == self.run.machine;
        let entries: Vec<_> = self.figures.literature.iter().filter(|e| here(&e.machine)).collect();
        let mut rows: Vec<&str> = entries.iter().map(|entry| entry.row.as_str()).collect();
        rows.dedup();
        let groups: Vec<Group<'_>> = rows
            .iter()
            .map(|row| {
                let own = self.report.row(row).map(|own| Bar {
                    class: "own",
                    hint: format!("{row}, Bulkhead: {}", own.median),
                    value: own.median,
                });
                let theirs = entries.iter().filter(|entry| entry.row == *row);
                let theirs = theirs.flat_map(|entry| {
                    entry.values.iter().map(|value| Bar {
                        class: "other",
                        hint: format!("{}: {value}", entry.what),
                        value: *value,
                    })
                });
                Group { name: row, bars: own.into_iter().chain(theirs).collect(), bound: None }
            })
            .collect();
        html! {
            h2 { "Figures of others" }
            p.note {
                "Not measured by this run: from the sources that the table names, each beside the row that comes nearest to it."
                span.key.own {} "Bulkhead, this run" span.key.other {} "literature"
            }
            (chart::bars(&groups, "Bulkhead and figures of others"))
            div.wide { table {
                tr { th { "row" } th.words { "system and operation" } th { "instructions" } th.words { "source" } }
                @for entry in entries {
                    tr {
                        td { (entry.row) }
                        td.words { (entry.what) }
                        td { (entry.values.iter().map(u64::to_string).collect::<Vec<_>>().join(" / ")) }
                        td.words { (entry.source) }
                    }
                }
            } }
        }
    }
}

/// How much a median has changed, as a cell.
fn change(before: Option<u64>, now: u64) -> Markup {
    let percent = |before: u64| (now as f64 / before.max(1) as f64 - 1.0) * 100.0;
    html! {
        @match before {
            None => td { "new" },
            Some(before) if before == now => td.faint { "same" },
            Some(before) if before < now => td.worse { (format!("{:+.1} %", percent(before))) },
            Some(before) => td.better { (format!("{:+.1} %", percent(before))) },
        }
    }
}

/// The class of a stage in the style sheet.
fn class(stage: Stage) -> &'static str {
    const CLASSES: [&str; Stage::ALL.len()] = [
        "stage0", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "stage7", "stage8",
        "stage9",
    ];
    CLASSES[stage as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Unit;
    use crate::bench::guard;

    #[test]
    fn a_page_has_it_all_and_needs_nothing_else() {
        let report = Report::parse(
            "bench: exit.hypercall 1 200 3 4 5 6\nbench: create.<b> 7 77 7 7 7 7\nbench: x unavailable: a & b\n",
        )
        .unwrap();
        let run = Run {
            commit: Some("now".into()),
            machine: "qemu-x86".into(),
            emulator: "QEMU".into(),
            cpu_flags: "max".into(),
            config: "rustc, mitigations=off".into(),
            unit: Unit::Instructions,
            results: report.rows.clone(),
        };
        let mut old = Run { commit: Some("before".into()), ..run.clone() };
        old.results[0].median = 250;
        let theirs = Report::parse("bench: exit.cpuid 1 2852 3 4 5 6\n").unwrap();
        let path = Path {
            name: "exit.hypercall".into(),
            stages: [(Stage::Entry, 150), (Stage::Enter, 50)].into(),
            parts: vec![(Stage::Entry, "come_in".into(), 150), (Stage::Enter, "go".into(), 50)],
            ..Path::default()
        };
        let page = Page {
            report: &report,
            run: &run,
            protected: None,
            peer: Some(("KVM", &theirs)),
            paths: Ok(&[path]),
            earlier: &earlier(vec![old.clone(); 9], &run),
            figures: &guard::figures().unwrap(),
            explanation: "what it means",
        };
        let text = page.text();
        for part in [
            "create.&lt;b&gt;",
            "a &amp; b",
            "2852",
            "-20.0 %",
            "come_in",
            "what it means",
            "seL4",
            "prefers-color-scheme: dark",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(page.earlier.len(), EARLIER);
        for fetched in ["http:", "https:", "<script", "src=", "@import", "url("] {
            assert!(!text.contains(fetched), "{fetched}");
        }
        let opened = text.matches("<svg ").count();
        assert_eq!((opened, text.matches("</svg>").count()), (4, 4));
        assert!(earlier(vec![Run { machine: "bochs".into(), ..old }], &run).is_empty());
    }
}
