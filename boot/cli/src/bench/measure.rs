//! Boots the benchmark.

use std::time::Duration;

use anyhow::{Context, Result};
use configs::{Architecture, Board, Gic, Machine};

use super::report::Report;
use crate::artifacts::BENCHMARK;
use crate::dialogue::Dialogue;
use crate::machine::{self, Image, Kind, Settings};
use crate::{progress, trial};

/// The benchmark takes seconds; emulators on a busy machine are slow.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Sizes of the machines that it runs on: on each it has as many pairs of client and server as there are CPUs, and measures
/// the rest on the first one.
pub const CPUS: [u32; 3] = [1, 2, 4];

/// The machine with so many CPUs. On Arm they are Cortex-A53, to which the figures of others refer.
pub fn machine(kind: Kind, cpus: u32) -> Machine {
    let board = match kind.architecture() {
        Architecture::X86_64 => Board::Pc,
        Architecture::Arm64 => Board::Virt { cpu: "cortex-a53", gic: Gic::V3 },
    };
    Machine { board, memory: trial::MEMORY, cpus }
}

/// What is done against speculation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measures {
    /// Nothing.
    Off,
    /// What the kernel does unless it is told otherwise.
    Default,
}

impl Measures {
    /// The hypervisor's option for it. Both are said: on emulated CPUs, nothing said is `off`.
    pub fn option(self) -> &'static str {
        match self {
            Measures::Off => "mitigations=off",
            Measures::Default => "mitigations=on",
        }
    }
}

/// The unit of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Of any kind, each counting one.
    Instructions,
    /// Ticks of the processor's time-stamp counter.
    Cycles,
}

impl std::fmt::Display for Unit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unit::Instructions => "instructions",
            Unit::Cycles => "cycles",
        })
    }
}

/// How to run the benchmark.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// On what.
    pub kind: Kind,
    /// What a tick of the machine's counter is.
    pub unit: Unit,
    /// What is done against speculation.
    pub measures: Measures,
}

impl Way {
    /// The image of the benchmark.
    pub fn image(&self) -> Result<Image> {
        let mut image = trial::image(self.kind.architecture(), BENCHMARK, trial::BENCHMARK_FILES)?;
        image.options = self.measures.option().into();
        Ok(image)
    }

    /// The settings of a machine with so many CPUs.
    pub fn settings(&self, cpus: u32) -> Settings<'static> {
        Settings {
            count_instructions: self.unit == Unit::Instructions && self.kind != Kind::Bochs,
            ..Settings::new(machine(self.kind, cpus))
        }
    }

    /// Runs it on machines with so many CPUs, one after the other.
    pub fn measure(&self, cpus: &[u32]) -> Result<Report> {
        machine::prepare(self.kind)?;
        let image = self.image()?;
        let mut all = Report::default();
        for &cpus in cpus {
            let option = self.measures.option();
            let _step = progress::step(&format!("Measuring with {cpus} CPUs, {option}"));
            let settings = self.settings(cpus);
            let report = Report::parse(&transcript(self.kind, &image, &settings)?)?;
            all.rows.extend(report.rows);
            all.unavailable.extend(report.unavailable);
            all.guests = report.guests;
        }
        Ok(all)
    }
}

/// All that a machine prints until the benchmark's end.
pub fn transcript(kind: Kind, image: &Image, settings: &Settings<'_>) -> Result<String> {
    let mut dialogue = Dialogue::new(machine::start(kind, image, settings)?);
    let end = dialogue.expect("(?m)^bench: end", LIMIT);
    end.with_context(|| {
        format!("the benchmark did not end; it printed:\n{}", dialogue.transcript())
    })?;
    Ok(dialogue.transcript())
}
