//! What tests do with guests.

use anyhow::{Result, ensure};
use bulkhead::dialogue::Dialogue;
use bulkhead::machine::{End, Kind};
use ci::{ANSWER, PROMPT, Target};

/// What a guest with this many vCPUs says about them while it starts.
pub fn cpus(vcpus: u32) -> String {
    format!(r"CPUs: +{vcpus} ")
}

/// The guest's shell, reached and working, with a vCPU on each CPU.
pub fn shell(on: Target, guest: &mut Dialogue) -> Result<()> {
    shell_with(on, guest, on.cpus)
}

/// The guest's shell, reached and working, with this many vCPUs.
pub fn shell_with(on: Target, guest: &mut Dialogue, vcpus: u32) -> Result<()> {
    guest.expect(PROMPT, on.boot())?;
    let answer = format!("\n42\nLinux {}\n{vcpus}\n", on.uname());
    ask(guest, "echo $((6 * 7)); uname -sm; nproc", &answer)
}

/// Types a command; its answer has to come, and the prompt after it.
pub fn ask(guest: &mut Dialogue, command: &str, answer: &str) -> Result<()> {
    guest.type_line(command);
    guest.expect(answer, ANSWER)?;
    guest.expect(PROMPT, ANSWER)?;
    Ok(())
}

/// The guest's kernel has not complained, and has the clock that it should have.
pub fn is_well(on: Target, guest: &mut Dialogue) -> Result<()> {
    ask(guest, "dmesg | grep -ciE 'bug:|oops|call trace'", "\n0\n")?;
    let clock = match on.kind {
        Kind::QemuX86 => "kvm-clock",
        // Linux prefers it where the CPU says that it never stops.
        Kind::Bochs => "tsc",
        Kind::QemuArm64 => "arch_sys_counter",
    };
    ask(
        guest,
        "cat /sys/devices/system/clocksource/clocksource0/current_clocksource",
        &format!("\n{clock}\n"),
    )
}

/// Switches the guest off; the machine has to follow.
pub fn power_off(guest: &mut Dialogue) -> Result<()> {
    guest.type_line("poweroff");
    let end = guest.finish(ANSWER)?;
    ensure!(end == End::PowerOff, "the machine ended with {end:?}");
    Ok(())
}

/// The prompt of one of several guests.
pub fn prompt_of(name: &str) -> String {
    format!(r"\[{name}\] linux:\S+# ")
}

/// Moves the keyboard to the next of several guests: Ctrl-T n.
pub fn next_guest(guests: &mut Dialogue) {
    guests.send(b"\x14n");
}

/// What is typed goes to this one of several guests, and it answers.
pub fn has_keyboard(guests: &mut Dialogue, name: &str) -> Result<()> {
    guests.type_line("echo here-is-$((40 + 2))");
    guests.expect(&format!(r"\[{name}\] here-is-42\n"), ANSWER)?;
    Ok(())
}
