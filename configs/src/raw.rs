//! The TOML file as it is written, before anything but its shape is checked.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::diagnostic::{Diagnostic, Diagnostics, line};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct System {
    pub name: Option<Spanned<String>>,
    pub machine: Machine,
    #[serde(default)]
    pub console: Vec<Console>,
    #[serde(default)]
    pub vm: Vec<Vm>,
    #[serde(default)]
    pub native: Vec<Native>,
}

/// `[machine]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    pub architecture: Option<Spanned<String>>,
    pub memory: Spanned<String>,
    pub cpus: Spanned<u32>,
    pub cpu: Option<Spanned<String>>,
    pub gic: Option<Spanned<u32>>,
}

/// `[[console]]`: a console server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    pub name: Spanned<String>,
    pub uart: Spanned<String>,
    pub cpu: Option<Spanned<u32>>,
    pub priority: Option<Spanned<u8>>,
    pub kernel_memory: Option<Spanned<String>>,
    pub program_memory: Option<Spanned<String>>,
    pub fault_after_ms: Option<u32>,
}

/// `[[vm]]`: a virtual machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vm {
    pub name: Spanned<String>,
    pub memory: Spanned<String>,
    pub memory_at: Option<Spanned<String>>,
    pub vcpus: Spanned<Vec<Spanned<u32>>>,
    pub kernel: Spanned<String>,
    pub initrd: Option<Spanned<String>>,
    pub cmdline: Spanned<String>,
    pub console: Option<Spanned<String>>,
    pub on_reset: Option<Spanned<String>>,
    pub on_crash: Option<Spanned<String>>,
    pub priority: Option<Spanned<u8>>,
    pub kernel_memory: Option<Spanned<String>>,
    pub program_memory: Option<Spanned<String>>,
    pub fault_after_ms: Option<u32>,
}

/// `[[native]]`: a program that runs directly on the hypervisor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Native {
    pub name: Spanned<String>,
    pub program: Spanned<String>,
    pub args: Option<Spanned<String>>,
    pub cpu: Option<Spanned<u32>>,
    pub priority: Option<Spanned<u8>>,
    pub kernel_memory: Option<Spanned<String>>,
    pub program_memory: Option<Spanned<String>>,
    pub fault_after_ms: Option<u32>,
}

/// Reads the shape of the file.
pub fn parse(path: &Path, text: &str) -> Result<System, Diagnostics> {
    toml::from_str(text).map_err(|e| {
        let place = line(path, text, e.span().map_or(0, |span| span.start));
        let message = e.message().trim().replace('\n', ", ");
        let help = if message.starts_with("unknown field") {
            "check the spelling, or remove the key"
        } else if message.starts_with("missing field") {
            "add the key to this table; configs/linux.toml shows all that are needed"
        } else if message.ends_with("expected u8") || message.ends_with("expected u32") {
            "write a whole number, without a sign and quotes"
        } else if message == "invalid type: map, expected a sequence" {
            "write the table's name in two pairs of brackets, such as [[vm]]: there can be several"
        } else if message.starts_with("invalid type") || message.starts_with("invalid value") {
            "correct the value; configs/linux.toml shows how each is written"
        } else {
            "correct the TOML; configs/linux.toml is an example"
        };
        Diagnostic::new(place, message, help).into()
    })
}
