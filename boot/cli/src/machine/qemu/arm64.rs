//! The `virt` machine, emulated by TCG: EL2, and a GICv2 or GICv3 with its virtual CPU interface.

use configs::Gic;

use super::{Hardware, Settings, tcg};

/// The machine.
pub fn hardware(cpu: &str, gic: Gic, settings: &Settings<'_>) -> Hardware {
    let el2 = if settings.virtualization { "on" } else { "off" };
    let board = format!("virt,virtualization={el2},gic-version={}", gic.number());
    // Pointer authentication as the architecture has it would take most of the emulation's time.
    let cpu = match cpu {
        "max" => "max,pauth-impdef=on",
        real => real,
    };
    let accelerator = tcg(settings);
    let mut options = vec!["-M", &board, "-accel", accelerator, "-cpu", cpu];
    if settings.count_instructions {
        // The counter runs at 62.5 MHz: a tick is 16 ns.
        options.extend(["-icount", "shift=4,sleep=off"]);
    }
    Hardware { options: options.into_iter().map(String::from).collect(), emulated: true }
}
