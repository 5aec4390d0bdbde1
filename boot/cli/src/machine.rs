//! Machines to boot on: emulators, started with a boot image and a serial console.

pub mod bochs;
pub mod iso;
pub mod qemu;

use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;
use configs::{Architecture, Config, Diagnostic, Diagnostics, Machine, Place};

use crate::child::Group;
use crate::interrupt;

/// A kind of machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// QEMU: AMD SVM, emulated; or the host's own extension where KVM offers it to guests
    QemuX86,
    /// Bochs: Intel VT-x, emulated
    Bochs,
    /// QEMU: Arm with EL2
    QemuArm64,
}

impl Kind {
    /// Its instruction set.
    pub fn architecture(self) -> Architecture {
        match self {
            Kind::QemuX86 | Kind::Bochs => Architecture::X86_64,
            Kind::QemuArm64 => Architecture::Arm64,
        }
    }

    /// What machines of an architecture are unless something else is asked for.
    pub fn usual(architecture: Architecture) -> Kind {
        match architecture {
            Architecture::X86_64 => Kind::QemuX86,
            Architecture::Arm64 => Kind::QemuArm64,
        }
    }

    /// What to run a system on: what `--machine` says, which has to be of the system's architecture.
    pub fn choose(asked: Option<Kind>, config: &Config) -> Result<Kind> {
        let architecture = config.machine.architecture();
        let Some(kind) = asked else {
            return Ok(Kind::usual(architecture));
        };
        if kind.architecture() != architecture {
            let message = format!(
                "{kind} is of architecture {}, and the system `{}` is for {architecture}",
                kind.architecture(),
                config.system.name
            );
            let help = format!(
                "leave --machine out, or run a system for {kind}, such as {}",
                kind.default_config()
            );
            let place = Place::Option("--machine");
            return Err(Diagnostics::from(Diagnostic::new(place, message, help)).into());
        }
        Ok(kind)
    }

    /// The system that runs on it when none is named.
    pub fn default_config(self) -> &'static str {
        match self.architecture() {
            Architecture::X86_64 => "configs/linux.toml",
            Architecture::Arm64 => "configs/linux-arm64.toml",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::QemuX86 => "qemu-x86",
            Kind::Bochs => "bochs",
            Kind::QemuArm64 => "qemu-arm64",
        })
    }
}

/// What to boot: a kernel with a bundle, or for measurements and trials any other pair that the boot
/// protocols take.
#[derive(Clone, Debug)]
pub struct Image {
    /// The kernel. x86: an ELF file with a PVH note and a multiboot2 header; Arm: an `Image`.
    pub kernel: PathBuf,
    /// The bundle.
    pub bundle: PathBuf,
    /// The kernel's own options.
    pub options: String,
}

/// How to run it.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Board, RAM and CPUs.
    pub machine: Machine,
    /// Make time the count of instructions: QEMU only; Bochs always counts. One tick of the machine's counter is one
    /// instruction: on QEMU one of any CPU, and CPUs take turns, for a million instructions or until one waits or executes
    /// PAUSE or YIELD; on Bochs one of each CPU, and all go on side by side, in steps of a few instructions.
    pub count_instructions: bool,
    /// QEMU only: its option `-plugin`, which loads what watches the machine's instructions.
    pub plugin: Option<&'a str>,
    /// Whether the CPU has a virtualisation extension (QEMU only): without one an x86 machine has no VMs, and
    /// the hypervisor cannot run on Arm.
    pub virtualization: bool,
    /// How long the machine may take to its first output; on Bochs, ten times that. What prints nothing at all has
    /// not started and never will.
    pub silence: Duration,
}

/// Option of the hypervisor about measures against speculation.
const MITIGATIONS: &str = "mitigations=";

impl Image {
    /// The hypervisor's options on an emulated CPU, which does not speculate, whatever real ones of its model do: without
    /// measures, if nobody asks for them.
    fn emulated_options(&self) -> String {
        if self.options.contains(MITIGATIONS) {
            return self.options.clone();
        }
        format!("{} {MITIGATIONS}off", self.options).trim().into()
    }
}

impl Settings<'_> {
    /// The usual way to run a machine of this size.
    pub fn new(machine: Machine) -> Self {
        Settings {
            machine,
            count_instructions: false,
            plugin: None,
            virtualization: true,
            silence: Duration::from_secs(60),
        }
    }
}

/// What executes a machine's instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The emulator, with its version.
    pub emulator: String,
    /// The model of the CPUs, and what else is said of them.
    pub cpu: String,
    /// Whether they are emulated, rather than this computer's own.
    pub is_emulated: bool,
}

/// What a machine of this kind with these settings is made of.
pub fn identity(kind: Kind, settings: &Settings<'_>) -> Result<Identity> {
    prepare(kind)?;
    match kind {
        Kind::QemuX86 | Kind::QemuArm64 => qemu::identity(settings),
        Kind::Bochs => bochs::identity(),
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It switched itself off.
    PowerOff,
    /// It reset itself, which is stopped: the hypervisor crashed or was told to.
    Reset {
        /// The emulator tells of a triple fault: a CPU could not deliver an exception. Under KVM it does not.
        triple_fault: bool,
    },
    /// The emulator failed; says how.
    Failed(String),
}

/// What comes from a machine.
#[derive(Debug)]
pub enum Event {
    /// Bytes from its serial port.
    Output(Vec<u8>),
    /// Nothing, for as long as was asked for.
    Quiet,
    /// Its end; all output has come.
    End(End),
}

/// A running machine. When dropped, it is killed.
pub struct Running {
    emulator: Group,
    output: Receiver<Vec<u8>>,
    input: Input,
    ending: Box<dyn FnMut(std::process::ExitStatus) -> End + Send>,
    /// Until its first output.
    silent: Option<Silent>,
    /// Emulator's files; removed with the machine.
    _dir: tempfile::TempDir,
}

/// A machine that has printed nothing yet.
#[derive(Clone, Copy, Debug)]
struct Silent {
    architecture: Architecture,
    since: Instant,
    limit: Duration,
}

impl Silent {
    fn new(settings: &Settings<'_>, limit: Duration) -> Silent {
        Silent { architecture: settings.machine.architecture(), since: Instant::now(), limit }
    }

    /// Fails when it has lasted for too long.
    fn check(&self) -> Result<()> {
        let needs = match self.architecture {
            Architecture::X86_64 => "a 64-bit CPU",
            // At EL1 it knows no device to say so with.
            Architecture::Arm64 => "a CPU with EL2",
        };
        anyhow::ensure!(
            self.since.elapsed() < self.limit,
            "the machine has printed nothing for {} s: the hypervisor did not start; it needs {needs}",
            self.limit.as_secs()
        );
        Ok(())
    }
}

/// The way to a machine's serial port. Never blocks: what the machine does not take yet is kept.
#[derive(Clone, Debug)]
pub struct Input(Sender<Vec<u8>>);

impl Input {
    /// Sends bytes. To a machine that has ended they go nowhere.
    pub fn send(&self, bytes: &[u8]) {
        let _ = self.0.send(bytes.to_vec());
    }
}

/// Makes sure that machines of this kind can be started; installs what is missing.
pub fn prepare(kind: Kind) -> Result<()> {
    match kind {
        Kind::QemuX86 | Kind::QemuArm64 => qemu::prepare(kind.architecture()),
        Kind::Bochs => bochs::prepare(),
    }
}

/// Starts a machine.
pub fn start(kind: Kind, image: &Image, settings: &Settings<'_>) -> Result<Running> {
    let architecture = settings.machine.architecture();
    anyhow::ensure!(
        kind.architecture() == architecture,
        "{kind} is no machine of architecture {architecture}"
    );
    prepare(kind)?;
    match kind {
        Kind::Bochs => bochs::start(image, settings),
        Kind::QemuX86 | Kind::QemuArm64 => qemu::start(image, settings),
    }
}

impl Running {
    /// The next thing that happens, within `limit`. Fails when the user asks to stop, and when the machine has printed
    /// nothing since its start for [`Settings::silence`].
    pub fn next(&mut self, limit: Duration) -> Result<Event> {
        let mut left = limit;
        loop {
            interrupt::check()?;
            let slice = left.min(crate::child::POLL);
            match self.output.recv_timeout(slice) {
                Ok(bytes) => {
                    self.silent = None;
                    return Ok(Event::Output(bytes));
                }
                Err(RecvTimeoutError::Timeout) => left = left.saturating_sub(slice),
                Err(RecvTimeoutError::Disconnected) => {
                    // The port is closed: the emulator is about to end.
                    return Ok(match self.emulator.wait(Some(Duration::from_secs(10))) {
                        Ok(status) => Event::End((self.ending)(status)),
                        Err(error) => {
                            interrupt::check()?;
                            Event::End(End::Failed(format!("the emulator hangs: {error}")))
                        }
                    });
                }
            }
            if let Some(silent) = &self.silent {
                silent.check()?;
            }
            if left.is_zero() {
                return Ok(Event::Quiet);
            }
        }
    }

    /// The way to its serial port.
    pub fn input(&self) -> Input {
        self.input.clone()
    }

    /// Process number of the emulator.
    pub fn process(&mut self) -> u32 {
        self.emulator.child().id()
    }
}

/// Portions of output, of at most 16 KiB, that a machine may be ahead of who takes them; then it has to wait.
const AHEAD: usize = 1024;

/// Passes bytes on from a stream until its end.
fn pump_output(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::sync_channel(AHEAD);
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Passes bytes on to a stream until it is closed.
fn pump_input(mut to: impl Write + Send + 'static) -> Input {
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    std::thread::spawn(move || {
        for bytes in receiver {
            if to.write_all(&bytes).and_then(|()| to.flush()).is_err() {
                break;
            }
        }
    });
    Input(sender)
}

/// A folder for an emulator's files.
fn scratch() -> Result<tempfile::TempDir> {
    let dir = crate::workspace::output().join("run");
    std::fs::create_dir_all(&dir)?;
    Ok(tempfile::Builder::new().prefix("machine-").tempdir_in(dir)?)
}

/// The last lines of an emulator's own messages.
fn last_lines(file: &Path, count: usize) -> String {
    let text = std::fs::read(file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n    ")
}
