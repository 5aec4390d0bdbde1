//! Small and large guests, a guest on another CPU than the first.

use anyhow::ensure;
use ci::{ANSWER, PROMPT, Target};

use crate::guest::{cpus, power_off, shell, shell_with};

/// A guest with this memory in MiB; it sees at least `usable` of it, and can use it.
fn guest_of(on: Target, mib: u64, machine: &str, usable: u64) {
    let memory = format!("memory = \"{mib} MiB\"");
    let changes = [("memory = \"1 GiB\"", machine), ("memory = \"512 MiB\"", &memory)];
    let config = on.linux(&format!("guest-{mib}"), &changes).unwrap();
    on.boots(&config, |guest| {
        let seen: u64 = guest.expect(r"Memory: +(\d+) MiB", on.boot())?.parse()?;
        ensure!((usable..mib).contains(&seen), "{seen} MiB of {mib}");
        shell(on, guest)?;
        guest.type_line(&format!(
            "mount -t tmpfs -o size=90% fill /mnt && dd if=/dev/zero of=/mnt/fill bs=1M count={} && echo fil''led",
            usable / 3
        ));
        guest.expect("filled", on.boot())?;
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

fn guest_of_128_mib(on: Target) {
    guest_of(on, 128, "memory = \"1 GiB\"", 80);
}

fn guest_of_2_gib(on: Target) {
    guest_of(on, 2048, "memory = \"3 GiB\"", 1900);
}

fn a_guest_on_the_second_cpu(on: Target) {
    let changes = [("vcpus = [0]", "vcpus = [1]")];
    let config = on.linux("second-cpu", &changes).unwrap();
    on.boots(&config, |guest| {
        guest.expect(&cpus(1), on.boot())?;
        shell_with(on, guest, 1)?;
        power_off(guest)
    });
}

tests! {
    guest_of_128_mib: x86, a72_gic3;
    guest_of_2_gib: x86, a53_gic2;
    a_guest_on_the_second_cpu: x86_2cpus, max_gic2_2cpus;
}
