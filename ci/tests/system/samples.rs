//! The example programs: a Linux program, a foreign thread, pagers.

use anyhow::ensure;
use bulkhead::artifacts::{Artifacts, LINUX_HELLO, SAMPLES};
use bulkhead::trial::Extra;
use ci::{Target, seconds};
use linux_hello::{FAREWELL, GREETING};

/// What the parts say, in order; before them, the Linux program's own lines.
const PARTS: [&str; 6] = [
    "linux: exit code 42 after 18 system calls",
    "a failing linux: ended by an exception after 1 system call",
    "registers: 1000 system calls arrived as they were made",
    "demand zero: 16 page faults, a limit of 8 held",
    "copy on write: 24 page faults of each client",
    "a silent pager: its client waited alone",
];

fn the_examples_do_what_they_should(on: Target) {
    on.tries(SAMPLES, &[Extra::Program(LINUX_HELLO)], |machine| {
        let end = r"samples: (done|FAILED[^\r\n]*)\r?\n|bulkhead: (panic.*)";
        let end = machine.expect(end, seconds(90))?;
        ensure!(end == "done", "{end}");
        let printed = [GREETING, FAREWELL].map(|line| format!("linux: {}", line.trim()));
        let reported = PARTS.map(|part| format!("samples: {part}"));
        let said = machine.transcript();
        let mut lines = said.lines().map(str::trim);
        for line in printed.iter().chain(&reported) {
            let there = lines.any(|said| said == line);
            ensure!(there, "it does not say, where it should: {line}");
        }
        Ok(())
    });
}

/// The same file is a program for the Linux of this machine, and finds there what it found on Bulkhead.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn the_linux_program_is_one() {
    let program =
        Artifacts::trials(configs::Architecture::X86_64).and_then(|a| a.program(LINUX_HELLO));
    let program = program.unwrap_or_else(|e| panic!("{e:#}"));
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(&program).args(arguments).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text, output.status.code())
    };
    let all = [GREETING, FAREWELL].concat();
    assert_eq!(run(&[]), (all, Some(linux_hello::SUCCESS)));
    // A signal ends it.
    assert_eq!(run(&["crash"]), (GREETING.into(), None));
}

tests! {
    the_examples_do_what_they_should:
        x86, x86_2cpus, bochs, a53_gic2, a72_gic3, max_gic3_4cpus;
}
