//! A program that fails ends alone and is reported; a machine that cannot host VMs says so.

use bulkhead::machine::Settings;
use ci::{ANSWER, Target, with_machine};

use crate::endings::power_off;

fn a_monitor_that_dies_ends_alone(on: Target) {
    let changes = [("name = \"red\"", "name = \"red\"\nfault_after_ms = 3000")];
    let config = on.two_linux("monitor-dies", &changes).unwrap();
    on.boots(&config, |guests| {
        guests.expect(r"red: .*(fault|exception)", on.boot())?;
        guests.expect(r"\[blue\] linux:\S+# ", on.boot())?;
        guests.send(b"\x14n");
        guests.type_line("echo alive-$((40 + 2))");
        guests.expect(r"\[blue\] alive-42\n", ANSWER)?;
        power_off(guests)
    });
}

fn a_console_server_that_dies_is_reported(on: Target) {
    let changes = [(
        "name = \"serial\"",
        "name = \"serial\"\nfault_after_ms = 3000",
    )];
    let config = on.linux("console-dies", &changes).unwrap();
    on.boots(&config, |guest| {
        guest
            .expect(r"serial: .*(fault|exception)", on.boot())
            .map(drop)
    });
}

/// The machine cannot virtualise; it has to say `says`.
fn without_virtualization(on: Target, says: &[&str]) {
    let config = on.linux("no-extension", &[]).unwrap();
    let image = bulkhead::run::image(&config).unwrap_or_else(|e| panic!("{e:#}"));
    let settings = Settings {
        virtualization: false,
        ..Settings::new(config.machine)
    };
    with_machine("no-extension", on, &image, &settings, |machine| {
        for text in says {
            machine.expect(text, on.boot())?;
        }
        Ok(())
    });
}

fn a_cpu_without_an_extension_gets_a_clear_message(on: Target) {
    // The console server is a native program: it starts.
    let cause = "linux: the VM does not start: the machine cannot virtualise";
    without_virtualization(on, &["started serial", cause]);
}

tests! {
    a_monitor_that_dies_ends_alone: x86, max_gic2_2cpus;
    a_console_server_that_dies_is_reported: x86, a53_gic2;
    a_cpu_without_an_extension_gets_a_clear_message: x86;
}
