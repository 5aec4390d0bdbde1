//! How long interrupts stay off: what the kernel that measures it says under load, in instructions.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bulkhead::artifacts::{self, BENCHMARK, HOSTILE};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{Image, Settings};
use bulkhead::trial::{self, BENCHMARK_FILES, Extra};
use ci::{Target, seconds, with_machine};
use configs::Architecture;

use crate::guest::{power_off, shell};

/// Most instructions between two points at which interrupts are taken.
const BOUND: u64 = 5000;
/// The kernel counts from and to its assembly, which is not longer than this on the way in and on the way out.
const ASSEMBLY: u64 = 100;

/// The longest stretch of each way through the kernel, by name.
type Longest = BTreeMap<String, u64>;

/// Reads the kernel's lines out of everything that the machine printed.
fn parse(transcript: &str) -> Result<Longest> {
    let mut longest = Longest::new();
    let lines = transcript.lines();
    for line in lines.filter_map(|line| line.trim().strip_prefix("latency: ")) {
        let (took, name) = line.split_once(' ').context("a line without a name")?;
        // The kernel prints a line only when it is more than before.
        longest.insert(name.into(), took.parse()?);
    }
    Ok(longest)
}

/// Prints the table, the longest first, and fails if it is over the bound.
fn judge(load: &str, longest: &Longest) -> Result<()> {
    let mut rows: Vec<_> = longest.iter().map(|(name, took)| (*took, name)).collect();
    rows.sort_unstable();
    rows.reverse();
    eprintln!("longest stretches with interrupts off, {load}:");
    for (took, name) in &rows {
        eprintln!("{took:>8} {name}");
    }
    let (worst, name) = rows.first().context("the kernel printed no stretch")?;
    ensure!(
        worst + ASSEMBLY <= BOUND,
        "{load}: {name} has interrupts off for {worst} instructions"
    );
    Ok(())
}

/// Boots an image with the kernel that measures, and its time counting instructions.
fn measure(
    on: Target,
    load: &str,
    image: Image,
    memory: u64,
    talk: impl FnOnce(&mut Dialogue) -> Result<()>,
) {
    let kernel = artifacts::measured_kernel(on.architecture()).unwrap_or_else(|e| panic!("{e:#}"));
    let image = Image { kernel, ..image };
    let settings = Settings { count_instructions: true, ..Settings::new(on.machine(memory)) };
    with_machine(load, on, &image, &settings, |machine| {
        talk(machine)?;
        judge(load, &parse(&machine.transcript())?)
    });
}

fn hostile_programs(on: Target) {
    // On Arm, counted time stands still in a guest that faults at each of its instructions.
    let guests = u8::from(on.architecture() == Architecture::X86_64);
    let text = format!("seconds=3600 guests={guests}");
    let extra = [Extra::Text("settings", &text)];
    let image =
        trial::image(on.architecture(), HOSTILE, &extra).unwrap_or_else(|e| panic!("{e:#}"));
    measure(on, "hostile programs", image, trial::MEMORY, |machine| {
        machine.expect("hostile: 200 rounds", seconds(120))?;
        Ok(())
    });
}

fn the_benchmark(on: Target) {
    let image = trial::image(on.architecture(), BENCHMARK, BENCHMARK_FILES)
        .unwrap_or_else(|e| panic!("{e:#}"));
    measure(on, "the benchmark", image, trial::MEMORY, |machine| {
        machine.expect("(?m)^bench: end", seconds(120))?;
        Ok(())
    });
}

fn a_guest(on: Target) {
    let config = on.linux("latency", &[]).unwrap();
    let image = on.image(&config);
    measure(on, "a guest", image, config.machine.memory, |guest| {
        shell(on, guest)?;
        power_off(guest)
    });
}

tests! {
    hostile_programs: x86, max_gic3;
    the_benchmark: x86, max_gic3;
    a_guest: x86, max_gic3;
}
