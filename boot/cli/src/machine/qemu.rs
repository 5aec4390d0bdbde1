//! QEMU's q35 machine: SVM emulated by TCG, or the host's extension through nested KVM.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{End, Image, Running, Settings, last_lines, pump_input, pump_output, scratch};
use crate::child::{self, Group};
use crate::{apt, progress};

const PROGRAM: &str = "qemu-system-x86_64";

static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes sure that QEMU is there.
pub fn prepare() -> Result<()> {
    let _one = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    match child::find(PROGRAM) {
        Some(_) => Ok(()),
        None => apt::install(&["qemu-system-x86"], "running on QEMU"),
    }
}

fn program() -> Result<PathBuf> {
    child::find(PROGRAM).with_context(|| format!("{PROGRAM} is not in the search path"))
}

/// What executes the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accelerator {
    Tcg,
    Kvm,
}

impl Accelerator {
    fn choose(qemu: &Path, settings: &Settings) -> Accelerator {
        let possible = settings.virtualization && !settings.count_instructions;
        if possible && nested_kvm(qemu) {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        }
    }

    /// The options for accelerator and CPU.
    fn options(self, settings: &Settings) -> Vec<&'static str> {
        // `max` has SVM; its other features are what TCG can do.
        let (accelerator, cpu) = match (self, settings.machine.cpus) {
            (Accelerator::Kvm, _) => ("kvm", "host"),
            (Accelerator::Tcg, 1) => ("tcg,thread=single", "max"),
            (Accelerator::Tcg, _) => ("tcg,thread=multi", "max"),
        };
        let cpu = if settings.virtualization {
            cpu
        } else {
            "max,-svm"
        };
        let mut options = vec!["-accel", accelerator, "-cpu", cpu];
        if settings.count_instructions {
            // One tick of the CPU's counter is one instruction; the same on each run.
            options.extend(["-icount", "shift=0,sleep=off"]);
        }
        options
    }
}

/// Whether KVM runs here and offers virtualisation to its guests. Where the CPU shows no extension, a
/// /dev/kvm is none that could; where it does, only a trial tells.
fn nested_kvm(qemu: &Path) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let extension = flags
            .lines()
            .filter(|l| l.starts_with("flags"))
            .any(|line| {
                line.split_whitespace()
                    .any(|flag| flag == "vmx" || flag == "svm")
            });
        let nested = ["intel", "amd"].iter().any(|vendor| {
            let parameter = format!("/sys/module/kvm_{vendor}/parameters/nested");
            std::fs::read_to_string(parameter).is_ok_and(|value| matches!(value.trim(), "Y" | "1"))
        });
        let usable = || {
            File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .is_ok()
        };
        // The hypervisor refuses CPUs from which programs can read its memory.
        let meltdown = std::fs::read_to_string("/sys/devices/system/cpu/vulnerabilities/meltdown");
        let safe = meltdown.is_ok_and(|text| text.starts_with("Not affected"));
        extension && nested && safe && usable() && trial(qemu)
    })
}

/// Starts a machine under KVM and ends it before its first instruction.
fn trial(qemu: &Path) -> bool {
    let _step = progress::step("Trying KVM");
    let mut command = child::tied(qemu);
    command.args([
        "-M",
        "q35",
        "-accel",
        "kvm",
        "-cpu",
        "host",
        "-m",
        "64",
        "-S",
        "-nodefaults",
    ]);
    command.args(["-display", "none", "-monitor", "stdio"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(mut group) = Group::spawn(&mut command) else {
        return false;
    };
    if let Some(mut monitor) = group.child().stdin.take() {
        let _ = monitor.write_all(b"quit\n");
    }
    group
        .wait(Some(Duration::from_secs(10)))
        .is_ok_and(|status| status.success())
}

/// Starts QEMU.
pub fn start(image: &Image, settings: &Settings) -> Result<Running> {
    let qemu = program()?;
    let accelerator = Accelerator::choose(&qemu, settings);
    let options = match accelerator {
        Accelerator::Tcg => image.emulated_options(),
        Accelerator::Kvm => image.options.clone(),
    };
    let dir = scratch()?;
    let control = dir.path().join("qmp");
    let messages = dir.path().join("messages");
    let mut command: Command = child::tied(&qemu);
    command
        .args([
            "-M",
            "q35",
            "-m",
            &format!("{}M", settings.machine.memory >> 20),
        ])
        .args(["-smp", &settings.machine.cpus.to_string()])
        .args(accelerator.options(settings))
        .arg("-kernel")
        .arg(&image.kernel)
        .arg("-initrd")
        .arg(&image.bundle)
        .args(["-append", &options])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-serial", "stdio"])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", control.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(File::create(&messages)?);
    let mut emulator = Group::spawn(&mut command)?;
    let stdin = emulator.child().stdin.take().context("QEMU has no input")?;
    let stdout = emulator
        .child()
        .stdout
        .take()
        .context("QEMU has no output")?;
    let reason = shutdown_reason(control);
    let ending = move |status: std::process::ExitStatus| {
        let reason = reason
            .recv_timeout(Duration::from_secs(2))
            .unwrap_or_default();
        match reason.as_str() {
            "guest-reset" => End::Reset,
            _ if status.success() => End::PowerOff,
            _ => End::Failed(format!(
                "QEMU ended with {status}:\n    {}",
                last_lines(&messages, 12)
            )),
        }
    };
    Ok(Running {
        emulator,
        output: pump_output(stdout),
        input: pump_input(stdin),
        ending: Box::new(ending),
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
        if stream
            .write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .is_err()
        {
            return;
        }
        for line in BufReader::new(stream)
            .lines()
            .map_while(std::result::Result::ok)
        {
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
