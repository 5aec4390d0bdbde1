//! Guests with several vCPUs.

use anyhow::Result;
use bulkhead::dialogue::Dialogue;
use ci::{ANSWER, Target};

use crate::guest::{ask, cpus, is_well, power_off, shell_with};

/// A shell that has this many vCPUs, all of which work.
fn all_work(on: Target, guest: &mut Dialogue, vcpus: u32) -> Result<()> {
    guest.expect(&cpus(vcpus), on.boot())?;
    shell_with(on, guest, vcpus)?;
    let masks: Vec<String> = (0..vcpus).map(|i| format!("{:x}", 1 << i)).collect();
    let masks = masks.join(" ");
    let each: String = (0..vcpus).map(|i| format!("on {i}\n")).collect();
    let fewer = vcpus - 1;
    for (command, answer) in [
        // Each does some work of its own, and all do some together.
        (
            format!("for i in {masks}; do taskset $i awk '{{ print \"on\", $39 }}' /proc/self/stat; done"),
            format!("\n{each}"),
        ),
        (
            format!("for i in {masks}; do md5sum /bin/busybox > /dev/null & done; wait; echo do''ne"),
            "\ndone\n".into(),
        ),
        // One is taken away and comes back.
        (
            "cd /sys/devices/system/cpu; echo 0 > cpu1/online; nproc; echo 1 > cpu1/online; nproc; cd".into(),
            format!("\n{fewer}\n{vcpus}\n"),
        ),
    ] {
        ask(guest, &command, &answer)?;
    }
    is_well(on, guest)?;
    power_off(guest)
}

fn a_vcpu_on_each_cpu(on: Target) {
    let config = on.linux("several-vcpus", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(&format!("{} CPUs", on.cpus), ANSWER)?;
        all_work(on, guest, on.cpus)
    });
}

fn two_vcpus_on_one_cpu(on: Target) {
    let changes = [("vcpus = [0]", "vcpus = [0, 0]")];
    let config = on.linux("shared-cpu", &changes).unwrap();
    on.boots(&config, |guest| all_work(on, guest, 2));
}

tests! {
    a_vcpu_on_each_cpu: x86_2cpus, a72_gic2_2cpus, max_gic3_4cpus;
    two_vcpus_on_one_cpu: x86, a72_gic3;
}
