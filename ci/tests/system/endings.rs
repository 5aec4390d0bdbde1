//! A shell to type into, and every way in which a guest ends.

use anyhow::{Result, ensure};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{End, Kind};
use ci::{ANSWER, BOOT, PROMPT, changed, with_system};

/// The guest's shell, reached and working.
pub fn shell(guest: &mut Dialogue) -> Result<()> {
    guest.expect(PROMPT, BOOT)?;
    guest.type_line("echo $((6 * 7)); uname -sm");
    guest.expect("\n42\nLinux x86_64\n", ANSWER)?;
    guest.expect(PROMPT, ANSWER)?;
    Ok(())
}

/// Switches the guest off; the machine has to follow.
pub fn power_off(guest: &mut Dialogue) -> Result<()> {
    guest.type_line("poweroff");
    let end = guest.finish(ANSWER)?;
    ensure!(end == End::PowerOff, "the machine ended with {end:?}");
    Ok(())
}

#[test]
fn shell_and_power_off() {
    let config = changed("shell", "linux.toml", &[]).unwrap();
    with_system("shell", Kind::QemuX86, &config, |guest| {
        guest.expect(r"started linux", BOOT)?;
        guest.expect(r"CPUs: +1 ", BOOT)?;
        guest.expect(r"Memory: +4\d\d MiB", ANSWER)?;
        shell(guest)?;
        // Job control: an interrupt reaches what runs, not the shell.
        guest.type_line("sleep 1000 # long");
        guest.expect("long\n", ANSWER)?;
        guest.type_line("");
        std::thread::sleep(ci::seconds(2));
        guest.send(b"\x03");
        guest.expect(PROMPT, ANSWER)?;
        guest.type_line("dmesg | grep -ciE 'bug:|oops|call trace'");
        guest.expect("\n0\n", ANSWER)?;
        guest.type_line("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
        guest.expect("\nkvm-clock\n", ANSWER)?;
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

#[test]
fn the_end_of_the_shell_is_the_end_of_the_machine() {
    let config = changed("exit", "linux.toml", &[]).unwrap();
    with_system("exit", Kind::QemuX86, &config, |guest| {
        guest.expect(PROMPT, BOOT)?;
        guest.type_line("exit");
        ensure!(guest.finish(ANSWER)? == End::PowerOff);
        Ok(())
    });
}

#[test]
fn reboot() {
    let config = changed("reboot", "linux.toml", &[]).unwrap();
    with_system("reboot", Kind::QemuX86, &config, |guest| {
        guest.expect(PROMPT, BOOT)?;
        guest.type_line("echo remains > /tmp/file; reboot");
        guest.expect(r"CPUs: +1 ", BOOT)?;
        shell(guest)?;
        guest.type_line("ls /tmp/file");
        guest.expect("No such file", ANSWER)?;
        power_off(guest)
    });
}

#[test]
fn panic() {
    let config = changed("panic", "linux.toml", &[]).unwrap();
    with_system("panic", Kind::QemuX86, &config, |guest| {
        guest.expect(PROMPT, BOOT)?;
        guest.type_line("echo c > /proc/sysrq-trigger");
        guest.expect("Kernel panic - not syncing", ANSWER)?;
        // The kernel's panic=1 makes it a reboot.
        shell(guest)?;
        power_off(guest)
    });
}

#[test]
fn triple_fault() {
    let changes = [
        ("panic=1", "panic=1 reboot=t"),
        ("on_reset = \"restart\"", "on_reset = \"stop\""),
    ];
    let config = changed("triple-fault", "linux.toml", &changes).unwrap();
    with_system("triple-fault", Kind::QemuX86, &config, |guest| {
        guest.expect(PROMPT, BOOT)?;
        guest.type_line("reboot");
        guest.expect("(?i)linux.*triple fault", ANSWER)?;
        ensure!(guest.finish(ANSWER)? == End::PowerOff);
        Ok(())
    });
}
