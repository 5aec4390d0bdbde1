//! Guests with several vCPUs.

use ci::{ANSWER, PROMPT, Target};

use crate::endings::power_off;

/// Two vCPUs, both of which work, and one of which goes and comes back.
fn two(on: Target, name: &str, vcpus: &str) {
    let config = on.linux(name, &[("vcpus = [0]", vcpus)]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(r"CPUs: +2 ", on.boot())?;
        guest.expect(PROMPT, on.boot())?;
        for (command, answer) in [
            ("nproc", "\n2\n"),
            (
                "for i in 1 2; do taskset $i awk '{ print \"on\", $39 }' /proc/self/stat; done",
                "\non 0\non 1\n",
            ),
            (
                "for i in 1 2; do head -c 8M /dev/zero | sha256sum & done; wait; echo do''ne",
                "\ndone\n",
            ),
            (
                "cd /sys/devices/system/cpu; echo 0 > cpu1/online; nproc; echo 1 > cpu1/online; nproc; cd",
                "\n1\n2\n",
            ),
            ("dmesg | grep -ciE 'bug:|oops|call trace'", "\n0\n"),
        ] {
            guest.type_line(command);
            guest.expect(answer, ANSWER)?;
            guest.expect(PROMPT, ANSWER)?;
        }
        power_off(guest)
    });
}

fn on_two_cpus(on: Target) {
    two(on, "two-vcpus", "vcpus = [1, 0]");
}

fn on_one_cpu(on: Target) {
    two(on, "shared-cpu", "vcpus = [0, 0]");
}

tests! {
    on_two_cpus: x86_2cpus, a53_gic3_2cpus;
    on_one_cpu: x86, max_gic3;
}
