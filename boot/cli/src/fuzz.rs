//! The command `fuzz`: boots the hostile programs and watches them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use configs::Machine;

use crate::artifacts::HOSTILE;
use crate::dialogue::Dialogue;
use crate::machine::{self, Kind, Settings};
use crate::say;
use crate::trial::{self, Extra};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Machine.
    pub kind: Kind,
    /// Its CPUs.
    pub cpus: u32,
    /// Of the generators: each thread's calls follow from it.
    pub seed: u64,
    /// System calls to make, at least.
    pub calls: u64,
    /// A clock that counts instructions: on one CPU, a run repeats exactly.
    pub count_instructions: bool,
}

/// A machine that says nothing for so long hangs. Every 100 rounds it says how far it is.
const SILENCE: Duration = Duration::from_secs(300);
/// More than any run takes, in seconds of the machine.
const ENDLESS: u64 = 10_000_000;

/// Runs the hostile programs; prints how far they are, and what they say at the end.
pub fn run(options: &Options) -> Result<()> {
    let Options { kind, cpus, seed, calls, count_instructions } = *options;
    if count_instructions && (cpus != 1 || kind == Kind::Bochs) {
        bail!("--icount: only QEMU counts instructions, and only of one CPU");
    }
    machine::prepare(kind)?;
    // QEMU's instruction clock stands still while a guest on Arm takes exceptions without executing anything.
    let guests = !count_instructions || kind != Kind::QemuArm64;
    let text = format!("seed={seed} calls={calls} seconds={ENDLESS} guests={}", u8::from(guests));
    let extras = [Extra::Text("settings", &text)];
    let image = trial::image(kind.architecture(), HOSTILE, &extras)?;
    let settings = Settings {
        count_instructions,
        ..Settings::new(Machine::usual(kind.architecture(), trial::MEMORY, cpus))
    };
    let mut dialogue = Dialogue::new(machine::start(kind, &image, &settings)?);
    let line = r"(?m)^(hostile: [^\r\n]*|bulkhead: panic[^\r\n]*)\r?\n";
    loop {
        let said = dialogue.expect(line, SILENCE).with_context(|| {
            format!("the machine says nothing any more; its last words:\n{}", dialogue.transcript())
        })?;
        let said = said.trim_end();
        say::result(&format!("{said}\n"))?;
        if said.starts_with("hostile: done") {
            return Ok(());
        }
        if said.starts_with("bulkhead: panic") || said.contains("FAILED") {
            bail!("the kernel did not survive; the last words:\n{}", dialogue.transcript());
        }
    }
}
