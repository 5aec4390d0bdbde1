//! Bochs with a Skylake-X: VT-x with EPT, VPID and unrestricted guest.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{
    End, Event, Identity, Image, Running, Settings, Silent, iso, last_lines, pump_input,
    pump_output, scratch,
};
use crate::child::{self, Group};
use crate::{apt, interrupt};

const PROGRAM: &str = "bochs";

/// Debian's packages for Bochs and for the ISO that it boots from.
const PACKAGES: &[&str] =
    &["bochs", "bochsbios", "vgabios", "grub-common", "grub-pc-bin", "xorriso", "mtools"];

/// The longest that a machine says nothing while it is traced.
const TRACED: Duration = Duration::from_secs(180);

static INSTALLING: Mutex<()> = Mutex::new(());

/// Makes sure that Bochs and the tools for an ISO are there.
pub fn prepare() -> Result<()> {
    let _one = INSTALLING.lock().unwrap_or_else(|e| e.into_inner());
    let programs = [PROGRAM, "grub-mkrescue", "xorriso", "mformat"];
    let files = ["/usr/lib/grub/i386-pc", "/usr/share/bochs/BIOS-bochs-latest"];
    let complete = programs.iter().all(|program| child::find(program).is_some())
        && files.iter().all(|file| Path::new(file).exists());
    if complete { Ok(()) } else { apt::install(PACKAGES, "running on Bochs") }
}

/// The model of the machine's CPUs.
const CPU: &str = "corei7_skylake_x";

/// Bochs's version, and its CPUs.
pub fn identity() -> Result<Identity> {
    let text = child::run(Command::new(PROGRAM).arg("--help"), None)?;
    let mut lines = text.lines().map(str::trim);
    let version = lines.find(|line| line.starts_with("Bochs x86 Emulator"));
    Ok(Identity {
        emulator: version.unwrap_or("Bochs").to_owned(),
        cpu: CPU.into(),
        is_emulated: true,
    })
}

/// The machine's description.
fn configuration(settings: &Settings<'_>, iso: &Path, log: &Path, port: u16) -> Result<String> {
    let memory = settings.machine.memory >> 20;
    // Debian's build simulates at most 2 GiB of guest memory at a time, and has a model of 32 bits of size.
    if memory > 2048 {
        bail!(
            "Bochs can have at most 2 GiB of memory, and the system's machine has {memory} MiB; use qemu-x86"
        );
    }
    Ok(format!(
        "cpu: model={CPU}, count={cpus}, ips=100000000, reset_on_triple_fault=0\n\
         memory: guest={memory}, host={memory}\n\
         romimage: file=/usr/share/bochs/BIOS-bochs-latest\n\
         vgaromimage: file=/usr/share/vgabios/vgabios.bin\n\
         ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14\n\
         ata0-master: type=cdrom, path=\"{iso}\", status=inserted\n\
         boot: cdrom\n\
         pci: enabled=1, chipset=i440fx\n\
         clock: sync=none\n\
         display_library: rfb, options=\"timeout=0\"\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         speaker: enabled=0\n\
         port_e9_hack: enabled=0\n\
         com1: enabled=1, mode=socket-client, dev=localhost:{port}\n\
         log: {log}\n\
         logprefix: %t%e%d\n\
         panic: action=fatal\n\
         error: action=report\n\
         info: action=report\n\
         debug: action=ignore\n",
        cpus = settings.machine.cpus,
        iso = iso.display(),
        log = log.display(),
    ))
}

/// Starts Bochs. Debian's build stops in its debugger first.
pub fn start(image: &Image, settings: &Settings<'_>) -> Result<Running> {
    start_with(image, settings, "c\n")
}

/// Runs a machine of one CPU until it comes to the linear address `from` for the first time, and then ends it after `count`
/// instructions more. Returns what the debugger prints: a line for each of these, among others.
pub fn trace(image: &Image, settings: &Settings<'_>, from: u64, count: u64) -> Result<String> {
    let commands = format!("lb {from:#x}\nc\ndel 1\ntrace on\ns {count}\nquit\n");
    let mut running = start_with(image, settings, &commands)?;
    loop {
        match running.next(TRACED)? {
            Event::Output(_) => {}
            Event::Quiet => bail!("Bochs did not come to {from:#x}"),
            Event::End(_) => break,
        }
    }
    let messages = messages(running._dir.path());
    std::fs::read_to_string(&messages)
        .with_context(|| format!("{} cannot be read", messages.display()))
}

/// The file with what Bochs prints.
fn messages(dir: &Path) -> PathBuf {
    dir.join("messages")
}

/// Starts Bochs with commands for its debugger.
fn start_with(image: &Image, settings: &Settings<'_>, commands: &str) -> Result<Running> {
    let bochs =
        child::find(PROGRAM).with_context(|| format!("{PROGRAM} is not in the search path"))?;
    let dir = scratch()?;
    let file = |name: &str| dir.path().join(name);
    let (cd, log, messages) = (file("boot.iso"), file("log"), messages(dir.path()));
    iso::make(image, &image.emulated_options(), &cd)?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    std::fs::write(file("bochsrc"), configuration(settings, &cd, &log, port)?)?;
    std::fs::write(file("commands"), commands)?;
    let mut command = child::tied(&bochs);
    command
        .current_dir(dir.path())
        .args(["-q", "-f", "bochsrc", "-rc", "commands"])
        .stdin(Stdio::null())
        .stdout(File::create(&messages)?)
        .stderr(File::options().append(true).open(&messages)?);
    let mut emulator = Group::spawn(&mut command)?;
    let start = Instant::now();
    let serial = loop {
        match listener.accept() {
            Ok((stream, _)) => break stream,
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("Bochs's serial port cannot be connected"),
        }
        interrupt::check()?;
        let ended = emulator.try_wait()?;
        if ended.is_some() || start.elapsed() > Duration::from_secs(20) {
            let how =
                ended.map_or("hangs at its start".into(), |status| format!("ended with {status}"));
            bail!("Bochs {how}:\n    {}\n    {}", last_lines(&messages, 8), last_lines(&log, 8));
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    serial.set_nonblocking(false)?;
    serial.set_nodelay(true)?;
    let ending = move |status: ExitStatus| end(status, &log);
    Ok(Running {
        emulator,
        output: pump_output(serial.try_clone()?),
        input: pump_input(serial),
        ending: Box::new(ending),
        silent: Some(Silent::new(settings, settings.silence * 10)),
        _dir: dir,
    })
}

/// Bochs ends a machine that switches itself off with a panic of its own; only the log tells.
fn end(status: ExitStatus, log: &Path) -> End {
    let text = last_lines(log, 60);
    if text.contains("soft power off") {
        End::PowerOff
    } else if text.contains("triple fault") || text.contains("shutdown status") {
        let triple_fault = text.contains("triple fault");
        End::Reset { triple_fault }
    } else {
        End::Failed(format!("Bochs ended with {status}:\n    {}", last_lines(log, 12)))
    }
}
