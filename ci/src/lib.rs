//! What the emulator tests share: machines with a conversation, few at a time, and their console in the
//! message when something goes wrong.
#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{self, Image, Kind, Settings};
use configs::{Config, Overrides};

/// Emulators at work at one time.
const AT_ONCE: usize = 2;

static FREE: Mutex<usize> = Mutex::new(AT_ONCE);
static FREED: Condvar = Condvar::new();

/// The right to run an emulator.
struct Place;

impl Place {
    fn take() -> Place {
        let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
        while *free == 0 {
            free = FREED.wait(free).unwrap_or_else(|e| e.into_inner());
        }
        *free -= 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *FREE.lock().unwrap_or_else(|e| e.into_inner()) += 1;
        FREED.notify_one();
    }
}

/// Boots `image` and talks to it. Fails with all that the machine said.
pub fn with_machine(
    name: &str,
    kind: Kind,
    image: &Image,
    settings: &Settings,
    talk: impl FnOnce(&mut Dialogue) -> Result<()>,
) {
    let _place = Place::take();
    let start = Instant::now();
    eprintln!("{name}: booting on {kind}");
    let mut dialogue = match machine::start(kind, image, settings) {
        Ok(running) => Dialogue::new(running),
        Err(error) => panic!("{name}: {error:#}"),
    };
    let result = talk(&mut dialogue);
    eprintln!(
        "{name}: {} after {:.1} s",
        if result.is_ok() { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    if let Err(error) = result {
        panic!(
            "{name} on {kind}: {error:#}\n--- console ---\n{}\n--- end ---",
            last(&dialogue.transcript())
        );
    }
}

/// The end of what a machine said: where it goes on for ever, all of it helps nobody.
fn last(text: &str) -> String {
    const MOST: usize = 200;
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(MOST)..].join("\n")
}

/// The system described by `text`, as if it stood in configs/`name`.toml.
pub fn system(name: &str, text: &str) -> Result<Config> {
    let path = bulkhead::workspace::root()
        .join("configs")
        .join(format!("{name}.toml"));
    configs::parse(&path, text, &Overrides::default()).context("the test's system is wrong")
}

/// The system in configs/`file`, changed by replacing text.
pub fn changed(name: &str, file: &str, changes: &[(&str, &str)]) -> Result<Config> {
    let mut text = std::fs::read_to_string(bulkhead::workspace::root().join("configs").join(file))?;
    for (from, to) in changes {
        anyhow::ensure!(
            text.contains(from),
            "configs/{file} does not contain {from:?}"
        );
        text = text.replace(from, to);
    }
    system(name, &text)
}

/// Boots a system and talks to it.
pub fn with_system(
    name: &str,
    kind: Kind,
    config: &Config,
    talk: impl FnOnce(&mut Dialogue) -> Result<()>,
) {
    let image = match bulkhead::run::image(config) {
        Ok(image) => image,
        Err(error) => panic!("{name}: {error:#}"),
    };
    let settings = Settings::new(config.machine);
    with_machine(name, kind, &image, &settings, talk);
}

/// The prompt of the default guest's shell.
pub const PROMPT: &str = r"linux:\S+# $";

/// How long a guest may take to its shell: many times what it takes on an idle machine.
pub const BOOT: Duration = seconds(240);
/// How long an answer may take.
pub const ANSWER: Duration = seconds(60);

/// Seconds.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
