//! `--log`: everything printed, each line with the name of its console.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use image::system::System;

use crate::watch::Plain;

/// Beginning of the lines that are no console's: those of the hypervisor and the root task.
const OWN_LINES: &str = "bulkhead";

/// A log file.
#[derive(Debug)]
pub struct Log {
    file: File,
    prefix: Option<String>,
    plain: Plain,
    line: Vec<u8>,
}

impl Log {
    /// Creates the file for a system. With several consoles the console server itself writes the name before each
    /// line; with one it does not.
    pub fn create(path: &Path, system: &System) -> Result<Log> {
        let file = File::create(path)
            .with_context(|| format!("--log: {} cannot be written", path.display()))?;
        let mut names = system
            .vms
            .iter()
            .filter(|vm| vm.console.is_some())
            .map(|vm| &vm.name);
        let prefix = match (names.next(), names.next()) {
            (Some(name), None) => Some(format!("{name}| ")),
            _ => None,
        };
        Ok(Log {
            file,
            prefix,
            plain: Plain::default(),
            line: Vec::new(),
        })
    }

    /// Takes more output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let mut text = Vec::new();
        self.plain.take(bytes, &mut text);
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                self.end_line()?;
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        if let Some(prefix) = &self.prefix
            && !self.line.starts_with(OWN_LINES.as_bytes())
        {
            self.line.splice(0..0, prefix.bytes());
        }
        self.file
            .write_all(&self.line)
            .context("the log cannot be written")?;
        self.line.clear();
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.line.push(b'\n');
            let _ = self.end_line();
        }
    }
}
