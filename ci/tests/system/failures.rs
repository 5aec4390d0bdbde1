//! A program that fails ends alone and is reported; a machine that cannot host VMs says so.

use bulkhead::machine::{Kind, Settings};
use ci::{ANSWER, BOOT, changed, with_machine, with_system};

use crate::endings::power_off;

#[test]
fn a_monitor_that_dies_ends_alone() {
    let changes = [("name = \"red\"", "name = \"red\"\nfault_after_ms = 3000")];
    let config = changed("monitor-dies", "two-linux.toml", &changes).unwrap();
    with_system("monitor-dies", Kind::QemuX86, &config, |guests| {
        guests.expect(r"red: .*(fault|exception)", BOOT)?;
        guests.expect(r"\[blue\] linux:\S+# ", BOOT)?;
        guests.send(b"\x14n");
        guests.type_line("echo alive-$((40 + 2))");
        guests.expect(r"\[blue\] alive-42\n", ANSWER)?;
        power_off(guests)
    });
}

#[test]
fn a_console_server_that_dies_is_reported() {
    let changes = [("uart = \"com1\"", "uart = \"com1\"\nfault_after_ms = 3000")];
    let config = changed("console-dies", "linux.toml", &changes).unwrap();
    with_system("console-dies", Kind::QemuX86, &config, |guest| {
        guest.expect(r"serial: .*(fault|exception)", BOOT).map(drop)
    });
}

#[test]
fn a_cpu_without_an_extension_gets_a_clear_message() {
    let config = changed("no-extension", "linux.toml", &[]).unwrap();
    let image = bulkhead::run::image(&config).unwrap_or_else(|e| panic!("{e:#}"));
    let settings = Settings {
        virtualization: false,
        ..Settings::new(config.machine)
    };
    with_machine(
        "no-extension",
        Kind::QemuX86,
        &image,
        &settings,
        |machine| {
            // The console server is a native program: it starts.
            machine.expect("started serial", BOOT)?;
            machine.expect(
                "linux: the VM does not start: the machine cannot virtualise",
                ANSWER,
            )?;
            Ok(())
        },
    );
}
