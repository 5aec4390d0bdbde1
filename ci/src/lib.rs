//! What the emulator tests share: machines with a conversation, few at a time, and their console in the
//! message when something goes wrong.
#![forbid(unsafe_code)]

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{self, Image, Settings};

mod target;

pub use target::Target;

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
    target: Target,
    image: &Image,
    settings: &Settings<'_>,
    talk: impl FnOnce(&mut Dialogue) -> Result<()>,
) {
    let _place = Place::take();
    let start = Instant::now();
    eprintln!("{name}: booting on {target}");
    let mut dialogue = match machine::start(target.kind, image, settings) {
        Ok(running) => Dialogue::new(running),
        Err(error) => panic!("{name} on {target}: {error:#}"),
    };
    let result = talk(&mut dialogue);
    eprintln!(
        "{name} on {target}: {} after {:.1} s",
        if result.is_ok() { "ok" } else { "FAILED" },
        start.elapsed().as_secs_f64()
    );
    if let Err(error) = result {
        panic!(
            "{name} on {target}: {error:#}\n--- console ---\n{}\n--- end ---",
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

/// The prompt of the default guest's shell.
pub const PROMPT: &str = r"linux:\S+# $";

/// How long an answer may take.
pub const ANSWER: Duration = seconds(60);

/// Seconds.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
