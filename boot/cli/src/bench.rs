//! The command `bench`: boots the benchmark, prints what it measured, and keeps it as data and as a page.

pub mod guard;
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
use crate::{child, peer, progress, workspace};
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
    let json = open("--json", &options.json)?;
    let html = open("--html", &options.html)?;
    let way = Way {
        kind,
        unit: options.unit,
        measures: Measures::Off,
    };
    let protected = Way {
        measures: Measures::Default,
        ..way
    };
    let identity = machine::identity(kind, &way.settings(1))?;
    if options.unit == Unit::Cycles && identity.is_emulated {
        bail!(
            "--cycles: {kind} is emulated here; cycles can be measured on qemu-x86, where KVM offers virtualisation to guests"
        );
    }
    let _ = html;
    let peer = options.peer.map(|peer| peer.measure(&way)).transpose()?;
    let report = way.measure(&measure::CPUS)?;
    let safe = protected.measure(&measure::CPUS[..1])?;

    let paths = match options.unit {
        Unit::Cycles => Err("instructions cannot be traced under KVM"),
        Unit::Instructions => trace::obstacle(kind)?.map_or(Ok(()), Err),
    };
    let paths = match paths {
        Ok(()) => Ok(paths_of(&way)?),
        Err(why) => Err(why),
    };

    let mut columns = vec![Column {
        head: Measures::Default.option(),
        rows: &safe.rows,
    }];
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        columns.push(Column {
            head: peer.name(),
            rows: &theirs.rows,
        });
    }
    print!("{}", table::table(&report, options.unit, &columns));
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        for (name, why) in &theirs.unavailable {
            println!("{name:<36} unavailable of {}: {why}", peer.name());
        }
    }
    match &paths {
        Ok(paths) => print!("{}", path::text(paths)),
        Err(why) => println!("\npaths unavailable: {why}"),
    }
    println!("{}", explanation(options.unit));
    let mut runs = vec![describe(&way, &report)?, describe(&protected, &safe)?];
    if let Some((peer, theirs)) = options.peer.zip(peer.as_ref()) {
        runs.push(Run {
            config: format!("{}, {}", peer.system(kind)?, Measures::Off.option()),
            ..describe(&way, theirs)?
        });
    }
    if let Some(json) = json {
        let lines: Result<String> = runs.iter().map(Run::line).collect();
        json.append(&lines?)?;
    }
    Ok(())
}

/// Runs the benchmark once more, and looks at what it executes.
fn paths_of(way: &Way) -> Result<Vec<Path>> {
    let architecture = way.kind.architecture();
    let tracer = Tracer::new(architecture)?;
    let settings = Settings {
        plugin: Some(tracer.option()),
        ..way.settings(1)
    };
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
