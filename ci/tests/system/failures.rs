//! A program that fails ends alone and is reported; a machine that cannot host VMs says so.

use anyhow::bail;
use bulkhead::machine::Settings;
use ci::{ANSWER, Target, seconds, with_machine};
use configs::Architecture;

use crate::guest::{has_keyboard, next_guest, power_off, prompt_of};

fn a_monitor_that_dies_ends_alone(on: Target) {
    let changes = [("name = \"red\"", "name = \"red\"\nfault_after_ms = 3000")];
    let config = on.two_linux("monitor-dies", &changes).unwrap();
    on.boots(&config, |guests| {
        guests.expect(r"red: .*(fault|exception)", on.boot())?;
        guests.expect(&prompt_of("blue"), on.boot())?;
        next_guest(guests);
        has_keyboard(guests, "blue")?;
        power_off(guests)
    });
}

fn a_console_server_that_dies_is_reported(on: Target) {
    let changes = [("name = \"serial\"", "name = \"serial\"\nfault_after_ms = 3000")];
    let config = on.linux("console-dies", &changes).unwrap();
    on.boots(&config, |guest| guest.expect(r"serial: .*(fault|exception)", on.boot()).map(drop));
}

fn a_cpu_without_an_extension_gets_a_clear_message(on: Target) {
    let config = on.linux("no-extension", &[]).unwrap();
    let image = on.image(&config);
    let mut settings = Settings { virtualization: false, ..Settings::new(config.machine) };
    if on.architecture() == Architecture::Arm64 {
        // Less than users are given: it never ends.
        settings.silence = seconds(10);
    }
    with_machine("no-extension", on, &image, &settings, |machine| {
        match on.architecture() {
            Architecture::X86_64 => {
                // The console server is a native program: it starts.
                machine.expect("started serial", on.boot())?;
                let cause = "linux: the VM does not start: the machine cannot virtualise";
                machine.expect(cause, ANSWER)?;
            }
            // There is no EL2 to start at, and nothing is known to print with: the command says it.
            Architecture::Arm64 => match machine.expect("(?s).+", on.boot()) {
                Err(error) if error.to_string().contains("it needs a CPU with EL2") => {}
                other => bail!("something else than silence: {other:?}"),
            },
        }
        Ok(())
    });
}

tests! {
    a_monitor_that_dies_ends_alone: x86, max_gic2_2cpus;
    a_console_server_that_dies_is_reported: x86, a53_gic2;
    a_cpu_without_an_extension_gets_a_clear_message: x86, a53_gic2, max_gic3;
}
