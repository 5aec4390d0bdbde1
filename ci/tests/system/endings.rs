//! Every way in which a guest ends.

use anyhow::ensure;
use bulkhead::machine::End;
use ci::{ANSWER, PROMPT, Target};

use crate::guest::{cpus, is_well, power_off, shell};

fn shell_and_power_off(on: Target) {
    let config = on.linux("shell", &[]).unwrap();
    on.boots(&config, |guest| {
        guest.expect(r"started linux", on.boot())?;
        guest.expect(&cpus(on.cpus), on.boot())?;
        guest.expect(r"Memory: +4\d\d MiB", ANSWER)?;
        shell(on, guest)?;
        // Job control: an interrupt reaches what runs, not the shell.
        guest.type_line("sleep 1000 # long");
        guest.expect("long\n", ANSWER)?;
        guest.type_line("");
        std::thread::sleep(ci::seconds(2));
        guest.send(b"\x03");
        guest.expect(PROMPT, ANSWER)?;
        is_well(on, guest)?;
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
        guest.expect(&cpus(on.cpus), on.boot())?;
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
    let changes =
        [("panic=1", "panic=1 reboot=t"), ("on_reset = \"restart\"", "on_reset = \"stop\"")];
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
