//! `check`: verifies a system's description, the guest files it names included.

use std::path::Path;

use anyhow::Result;
use configs::{
    CONSOLE_PROGRAM, Config, Diagnostic, Diagnostics, MONITOR_PROGRAM, Overrides, Place, size,
};

use crate::artifacts::{PROGRAMS, ROOT_TASK};
use crate::workspace;

/// Loads and verifies a description.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config> {
    let config = configs::load(&workspace::resolve(path), overrides)?;
    let known = natives();
    let mut natives = config.system.natives.iter();
    if let Some(native) =
        natives.find(|native| !known.contains(&native.compartment.program.as_str()))
    {
        let message = format!(
            "`{}`: there is no program `{}` that runs by itself",
            native.name, native.compartment.program
        );
        let help = match known.as_slice() {
            [] => "remove the [[native]] table: no such program comes with Bulkhead yet".into(),
            known => format!("there are: {}", known.join(", ")),
        };
        let place = Place::File(path.into());
        return Err(Diagnostics::from(Diagnostic::new(place, message, help)).into());
    }
    Ok(config)
}

/// The programs that a `[[native]]` table can name: those that are no other part's.
fn natives() -> Vec<&'static str> {
    let others = [ROOT_TASK, CONSOLE_PROGRAM, MONITOR_PROGRAM];
    let names = PROGRAMS.iter().map(|(name, _)| *name);
    names.filter(|name| !others.contains(name)).collect()
}

/// Says in one line what a verified description asks for.
pub fn summary(config: &Config) -> String {
    let system = &config.system;
    let vms: Vec<String> = system
        .vms
        .iter()
        .map(|vm| {
            format!(
                "{} ({}, {} vCPU)",
                vm.name,
                size::show(vm.memory.bytes()),
                vm.vcpus.as_slice().len()
            )
        })
        .collect();
    format!("{}: machine: {}; VMs: {}", system.name, config.machine, vms.join(", "))
}
