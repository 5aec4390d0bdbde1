//! The example programs: a Linux program, a foreign thread, pagers.

use anyhow::ensure;
use bulkhead::artifacts::{Artifacts, LINUX_HELLO, SAMPLES};
use ci::{Target, seconds};
use configs::Architecture;

/// What the parts say, in order. The Linux program's lines come first.
const PARTS: &[&str] = &[
    r"linux: linux-hello: hello\r?\n",
    r"linux: linux-hello: everything is as on Linux\r?\n",
    r"samples: linux: exit code 42 after 18 system calls\r?\n",
    r"samples: registers: 1000 system calls arrived as they were made\r?\n",
    r"samples: demand zero: 16 page faults, a limit of 8 held\r?\n",
    r"samples: copy on write: 24 page faults of each client\r?\n",
    r"samples: a silent pager: its client waited alone\r?\n",
];

fn the_examples_do_what_they_should(on: Target) {
    on.tries(SAMPLES, &[LINUX_HELLO], |machine| {
        let end = machine.expect(r"samples: (done|FAILED.*)|bulkhead: (panic.*)", seconds(90))?;
        ensure!(end == "done", "{end}");
        let said = machine.transcript();
        let mut rest = said.as_str();
        for part in PARTS {
            let found = regex::Regex::new(part)?.find(rest);
            let Some(found) = found else {
                anyhow::bail!("it does not say {part}");
            };
            rest = &rest[found.end()..];
        }
        Ok(())
    });
}

/// The same file is a program for the Linux of this machine, and finds there what it found on Bulkhead.
#[test]
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
fn the_linux_program_is_one() {
    let program = Artifacts::trials(Architecture::X86_64).and_then(|a| a.program(LINUX_HELLO));
    let program = program.unwrap_or_else(|e| panic!("{e:#}"));
    let output = std::process::Command::new(program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let expected = "linux-hello: hello\nlinux-hello: everything is as on Linux\n";
    assert_eq!((output.status.code(), text.as_ref()), (Some(42), expected));
}

tests! {
    the_examples_do_what_they_should:
        x86, x86_2cpus, bochs, a53_gic2, a72_gic3, max_gic3_4cpus;
}
