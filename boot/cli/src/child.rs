//! Other programs: started in a process group of their own, ended with everything that they started.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::interrupt;
use crate::progress::Step;

/// How often waits look whether the user asked to stop.
pub const POLL: Duration = Duration::from_millis(50);

/// The longest that the user waits for a program that must not be killed half-way.
const REST: Duration = Duration::from_secs(120);

/// A running program. When dropped, it and its children are killed.
#[derive(Debug)]
pub struct Group(Child);

impl Group {
    /// Starts `command` in a group of its own, so that a Ctrl-C reaches this program alone and this program
    /// decides what happens to the other.
    pub fn spawn(command: &mut Command) -> Result<Group> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.process_group(0).spawn();
        Ok(Group(child.with_context(|| format!("{name} cannot be started"))?))
    }

    /// The program.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its status if it has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.0.try_wait()?)
    }

    /// Waits for its end, for the user's request to stop, or for `limit`.
    pub fn wait(&mut self, limit: Option<Duration>) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            interrupt::check()?;
            if limit.is_some_and(|limit| start.elapsed() > limit) {
                bail!("no end after {} seconds", start.elapsed().as_secs());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.0.try_wait() {
            return;
        }
        if let Some(group) = Pid::from_raw(self.0.id() as i32) {
            // Fails if it has ended just now.
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}

/// A command that the system kills should this thread end without a chance to clean up.
pub fn tied(program: &Path) -> Command {
    match find("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The program of this name in the search path.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Some users' paths lack the folders of system programs.
    let extra = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(extra).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// Runs a program to its end, without input. What it prints appears in `step` as it comes, and in the
/// error if it fails. Returns what it wrote to its standard output.
pub fn run(command: &mut Command, step: Option<(&Step, &str)>) -> Result<String> {
    run_until(command, step, |_| ())
}

/// The same for a program that must not be killed half-way: when the user asks to stop, it is asked too, and gets the time that
/// it needs to come to a state from which it can go on, at most [`REST`].
pub fn run_gently(command: &mut Command, step: Option<(&Step, &str)>) -> Result<String> {
    run_until(command, step, |group| {
        let Some(program) = Pid::from_raw(group.0.id() as i32) else {
            return;
        };
        // Root's programs take no signal from others; they only get the time.
        let _ = kill_process(program, Signal::INT);
        let start = Instant::now();
        // It stays a zombie, and the number its own, until it is waited for.
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while start.elapsed() < REST && matches!(waitid(WaitId::Pid(program), ended), Ok(None)) {
            std::thread::sleep(POLL);
        }
        let _ = kill_process_group(program, Signal::KILL);
    })
}

/// Runs a program to its end; `stop` comes before it is killed because the user asks to stop.
fn run_until(
    command: &mut Command,
    step: Option<(&Step, &str)>,
    stop: impl FnOnce(&mut Group),
) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut group = Group::spawn(command)?;
    let (sender, lines) = mpsc::channel();
    let (stdout, stderr) = (group.0.stdout.take(), group.0.stderr.take());
    let sources = [
        (true, stdout.map(|s| Box::new(s) as Box<dyn Read + Send>)),
        (false, stderr.map(|s| Box::new(s) as Box<dyn Read + Send>)),
    ];
    for (is_stdout, source) in sources {
        let (Some(source), sender) = (source, sender.clone()) else {
            continue;
        };
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                if sender.send((is_stdout, line)).is_err() {
                    break;
                }
            }
        });
    }
    drop(sender);
    let (mut output, mut everything) = (String::new(), Vec::new());
    loop {
        match lines.recv_timeout(POLL) {
            Ok((is_stdout, line)) => {
                if let Some((step, what)) = step {
                    step.detail(what, line.trim());
                }
                if is_stdout {
                    output.push_str(&line);
                    output.push('\n');
                }
                everything.push(line);
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Err(interrupted) = interrupt::check() {
                    stop(&mut group);
                    return Err(interrupted.into());
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = group.wait(None)?;
    if !status.success() {
        // A signal may have reached the program before this one.
        interrupt::check()?;
        let last = &everything[everything.len().saturating_sub(40)..];
        bail!("{name} failed ({status}):\n    {}", last.join("\n    "));
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_failure() {
        assert_eq!(run(Command::new("echo").arg("one"), None).unwrap(), "one\n");
        let error =
            run(Command::new("sh").args(["-c", "echo cause >&2; exit 3"]), None).unwrap_err();
        assert!(error.to_string().contains("cause"), "{error}");
        assert!(run(&mut Command::new("/nonexistent"), None).is_err());
    }

    #[test]
    fn a_dropped_group_leaves_no_process() {
        let mut command = tied(&find("sh").unwrap());
        command.args(["-c", "sleep 1000 & echo $!; wait"]).stdout(Stdio::piped());
        let mut group = Group::spawn(&mut command).unwrap();
        let mut line = String::new();
        BufReader::new(group.child().stdout.take().unwrap()).read_line(&mut line).unwrap();
        drop(group);
        std::thread::sleep(Duration::from_millis(100));
        let alive = std::fs::read_to_string(format!("/proc/{}/stat", line.trim()));
        assert!(!alive.is_ok_and(|stat| !stat.contains(") Z ")), "{line}");
    }

    #[test]
    fn waits_have_limits() {
        let mut group = Group::spawn(Command::new("sleep").arg("1000")).unwrap();
        assert!(group.wait(Some(Duration::from_millis(20))).is_err());
    }
}
