//! VT-x in Bochs: few boots, for each takes a while.

use bulkhead::machine::Kind;
use ci::{ANSWER, PROMPT, changed, seconds, with_system};

use crate::endings::power_off;

/// How long a boot may take.
const BOOT: std::time::Duration = seconds(600);

fn boots(name: &str, cpus: &str) {
    let config = changed(name, "linux.toml", &[("cpus = 1", cpus)]).unwrap();
    with_system(name, Kind::Bochs, &config, |guest| {
        guest.expect(PROMPT, BOOT)?;
        guest.type_line("echo $((6 * 7)); uname -sm");
        guest.expect("\n42\nLinux x86_64\n", ANSWER)?;
        guest.expect(PROMPT, ANSWER)?;
        if cpus == "cpus = 1" {
            guest.type_line("reboot");
            // The shell may show one more prompt before it is ended.
            guest.expect(r"CPUs: +1 ", BOOT)?;
            guest.expect(PROMPT, BOOT)?;
        }
        power_off(guest)
    });
}

#[test]
fn shell_reboot_and_power_off() {
    boots("bochs", "cpus = 1");
}

#[test]
fn two_cpus() {
    boots("bochs-two-cpus", "cpus = 2");
}
