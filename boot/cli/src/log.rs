//! `--log`: everything printed, each line with the name of its console.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use configs::OWN_NAMES;
use image::system::System;

use crate::watch::{LONGEST, Plain};

/// A log file.
#[derive(Debug)]
pub struct Log {
    file: File,
    prefix: Option<String>,
    /// Beginnings of lines that are no console's.
    own: Vec<String>,
    plain: Plain,
    line: Vec<u8>,
    /// The beginning of this line is in the file.
    goes_on: bool,
}

impl Log {
    /// Creates the file for a system. With several consoles the console server itself writes the name before each
    /// line; with one it does not.
    pub fn create(path: &Path, system: &System) -> Result<Log> {
        let file = File::create(path)
            .with_context(|| format!("--log: {} cannot be written", path.display()))?;
        let mut names = system.vms.iter().filter(|vm| vm.console.is_some()).map(|vm| &vm.name);
        let prefix = match (names.next(), names.next()) {
            (Some(name), None) => Some(format!("[{name}] ")),
            _ => None,
        };
        let own = OWN_NAMES.iter().map(|name| format!("{name}: "));
        let own = own.chain(system.names().map(|name| format!("{name}: "))).collect();
        Ok(Log { file, prefix, own, plain: Plain::default(), line: Vec::new(), goes_on: false })
    }

    /// Takes more output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut text = Vec::new();
        self.plain.take(bytes, &mut text);
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") || self.line.len() > LONGEST {
                self.write()?;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        if let Some(prefix) = &self.prefix
            && !self.goes_on
            && !self.own.iter().any(|own| self.line.starts_with(own.as_bytes()))
        {
            self.line.splice(0..0, prefix.bytes());
        }
        self.goes_on = !self.line.ends_with(b"\n");
        self.file.write_all(&self.line).context("the log cannot be written")?;
        self.line.clear();
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if self.goes_on || !self.line.is_empty() {
            self.line.push(b'\n');
            let _ = self.write();
        }
    }
}
