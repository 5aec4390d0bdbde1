//! `run`: builds a system, boots it and connects its console.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use configs::{Config, Overrides};
use regex::Regex;

use crate::artifacts::Artifacts;
use crate::log::Log;
use crate::machine::{self, End, Event, Image, Kind, Running, Settings};
use crate::watch::{Found, Watch};
use crate::{bundle, check, terminal};

/// After the hypervisor's panic its last lines are still shown, for this long.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What to run and how.
#[derive(Debug)]
pub struct Options {
    /// The description.
    pub config: PathBuf,
    /// The machine; `None`: the usual one for the system.
    pub machine: Option<Kind>,
    /// What replaces parts of the description.
    pub overrides: Overrides,
    /// No input: for scripts.
    pub headless: bool,
    /// Ends the machine after this time.
    pub timeout: Option<Duration>,
    /// Ends the machine when this appears.
    pub until: Option<Regex>,
    /// Where everything printed is kept.
    pub log: Option<PathBuf>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The machine switched itself off, the user ended it, or the pattern appeared.
    Done,
    /// The time was over.
    Timeout(Duration),
    /// The machine switched itself off before the pattern appeared.
    NoMatch,
    /// The hypervisor panicked, or the machine reset itself.
    Panic(String),
    /// The emulator failed.
    Failed(String),
}

impl Outcome {
    /// Exit status of the command.
    pub fn status(&self) -> u8 {
        match self {
            Outcome::Done => 0,
            Outcome::Timeout(_) | Outcome::NoMatch | Outcome::Failed(_) => 1,
            Outcome::Panic(_) => 2,
        }
    }

    /// What to tell the user, if anything.
    pub fn message(&self) -> Option<String> {
        match self {
            Outcome::Done => None,
            Outcome::Timeout(limit) => {
                Some(format!("timeout: not done after {} s", limit.as_secs()))
            }
            Outcome::NoMatch => Some(
                "the machine switched itself off before the pattern of --until appeared".into(),
            ),
            Outcome::Panic(line) => Some(format!("the hypervisor failed: {line}")),
            Outcome::Failed(why) => Some(why.clone()),
        }
    }
}

/// Builds everything and makes the boot image of a system.
pub fn image(config: &Config) -> Result<Image> {
    let artifacts = Artifacts::build(config.machine.architecture())?;
    let bundle = bundle::make(config, &artifacts)?;
    Ok(Image {
        kernel: artifacts.kernel,
        bundle,
        options: options(config),
    })
}

/// The hypervisor's options for a system.
fn options(config: &Config) -> String {
    let quotas = config.system.compartments().map(|c| c.quota.count());
    let pool = pool(quotas, config.machine.cpus);
    pool.map_or(String::new(), |mib| format!("pool={mib}"))
}

/// MiB that the hypervisor has to be told to take for its objects, if these quotas, in pages, do not fit into what it takes by
/// itself.
fn pool(quotas: impl Iterator<Item = u32>, cpus: u32) -> Option<u64> {
    const MIB: u64 = 1 << 20;
    /// What it takes by itself, and the most that it takes, in MiB.
    const USUAL: u64 = 8;
    const MOST: u64 = 1024;
    /// More than it and the root task were seen to need, and than each CPU and each program adds.
    const OWN: u64 = MIB;
    const EACH: u64 = 64 << 10;
    let quotas: u64 = quotas.map(|pages| u64::from(pages) * 4096 + EACH).sum();
    let needed = (quotas + u64::from(cpus) * EACH + OWN).div_ceil(MIB);
    (needed > USUAL).then_some(needed.min(MOST))
}

/// Runs a system to its end.
pub fn run(options: &Options) -> Result<Outcome> {
    let config = check::load(&options.config, &options.overrides)?;
    let kind = Kind::choose(options.machine, &config)?;
    machine::prepare(kind)?;
    let image = image(&config)?;
    let log = options
        .log
        .as_ref()
        .map(|path| Log::create(path, &config.system))
        .transpose()?;
    let settings = Settings::new(config.machine);
    let running = machine::start(kind, &image, &settings)?;
    if options.headless {
        watch(running, options, log, None)
    } else {
        connect(running, options, log, &config, kind)
    }
}

/// Connects the user's terminal.
fn connect(
    running: Running,
    options: &Options,
    log: Option<Log>,
    config: &Config,
    kind: Kind,
) -> Result<Outcome> {
    if std::io::stderr().is_terminal() {
        eprintln!(
            "bulkhead: booting {} on {kind}; Ctrl-A x ends it",
            config.system.name
        );
    }
    let raw = terminal::Raw::enter()?;
    let quit = Arc::new(AtomicBool::new(false));
    let input = running.input();
    let on_quit = Arc::clone(&quit);
    terminal::pass_on(input, raw.is_some(), move || {
        on_quit.store(true, Ordering::Relaxed)
    });
    let outcome = watch(running, options, log, Some(&quit));
    if raw.is_some() {
        // The machine may have left the cursor within a line.
        println!("\r");
    }
    outcome
}

/// Shows what the machine prints until something ends it.
fn watch(
    mut running: Running,
    options: &Options,
    mut log: Option<Log>,
    quit: Option<&AtomicBool>,
) -> Result<Outcome> {
    let start = Instant::now();
    let mut watch = Watch::new(options.until.clone());
    let mut panicked: Option<(String, Instant)> = None;
    loop {
        match running.next(crate::child::POLL)? {
            Event::Output(bytes) => {
                show(&bytes)?;
                if let Some(log) = &mut log {
                    log.take(&bytes)?;
                }
                match watch.take(&bytes) {
                    Some(Found::Pattern) if panicked.is_none() => return Ok(Outcome::Done),
                    Some(Found::Panic(line)) if panicked.is_none() => {
                        panicked = Some((line, Instant::now()))
                    }
                    _ => {}
                }
            }
            Event::Quiet => {}
            Event::End(end) => {
                return Ok(match (end, panicked) {
                    (_, Some((line, _))) => Outcome::Panic(line),
                    (End::PowerOff, None) if options.until.is_some() => Outcome::NoMatch,
                    (End::PowerOff, None) => Outcome::Done,
                    (End::Reset, None) => Outcome::Panic("the machine reset itself".into()),
                    (End::Failed(why), None) => Outcome::Failed(why),
                });
            }
        }
        if let Some((line, when)) = &panicked
            && when.elapsed() > LAST_WORDS
        {
            return Ok(Outcome::Panic(line.clone()));
        }
        if quit.is_some_and(|quit| quit.load(Ordering::Relaxed)) {
            return Ok(Outcome::Done);
        }
        if let Some(limit) = options.timeout
            && start.elapsed() > limit
        {
            return Ok(Outcome::Timeout(limit));
        }
    }
}

/// Writes what the machine printed, as it is.
fn show(bytes: &[u8]) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(bytes)
        .and_then(|()| stdout.flush())
        .context("the output cannot be written")
}

#[cfg(test)]
mod tests {
    use super::pool;

    #[test]
    fn quotas_fit_into_the_hypervisors_memory() {
        // A console server, and a guest with 512 MiB.
        assert_eq!(pool([256, 512].into_iter(), 1), None);
        // With 5 GiB; six with 384 MiB; with 512 GiB.
        assert_eq!(pool([256, 256 + 2560].into_iter(), 1), Some(14));
        assert_eq!(pool([448; 6].into_iter().chain([256]), 2), Some(14));
        assert_eq!(pool([256, 256 + (256 << 10)].into_iter(), 1), Some(1024));
    }
}
