//! A shell to type into, and every way in which a guest ends.

use anyhow::{Result, ensure};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{End, Kind};
use ci::{ANSWER, PROMPT, Target};

/// The guest's shell, reached and working, with a vCPU on each CPU.
pub fn shell(on: Target, guest: &mut Dialogue) -> Result<()> {
    shell_with(on, guest, on.cpus)
}

/// The guest's shell, reached and working, with this many vCPUs.
pub fn shell_with(on: Target, guest: &mut Dialogue, vcpus: u32) -> Result<()> {
    guest.expect(PROMPT, on.boot())?;
    guest.type_line("echo $((6 * 7)); uname -sm; nproc");
    let answer = format!("\n42\nLinux {}\n{vcpus}\n", on.uname());
    guest.expect(&answer, ANSWER)?;
    guest.expect(PROMPT, ANSWER)?;
    Ok(())
}

/// What the guest says about its CPUs while it starts.
fn cpus(on: Target) -> String {
    format!(r"CPUs: +{} ", on.cpus)
}

/// The source of a guest's time.
pub fn clock(on: Target) -> &'static str {
    match on.kind {
        Kind::QemuX86 => "kvm-clock",
        // Linux prefers it where the CPU says that it never stops.
        Kind::Bochs => "tsc",
        Kind::QemuArm64 => "arch_sys_counter",
    }
}

/// Switches the guest off; the machine has to follow.
pub fn power_off(guest: &mut Dialogue) -> Result<()> {
    guest.type_line("poweroff");
    let end = guest.finish(ANSWER)?;
    ensure!(end == End::PowerOff, "the machine ended with {end:?}");
    Ok(())
}

fn shell_and_power_off(on: Target) {
    let config = on.linux("shell", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(r"started linux", on.boot())?;
        guest.expect(&cpus(on), on.boot())?;
        guest.expect(r"Memory: +4\d\d MiB", ANSWER)?;
        shell(on, guest)?;
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
        guest.expect(&format!("\n{}\n", clock(on)), ANSWER)?;
        guest.expect(PROMPT, ANSWER)?;
        power_off(guest)
    });
}

fn the_end_of_the_shell_is_the_end_of_the_machine(on: Target) {
    let config = on.linux("exit", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(PROMPT, on.boot())?;
        guest.type_line("exit");
        ensure!(guest.finish(ANSWER)? == End::PowerOff);
        Ok(())
    });
}

fn reboot(on: Target) {
    let config = on.linux("reboot", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(PROMPT, on.boot())?;
        guest.type_line("echo remains > /tmp/file; reboot");
        guest.expect(&cpus(on), on.boot())?;
        shell(on, guest)?;
        guest.type_line("ls /tmp/file");
        guest.expect("No such file", ANSWER)?;
        power_off(guest)
    });
}

fn panic(on: Target) {
    let config = on.linux("panic", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(PROMPT, on.boot())?;
        guest.type_line("echo c > /proc/sysrq-trigger");
        guest.expect("Kernel panic - not syncing", ANSWER)?;
        // The kernel's panic=1 makes it a reboot.
        shell(on, guest)?;
        power_off(guest)
    });
}

fn triple_fault(on: Target) {
    let changes = [
        ("panic=1", "panic=1 reboot=t"),
        ("on_reset = \"restart\"", "on_reset = \"stop\""),
    ];
    let config = on.linux("triple-fault", &changes).unwrap();
    on.boots(&config, |guest| {
        guest.expect(PROMPT, on.boot())?;
        guest.type_line("reboot");
        guest.expect("(?i)linux.*triple fault", ANSWER)?;
        ensure!(guest.finish(ANSWER)? == End::PowerOff);
        Ok(())
    });
}

tests! {
    shell_and_power_off: x86, bochs_2cpus, max_gic3, a53_gic2_4cpus;
    the_end_of_the_shell_is_the_end_of_the_machine: x86, a53_gic2;
    reboot: x86, bochs, max_gic3, a72_gic3_4cpus;
    panic: x86, a53_gic3_2cpus;
    triple_fault: x86;
}
