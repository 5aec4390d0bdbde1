//! Runs the command as a user would, with stand-ins for other programs.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The command.
pub const BULKHEAD: &str = env!("CARGO_BIN_EXE_bulkhead");

/// How the command ended.
#[derive(Debug)]
pub struct Ended {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The command with these arguments, without input.
pub fn bulkhead(arguments: &[&str]) -> Command {
    let mut command = Command::new(BULKHEAD);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of a program; kills it and fails if that takes too long.
pub fn finish(mut child: Child, limit: Duration) -> Ended {
    let start = Instant::now();
    let read = |source: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut source) = source {
                let _ = source.read_to_end(&mut text);
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let stdout = read(child.stdout.take().map(|s| Box::new(s) as _));
    let stderr = read(child.stderr.take().map(|s| Box::new(s) as _));
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if start.elapsed() > limit {
            interrupt(&child);
            std::thread::sleep(Duration::from_secs(1));
            let _ = child.kill();
            panic!("no end after {limit:?}; stderr: {}", stderr.join().unwrap());
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Ended { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

/// Runs the command to its end.
pub fn run(arguments: &[&str]) -> Ended {
    finish(bulkhead(arguments).spawn().unwrap(), Duration::from_secs(600))
}

/// What a Ctrl-C does.
pub fn interrupt(child: &Child) {
    signal(child, Signal::INT);
}

/// Sends a signal.
pub fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(child.id() as i32).unwrap();
    let _ = kill_process(pid, signal);
}

/// A terminal: the side of who looks at it, and the name of the other.
pub struct Terminal {
    pub master: File,
    pub name: String,
}

impl Terminal {
    pub fn open() -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        Terminal { master: master.into(), name: name.into_string().unwrap() }
    }

    /// The programs' side of the terminal with this name.
    pub fn end(name: &str) -> File {
        File::options().read(true).write(true).open(name).unwrap()
    }
}

/// Waits until a process has `part` in its command line.
pub fn wait_for_process(part: &str, limit: Duration) {
    let start = Instant::now();
    while !process_with(part) {
        assert!(start.elapsed() < limit, "no process with {part}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process has `part` in its command line.
pub fn process_with(part: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes.filter(|p| p.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit())).any(
        |process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ").contains(part)
        },
    )
}

/// A folder of programs that stand in for others.
pub struct StandIns(tempfile::TempDir);

impl StandIns {
    pub fn new() -> StandIns {
        StandIns(tempfile::tempdir().unwrap())
    }

    /// Adds a shell script.
    pub fn add(self, name: &str, script: &str) -> StandIns {
        let path = self.0.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The search path with these programs before all others.
    pub fn first(&self) -> std::ffi::OsString {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = std::iter::once(self.0.path().to_path_buf()).chain(std::env::split_paths(&path));
        std::env::join_paths(dirs).unwrap()
    }

    /// A search path with these programs alone.
    pub fn only(&self) -> &Path {
        self.0.path()
    }
}
