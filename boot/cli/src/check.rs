//! `check`: verifies a system's description, the guest files it names included.

use std::path::Path;

use anyhow::Result;
use configs::{Config, Overrides, size};

use crate::workspace;

/// Loads and verifies a description.
pub fn load(path: &Path, overrides: &Overrides) -> Result<Config> {
    let config = configs::load(&workspace::resolve(path), overrides)?;
    for compartment in config.system.compartments() {
        let program = compartment.program.as_str();
        let known = crate::artifacts::PROGRAMS.iter().map(|(name, _)| *name);
        let known: Vec<&str> = known
            .filter(|name| *name != crate::artifacts::ROOT_TASK)
            .collect();
        if !known.contains(&program) {
            return Err(configs::Diagnostics::from(configs::Diagnostic::new(
                configs::Place::File(path.into()),
                format!("there is no program `{program}`"),
                format!("there are: {}", known.join(", ")),
            ))
            .into());
        }
    }
    Ok(config)
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
    format!(
        "{}: machine: {}; VMs: {}",
        system.name,
        config.machine,
        vms.join(", ")
    )
}
