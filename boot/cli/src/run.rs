//! `run`: builds a system, boots it and connects its console.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use configs::{Config, Overrides, kernel_memory};
use regex::Regex;

use crate::artifacts::Artifacts;
use crate::log::Log;
use crate::machine::{self, End, Event, Image, Kind, Running, Settings};
use crate::screen::Screen;
use crate::watch::{Found, Watch};
use crate::{bundle, check, interrupt, say, terminal};

/// What is still to be shown after the hypervisor's panic, or when nobody reads it, gets this long.
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
    let pool = kernel_memory::needed(&config.system, config.machine.cpus) >> 20;
    Ok(Image { kernel: artifacts.kernel, bundle, options: format!("pool={pool}") })
}

/// Runs a system to its end.
pub fn run(options: &Options) -> Result<Outcome> {
    let config = check::load(&options.config, &options.overrides)?;
    let kind = Kind::choose(options.machine, &config)?;
    // Before what takes long.
    let log = options.log.as_ref().map(|path| Log::create(path, &config.system)).transpose()?;
    machine::prepare(kind)?;
    let image = image(&config)?;
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
        let key = match std::io::stdin().is_terminal() {
            true => "Ctrl-A x",
            false => "Ctrl-C",
        };
        let name = &config.system.name;
        say::message(&format!("bulkhead: booting {name} on {kind}; {key} ends it"));
    }
    let raw = terminal::Raw::enter()?;
    let quit = Arc::new(AtomicBool::new(false));
    let input = running.input();
    let on_quit = Arc::clone(&quit);
    terminal::pass_on(input, raw.is_some(), move || on_quit.store(true, Ordering::Relaxed));
    let outcome = watch(running, options, log, Some(&quit));
    if raw.is_some() && std::io::stderr().is_terminal() {
        // The machine may have left the cursor within a line. Not on standard output: if nobody reads it, that would wait.
        say::message("\r");
    }
    outcome
}

/// Shows what the machine prints until something ends it.
fn watch(
    mut running: Running,
    options: &Options,
    log: Option<Log>,
    quit: Option<&AtomicBool>,
) -> Result<Outcome> {
    let limits = Limits { start: Instant::now(), timeout: options.timeout, quit };
    let mut screen = Screen::start();
    let outcome = follow(&mut running, &mut screen, options.until.clone(), log, &limits);
    drop(running);
    let ended = Instant::now();
    let shown = screen.finish(|| {
        let goes_on = outcome.is_ok() && interrupt::check().is_ok() && limits.reached().is_none();
        goes_on || ended.elapsed() < LAST_WORDS
    });
    let outcome = outcome?;
    shown.map(|()| outcome)
}

/// What ends a machine from outside.
struct Limits<'a> {
    start: Instant,
    timeout: Option<Duration>,
    quit: Option<&'a AtomicBool>,
}

impl Limits<'_> {
    /// What they make of the run, once one is reached.
    fn reached(&self) -> Option<Outcome> {
        if self.quit.is_some_and(|quit| quit.load(Ordering::Relaxed)) {
            return Some(Outcome::Done);
        }
        self.timeout.filter(|limit| self.start.elapsed() > *limit).map(Outcome::Timeout)
    }
}

/// Follows a machine until something ends it.
fn follow(
    running: &mut Running,
    screen: &mut Screen,
    until: Option<Regex>,
    mut log: Option<Log>,
    limits: &Limits<'_>,
) -> Result<Outcome> {
    let mut watch = Watch::new(until.clone());
    let mut panicked: Option<(String, Instant)> = None;
    loop {
        let event = match screen.is_free()? {
            true => running.next(crate::child::POLL)?,
            false => {
                interrupt::check()?;
                Event::Quiet
            }
        };
        match event {
            Event::Output(bytes) => {
                if let Some(log) = &mut log {
                    log.take(&bytes)?;
                }
                let found = watch.take(&bytes);
                screen.show(bytes);
                match found {
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
                    (End::PowerOff, None) if until.is_some() => Outcome::NoMatch,
                    (End::PowerOff, None) => Outcome::Done,
                    (End::Reset { triple_fault }, None) => {
                        let why = if triple_fault { ": triple fault" } else { "" };
                        Outcome::Panic(format!("the machine reset itself{why}"))
                    }
                    (End::Failed(why), None) => Outcome::Failed(why),
                });
            }
        }
        if let Some((line, when)) = &panicked
            && when.elapsed() > LAST_WORDS
        {
            return Ok(Outcome::Panic(line.clone()));
        }
        if let Some(outcome) = limits.reached() {
            return Ok(outcome);
        }
    }
}
