//! Ctrl-C, time limits and hung programs: one clear line, the right status, no process left.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use rustix::termios::tcgetattr;

use crate::support::{
    StandIns, Terminal, bulkhead, finish, interrupt, process_with, signal, wait_for_process,
};

const MINUTES: Duration = Duration::from_secs(600);

/// Interrupts the command once a process shows `sign`, and checks what is left.
#[track_caller]
fn interrupted(mut command: std::process::Command, sign: &str) {
    let child = command.spawn().unwrap();
    wait_for_process(sign, MINUTES);
    interrupt(&child);
    let ended = finish(child, Duration::from_secs(20));
    assert_eq!(ended.status, Some(130), "{ended:?}");
    assert!(ended.stderr.contains("bulkhead: interrupted"), "{ended:?}");
    assert!(!process_with(sign), "a process is left");
}

#[test]
fn ctrl_c_in_set_up() {
    let programs = StandIns::new()
        .add("dpkg-deb", "exit 1")
        .add("apt-cache", "echo ' Candidate: 1'")
        .add("apt-get", "/bin/sleep 27181801 & wait")
        .add("sudo", "[ \"$2\" = true ] || { /bin/sleep 27181801 & wait; }");
    let mut command = bulkhead(&["run"]);
    command.env("PATH", programs.only());
    interrupted(command, "27181801");
}

#[test]
fn ctrl_c_lets_an_installation_come_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let end = dir.path().join("end");
    let install = format!(
        "trap '/bin/sleep 1; : > {}; exit 1' INT; /bin/sleep 27181811 & wait",
        end.display()
    );
    let programs = StandIns::new()
        .add("dpkg-deb", "exit 1")
        .add("apt-cache", "echo ' Candidate: 1'")
        .add("apt-get", &install)
        .add("sudo", &format!("[ \"$2\" != true ] || exit 0; {install}"));
    let mut command = bulkhead(&["run"]);
    command.env("PATH", programs.only());
    interrupted(command, "27181811");
    assert!(end.exists());
}

#[test]
fn ctrl_c_in_build() {
    let programs = StandIns::new().add("cargo", "sleep 27181802 & wait");
    // The real compiler, to which the stand-in is no neighbour.
    let mut command = bulkhead(&["run"]);
    command.env("PATH", programs.first()).env("CARGO", programs.path("cargo"));
    interrupted(command, "27181802");
}

#[test]
fn ctrl_c_in_run() {
    let programs = StandIns::new().add("qemu-system-x86_64", "sleep 27181803 & wait");
    let mut command = bulkhead(&["run"]);
    command.env("PATH", programs.first());
    interrupted(command, "27181803");
}

#[test]
fn ctrl_c_in_bench() {
    let programs = StandIns::new().add(
        "qemu-system-x86_64",
        "[ \"$1\" != --version ] || exec echo version; sleep 27181807 & wait",
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("runs");
    let mut command = bulkhead(&["bench", "--json", file.to_str().unwrap()]);
    command.env("PATH", programs.first());
    interrupted(command, "27181807");
    assert!(!file.exists());
}

/// Runs with an emulator that does what `script` says.
fn with_emulator(script: &str, arguments: &[&str]) -> crate::support::Ended {
    let programs = StandIns::new().add("qemu-system-x86_64", script);
    let mut command = bulkhead(&[&["run"], arguments].concat());
    finish(command.env("PATH", programs.first()).spawn().unwrap(), MINUTES)
}

#[test]
fn a_hung_machine_is_ended_by_the_time_limit() {
    let ended = with_emulator("sleep 27181804 & wait", &["--headless", "--timeout", "1"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("timeout: not done after 1 s"), "{ended:?}");
    assert!(!process_with("27181804"));
}

#[test]
fn statuses_for_scripts() {
    let until = ["--headless", "--timeout", "60", "--until", "rea.y"];
    let ended = with_emulator("echo all is ready; sleep 27181805", &until);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("all is ready"));
    assert!(!process_with("27181805"));
    let ended = with_emulator("echo nothing", &until);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("before the pattern"), "{ended:?}");
    let ended = with_emulator("echo 'bulkhead: panic: broken'; sleep 27181806", &until);
    assert_eq!(ended.status, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("broken"), "{ended:?}");
    assert!(!process_with("27181806"));
    let ended = with_emulator("echo no such machine >&2; exit 3", &["--headless"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no such machine"), "{ended:?}");
    assert_eq!(with_emulator("true", &["--headless"]).status, Some(0));
}

#[test]
fn logs_carry_the_name_of_the_console() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let script = "printf 'bulkhead: start\\r\\nlinux:~# ls\\r\\nlast'";
    let ended = with_emulator(script, &["--headless", "--log", log.to_str().unwrap()]);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(text, "bulkhead: start\n[linux] linux:~# ls\n[linux] last\n");
    let ended = with_emulator("true", &["--headless", "--log", "/nowhere/log"]);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("--log: /nowhere/log"), "{ended:?}");
}

#[test]
fn the_terminal_is_raw_and_is_restored() {
    use std::io::{Read, Write};

    let Terminal { mut master, name } = Terminal::open();
    let terminal = || Terminal::end(&name);
    let before = tcgetattr(terminal()).unwrap();
    // Repeats what it gets, in hexadecimal.
    let programs = StandIns::new().add("qemu-system-x86_64", "echo begin; exec od -An -v -w1 -tx1");
    let mut command = bulkhead(&["run"]);
    command
        .env("PATH", programs.first())
        .stdin(Stdio::from(terminal()))
        .stdout(Stdio::from(terminal()));
    let child = command.spawn().unwrap();
    let (sender, output) = std::sync::mpsc::channel();
    let mut reader = master.try_clone().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            let _ = sender.send(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    });
    let mut seen = String::new();
    while !seen.contains("begin") {
        seen.push_str(&output.recv_timeout(MINUTES).expect(&seen));
    }
    // A Ctrl-C is the guest's; od writes when it has read all.
    master.write_all(b"\x03").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert_ne!(tcgetattr(terminal()).unwrap().local_modes, before.local_modes);
    master.write_all(b"\x01x").unwrap();
    let ended = finish(child, Duration::from_secs(20));
    assert_eq!(ended.status, Some(0), "{ended:?}");
    let after = tcgetattr(terminal()).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
    assert_eq!(after.input_modes, before.input_modes);
    assert_eq!(after.output_modes, before.output_modes);
}

#[test]
fn the_terminal_is_restored_when_nobody_reads_any_more() {
    let terminal = Terminal::open();
    let end = || Terminal::end(&terminal.name);
    let before = tcgetattr(end()).unwrap();
    let programs =
        StandIns::new().add("qemu-system-x86_64", "while sleep 0.1; do echo 27181808; done");
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = bulkhead(&["run"]);
    command.env("PATH", programs.first()).stdin(Stdio::from(end())).stdout(Stdio::from(writer));
    drop(reader);
    let child = command.spawn().unwrap();
    drop(command);
    let ended = finish(child, MINUTES);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("the output cannot be written"), "{ended:?}");
    let after = tcgetattr(end()).unwrap();
    assert_eq!(after.local_modes, before.local_modes);
}

#[test]
fn a_reader_who_stops_reading_holds_up_no_time_limit() {
    let programs = StandIns::new().add("qemu-system-x86_64", "exec yes 27181809");
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut command = bulkhead(&["run", "--headless", "--timeout", "1"]);
    command.env("PATH", programs.first()).stdout(Stdio::from(writer));
    let ended = finish(command.spawn().unwrap(), MINUTES);
    assert_eq!(ended.status, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("timeout: "), "{ended:?}");
    assert!(!process_with("27181809"));
}

#[test]
fn signals_that_are_to_be_ignored_are() {
    let programs = StandIns::new().add("qemu-system-x86_64", "sleep 27181810 & wait");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' HUP; exec \"$@\"", "sh"])
        .args([crate::support::BULKHEAD, "run"])
        .env("PATH", programs.first())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for_process("27181810", MINUTES);
    signal(&child, Signal::HUP);
    std::thread::sleep(Duration::from_millis(500));
    assert!(process_with("27181810"));
    interrupt(&child);
    let ended = finish(child, Duration::from_secs(20));
    assert_eq!(ended.status, Some(130), "{ended:?}");
    assert!(!process_with("27181810"));
}
