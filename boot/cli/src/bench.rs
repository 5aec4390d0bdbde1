//! The command `bench`: boots the benchmark, prints what it measured, and keeps it as data and as a page.

pub mod guard;
pub mod html;
pub mod json;
pub mod measure;
pub mod output;
pub mod path;
pub mod report;
pub mod table;
pub mod trace;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};
use clap::ValueEnum;

pub use measure::{Measures, Unit, Way};
pub use report::{Report, Row};

use crate::machine::{self, Kind, Settings};
use crate::toolchain::Toolchain;
use crate::{child, peer, progress, say, workspace};
use html::Page;
use json::Run;
use output::Output;
use path::Path;
use table::Column;
use trace::Tracer;

/// What is measured beside Bulkhead, on the same machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Linux with KVM
    Kvm,
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Peer::Kvm => "KVM",
        }
    }

    /// What its figures are.
    fn explanation(self) -> &'static str {
        match self {
            Peer::Kvm => {
                "The column KVM: medians of the same guest under KVM in Debian's kernel, on the same machine with one CPU, without \
                 measures against speculation. KVM answers in its kernel what it can: hypercalls, registers, interrupt \
                 controllers, doorbells, page faults. Ports and device registers go to a program that does nothing else; \
                 `in_kernel`, `memory` and `port` are other ways to the same."
            }
        }
    }

    /// What it is, to the version.
    fn system(self, kind: Kind) -> Result<String> {
        match self {
            Peer::Kvm => peer::system(kind.architecture()),
        }
    }

    /// Measures it.
    fn measure(self, way: &Way) -> Result<Report> {
        match self {
            Peer::Kvm => peer::measure(way),
        }
    }
}

/// What the kernel says of CPUs that it does not protect (CAVEATS), unless it is told to do without measures.
const REFUSED: &str = "page-table isolation is not implemented";

/// What to do.
#[derive(Clone, Debug)]
pub struct Options {
    /// On what.
    pub kind: Kind,
    /// What to measure in.
    pub unit: Unit,
    /// Where a line of JSON is added for each run.
    pub json: Option<PathBuf>,
    /// Where the page goes.
    pub html: Option<PathBuf>,
    /// Who is measured too.
    pub peer: Option<Peer>,
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    let kind = options.kind;
    let open = |option, file: &Option<PathBuf>| {
        let path = file.as_deref();
        path.map(|path| Output::open(option, path)).transpose()
    };
    let json_file = open("--json", &options.json)?;
    let html = open("--html", &options.html)?;
    let before = match (&options.json, &html) {
        (Some(file), Some(_)) if file.is_file() => json::read(file)?,
        _ => Vec::new(),
    };
    let way = Way { kind, unit: options.unit, measures: Measures::Off };
    let protected = Way { measures: Measures::Default, ..way };
    let identity = machine::identity(kind, &way.settings(1))?;
    if options.unit == Unit::Cycles && identity.is_emulated {
        bail!(
            "--cycles: {kind} is emulated here; cycles can be measured on qemu-x86, where KVM offers virtualisation to guests"
        );
    }
    let peer = options.peer.map(|peer| peer.measure(&way)).transpose()?;
    let report = way.measure(&measure::CPUS)?;
    let safe = measure_protected(&protected)?;
    let paths = match obstacle(&way)? {
        None if kind == Kind::Bochs => Ok(trace::on_bochs(&way, &report)?),
        None => Ok(paths(&way)?),
        Some(why) => Err(why),
    };

    let mut columns = Vec::from_iter(
        safe.as_ref()
            .ok()
            .map(|safe| Column { head: Measures::Default.option(), rows: &safe.rows }),
    );
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        columns.push(Column { head: peer.name(), rows: &theirs.rows });
    }
    let mut text = table::table(&report, options.unit, &columns);
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        for (name, why) in &theirs.unavailable {
            text += &format!("{name:<36} unavailable of {}: {why}\n", peer.name());
        }
    }
    if let Err(why) = safe {
        let option = Measures::Default.option();
        text += &format!("{option:<36} unavailable: {why}\n");
    }
    if let Some(guests) = &report.guests {
        text += &format!("\nguests: {guests}\n");
    }
    text += &match &paths {
        Ok(paths) => path::text(paths),
        Err(why) => format!("\npaths unavailable: {why}\n"),
    };
    let mut explanation = explanation(options.unit).to_owned();
    if let Some(peer) = options.peer {
        explanation = format!("{explanation} {}", peer.explanation());
    }
    text += &format!("{explanation}\n");
    let run = describe(&way, &report)?;
    let guarded = safe.map(|safe| describe(&protected, &safe)).ok();
    let guarded = guarded.transpose()?;
    if let Some(html) = html {
        let earlier = html::earlier(before, &run);
        let page = Page {
            report: &report,
            run: &run,
            protected: guarded.as_ref(),
            peer: options.peer.map(Peer::name).zip(peer.as_ref()),
            paths: paths.as_deref().map_err(|why| *why),
            earlier: &earlier,
            figures: &guard::figures()?,
            explanation: &explanation,
        };
        html.replace(&page.text())?;
    }
    let mut runs: Vec<Run> = std::iter::once(run).chain(guarded).collect();
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        runs.push(Run {
            config: format!("{}, {}", peer.system(kind)?, Measures::Off.option()),
            ..describe(&way, theirs)?
        });
    }
    if let Some(file) = json_file {
        let lines: Result<String> = runs.iter().map(Run::line).collect();
        file.append(&lines?)?;
    }
    // Last, for what was measured is kept in files even if nobody reads this.
    say::result(&text)
}

/// Measures with the kernel's measures against speculation; or says why that cannot be.
fn measure_protected(way: &Way) -> Result<Result<Report, &'static str>> {
    match way.measure(&measure::CPUS[..1]) {
        Ok(report) => Ok(Ok(report)),
        Err(error) if format!("{error:#}").contains(REFUSED) => {
            Ok(Err("the kernel refuses this CPU, from which programs can read its memory"))
        }
        Err(error) => Err(error),
    }
}

/// Why paths cannot be looked at, if so.
fn obstacle(way: &Way) -> Result<Option<&'static str>> {
    match way.unit {
        Unit::Cycles => Ok(Some("under KVM nobody sees the instructions")),
        Unit::Instructions => trace::obstacle(way.kind),
    }
}

/// Runs the benchmark once more, and looks at what it executes.
fn paths(way: &Way) -> Result<Vec<Path>> {
    let architecture = way.kind.architecture();
    let tracer = Tracer::new(architecture)?;
    let settings = Settings { plugin: Some(tracer.option()), ..way.settings(1) };
    let _step = progress::step("Tracing the benchmark");
    let report = Report::parse(&measure::transcript(way.kind, &way.image()?, &settings)?)?;
    tracer.paths(&report, architecture)
}

/// What figures in `unit` mean.
fn explanation(unit: Unit) -> &'static str {
    match unit {
        Unit::Instructions => {
            "Without measures against speculation (mitigations=off); beside that the medians with them. Every instruction \
             counts one, whatever it costs on silicon; the cost of reading the counter is subtracted. In rows of `throughput` \
             all CPUs do the same at the same time; figures are those of one operation."
        }
        Unit::Cycles => {
            "Without measures against speculation (mitigations=off); beside that the medians with them. Cycles are ticks of \
             the time-stamp counter; the cost of reading it is subtracted. In rows of `throughput` all CPUs do the same at \
             the same time."
        }
    }
}

/// A run as data.
pub fn describe(way: &Way, report: &Report) -> Result<Run> {
    let identity = machine::identity(way.kind, &way.settings(1))?;
    let compiler = Toolchain::prepare(way.kind.architecture())?.version()?;
    Ok(Run {
        commit: commit(),
        machine: way.kind.to_string(),
        emulator: identity.emulator,
        cpu_flags: identity.cpu,
        config: format!("{compiler}, {}", way.measures.option()),
        unit: way.unit,
        results: report.rows.clone(),
    })
}

/// The commit that is checked out; `None` where git knows of none.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(workspace::root()).args([
        "describe",
        "--always",
        "--dirty",
        "--exclude=*",
        "--abbrev=12",
    ]);
    let text = child::run(&mut git, None).ok()?;
    Some(text.trim().to_owned())
}
