//! Small and large guests, one and two physical CPUs.

use anyhow::ensure;
use bulkhead::machine::Kind;
use ci::{ANSWER, BOOT, PROMPT, changed, with_system};

use crate::endings::{power_off, shell};

/// A guest with this memory in MiB; it sees at least `usable` of it, and can use it.
fn guest_of(mib: u64, machine: &str, usable: u64) {
    let (name, memory) = (format!("guest-{mib}"), format!("memory = \"{mib} MiB\""));
    let changes = [
        ("memory = \"1 GiB\"", machine),
        ("memory = \"512 MiB\"", &memory),
    ];
    let config = changed(&name, "linux.toml", &changes).unwrap();
    with_system(&name, Kind::QemuX86, &config, |guest| {
        let seen: u64 = guest.expect(r"Memory: +(\d+) MiB", BOOT)?.parse()?;
        ensure!((usable..mib).contains(&seen), "{seen} MiB of {mib}");
        shell(guest)?;
        guest.type_line(&format!(
            "dd if=/dev/zero of=/tmp/fill bs=1M count={} && echo fil''led",
            usable / 3
        ));
        guest.expect("filled", BOOT)?;
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

#[test]
fn guest_of_128_mib() {
    guest_of(128, "memory = \"1 GiB\"", 80);
}

#[test]
fn guest_of_2_gib() {
    guest_of(2048, "memory = \"3 GiB\"", 1900);
}

#[test]
fn two_physical_cpus() {
    let changes = [("cpus = 1", "cpus = 2")];
    let config = changed("two-cpus", "linux.toml", &changes).unwrap();
    with_system("two-cpus", Kind::QemuX86, &config, |guest| {
        guest.expect("2 CPUs", ANSWER)?;
        shell(guest)?;
        power_off(guest)
    });
}

#[test]
fn a_guest_on_the_second_cpu() {
    let changes = [("cpus = 1", "cpus = 2"), ("vcpus = [0]", "vcpus = [1]")];
    let config = changed("second-cpu", "linux.toml", &changes).unwrap();
    with_system("second-cpu", Kind::QemuX86, &config, |guest| {
        shell(guest)?;
        power_off(guest)
    });
}
