//! Guests with several vCPUs.

use anyhow::Result;
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::Kind;
use ci::{ANSWER, BOOT, PROMPT, changed, with_system};

use crate::endings::{power_off, shell};

/// A shell that has two vCPUs, both of which work.
fn both_work(guest: &mut Dialogue) -> Result<()> {
    shell(guest)?;
    for (command, answer) in [
        ("nproc", "\n2\n"),
        // Each does some work of its own, and both do some together.
        (
            "for i in 1 2; do taskset $i awk '{ print \"on\", $39 }' /proc/self/stat; done",
            "\non 0\non 1\n",
        ),
        (
            "for i in 1 2; do dd if=/dev/zero bs=64k count=500 2>/dev/null | md5sum & done; wait; echo do''ne",
            "\ndone\n",
        ),
        // The second one is taken away and comes back.
        (
            "cd /sys/devices/system/cpu; echo 0 > cpu1/online; nproc; echo 1 > cpu1/online; nproc; cd",
            "\n1\n2\n",
        ),
        ("dmesg | grep -ciE 'bug:|oops|call trace'", "\n0\n"),
        (
            "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
            "\nkvm-clock\n",
        ),
    ] {
        guest.type_line(command);
        guest.expect(answer, ANSWER)?;
        guest.expect(PROMPT, ANSWER)?;
    }
    power_off(guest)
}

fn boots(name: &str, changes: &[(&str, &str)]) {
    let config = changed(name, "linux.toml", changes).unwrap();
    with_system(name, Kind::QemuX86, &config, |guest| {
        guest.expect(r"CPUs: +2 ", BOOT)?;
        both_work(guest)
    });
}

#[test]
fn a_guest_on_two_cpus() {
    let changes = [("cpus = 1", "cpus = 2"), ("vcpus = [0]", "vcpus = [0, 1]")];
    boots("two-vcpus", &changes);
}

#[test]
fn two_vcpus_on_one_cpu() {
    boots("shared-cpu", &[("vcpus = [0]", "vcpus = [0, 0]")]);
}
