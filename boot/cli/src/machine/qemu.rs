//! QEMU: what its machines have in common.

mod arm64;
mod x86;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use configs::{Architecture, Board};

use super::{
    End, Identity, Image, Running, Settings, Silent, last_lines, pump_input, pump_output, scratch,
};
use crate::apt;
use crate::child::{self, Group};

static INSTALLING: Mutex<()> = Mutex::new(());

/// QEMU's program for an architecture, and Debian's package with it.
fn names(architecture: Architecture) -> (&'static str, &'static str) {
    match architecture {
        Architecture::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
        Architecture::Arm64 => ("qemu-system-aarch64", "qemu-system-arm"),
    }
}

/// Makes sure that QEMU is there.
pub fn prepare(architecture: Architecture) -> Result<()> {
    let (program, package) = names(architecture);
    let _one = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    match child::find(program) {
        Some(_) => Ok(()),
        None => apt::install(&[package], "running on QEMU"),
    }
}

/// Whether it loads plugins of version 1 of its interface: not if it was built without them, or is of version 9 or later.
pub fn loads_plugins(architecture: Architecture) -> Result<bool> {
    prepare(architecture)?;
    let qemu = program(architecture)?;
    let says = |option| child::run(Command::new(&qemu).arg(option), None);
    let version = says("--version")?;
    let number = version.split_once("version ").map(|(_, rest)| rest);
    let major = number.and_then(|text| text.split('.').next()?.parse().ok());
    Ok(major.is_some_and(|major: u32| major < 9) && says("--help")?.contains("\n-plugin "))
}

fn program(architecture: Architecture) -> Result<PathBuf> {
    let (program, _) = names(architecture);
    child::find(program).with_context(|| format!("{program} is not in the search path"))
}

/// What differs between machines.
struct Hardware {
    /// QEMU's options for the board, the CPU and what executes its instructions.
    options: Vec<String>,
    /// Whether that is an emulation.
    emulated: bool,
}

/// TCG for this machine: each CPU in a thread of its own, if there are several, unless instructions are counted.
fn tcg(settings: &Settings<'_>) -> &'static str {
    if settings.machine.cpus == 1 || settings.count_instructions {
        "tcg,thread=single"
    } else {
        "tcg,thread=multi"
    }
}

fn hardware(qemu: &Path, settings: &Settings<'_>) -> Hardware {
    match settings.machine.board {
        Board::Pc => x86::hardware(qemu, settings),
        Board::Virt { cpu, gic } => arm64::hardware(cpu, gic, settings),
    }
}

/// QEMU's version, and the CPUs that it makes or passes on.
pub fn identity(settings: &Settings<'_>) -> Result<Identity> {
    let qemu = program(settings.machine.architecture())?;
    let version = child::run(Command::new(&qemu).arg("--version"), None)?;
    let hardware = hardware(&qemu, settings);
    let mut options = hardware.options.iter().skip_while(|option| *option != "-cpu");
    let model = options.nth(1).cloned().unwrap_or_default();
    let cpu = match hardware.emulated {
        true => model,
        false => format!("{model}: {}", x86::host_model()),
    };
    Ok(Identity {
        emulator: version.lines().next().unwrap_or_default().to_owned(),
        cpu,
        is_emulated: hardware.emulated,
    })
}

/// Starts QEMU.
pub fn start(image: &Image, settings: &Settings<'_>) -> Result<Running> {
    let machine = &settings.machine;
    let qemu = program(machine.architecture())?;
    let hardware = hardware(&qemu, settings);
    let options = if hardware.emulated { image.emulated_options() } else { image.options.clone() };
    let dir = scratch()?;
    let control = dir.path().join("qmp");
    let messages = dir.path().join("messages");
    let resets = dir.path().join("resets");
    let mut command: Command = child::tied(&qemu);
    command
        .args(hardware.options)
        .args(["-m", &format!("{}M", machine.memory >> 20)])
        .args(["-smp", &machine.cpus.to_string()])
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.bundle)
        .args(["-append", &options])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio"])
        .args(["-d", "cpu_reset", "-D"])
        .arg(&resets)
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", control.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&messages)?);
    if let Some(plugin) = settings.plugin {
        command.args(["-plugin", plugin]);
    }
    let mut emulator = Group::spawn(&mut command)?;
    let stdin = emulator.child().stdin.take().context("QEMU has no input")?;
    let stdout = emulator.child().stdout.take().context("QEMU has no output")?;
    let reason = shutdown_reason(control);
    let ending = move |status: std::process::ExitStatus| {
        let reason = reason.recv_timeout(Duration::from_secs(2)).unwrap_or_default();
        match reason.as_str() {
            "guest-reset" => End::Reset { triple_fault: last_lines(&resets, 1) == "Triple fault" },
            _ if status.success() => End::PowerOff,
            _ => {
                End::Failed(format!("QEMU ended with {status}:\n    {}", last_lines(&messages, 12)))
            }
        }
    };
    Ok(Running {
        emulator,
        output: pump_output(stdout),
        input: pump_input(stdin),
        ending: Box::new(ending),
        silent: Some(Silent::new(settings, settings.silence)),
        _dir: dir,
    })
}

/// Listens to QEMU's control socket for the reason of its end: the exit status does not tell a reset from a
/// power-off.
fn shutdown_reason(socket: PathBuf) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        // The socket is there as soon as QEMU has read its options.
        let connect = || {
            std::thread::sleep(Duration::from_millis(20));
            UnixStream::connect(&socket).ok()
        };
        let Some(mut stream) = (0..250).find_map(|_| connect()) else {
            return;
        };
        if stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").is_err() {
            return;
        }
        for line in BufReader::new(stream).lines().map_while(std::result::Result::ok) {
            let message: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if message["event"] == "SHUTDOWN" {
                let reason = message["data"]["reason"].as_str().unwrap_or_default();
                let _ = sender.send(reason.to_string());
                return;
            }
        }
    });
    receiver
}
