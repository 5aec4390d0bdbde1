//! A conversation with a machine's console, for tests and measurements.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use regex::Regex;

use crate::machine::{End, Event, Running};
use crate::watch::{Found, Plain, Watch};

/// A machine with all that it has said.
pub struct Dialogue {
    running: Running,
    plain: Plain,
    watch: Watch,
    said: Vec<u8>,
    /// What lies before it has been answered.
    seen: usize,
    end: Option<End>,
}

impl Dialogue {
    /// Starts a conversation.
    pub fn new(running: Running) -> Dialogue {
        Dialogue {
            running,
            plain: Plain::default(),
            watch: Watch::default(),
            said: Vec::new(),
            seen: 0,
            end: None,
        }
    }

    /// All that the machine has said, without control sequences.
    pub fn transcript(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    /// Sends bytes.
    pub fn send(&self, bytes: &[u8]) {
        self.running.input().send(bytes);
    }

    /// Types a line.
    pub fn type_line(&self, line: &str) {
        self.send(format!("{line}\r").as_bytes());
    }

    /// Process number of the emulator.
    pub fn process(&mut self) -> u32 {
        self.running.process()
    }

    /// Takes what comes next; whether anything can still come.
    fn listen(&mut self, limit: Duration) -> Result<bool> {
        if self.end.is_some() {
            return Ok(false);
        }
        match self.running.next(limit)? {
            Event::Output(bytes) => {
                self.plain.take(&bytes, &mut self.said);
                if let Some(Found::Panic(line)) = self.watch.take(&bytes) {
                    bail!("the hypervisor panicked: {line}");
                }
            }
            Event::Quiet => {}
            Event::End(end) => self.end = Some(end),
        }
        Ok(true)
    }

    /// Waits until `pattern` appears after what the last wait found; returns the text of the match's first
    /// group, or of all of it.
    pub fn expect(&mut self, pattern: &str, limit: Duration) -> Result<String> {
        let regex = Regex::new(pattern)?;
        let start = Instant::now();
        loop {
            let text = String::from_utf8_lossy(&self.said[self.seen..]);
            if let Some(captures) = regex.captures(&text) {
                let found =
                    captures.get(1).or(captures.get(0)).map_or("", |m| m.as_str()).to_string();
                // Lossy text may be longer than the bytes; consoles here are ASCII.
                let end = captures.get(0).map_or(0, |m| m.end());
                self.seen = (self.seen + end).min(self.said.len());
                return Ok(found);
            }
            if let Some(end) = &self.end {
                bail!("the machine ended ({end:?}) before `{pattern}` appeared");
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                bail!("`{pattern}` did not appear within {} s", limit.as_secs());
            }
            self.listen(left)?;
        }
    }

    /// Waits for `count` more bytes after what the last wait found, and returns them.
    pub fn take(&mut self, count: usize, limit: Duration) -> Result<Vec<u8>> {
        let start = Instant::now();
        while self.said.len() - self.seen < count {
            let have = self.said.len() - self.seen;
            if let Some(end) = &self.end {
                bail!("the machine ended ({end:?}) after {have} bytes of {count}");
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                bail!("{have} bytes of {count} came within {} s", limit.as_secs());
            }
            self.listen(left)?;
        }
        let taken = self.said[self.seen..self.seen + count].to_vec();
        self.seen += count;
        Ok(taken)
    }

    /// Waits for the machine's end.
    pub fn finish(&mut self, limit: Duration) -> Result<End> {
        let start = Instant::now();
        loop {
            if let Some(end) = &self.end {
                return Ok(end.clone());
            }
            let left = limit.saturating_sub(start.elapsed());
            if left.is_zero() {
                bail!("the machine still runs after {} s", limit.as_secs());
            }
            self.listen(left)?;
        }
    }
}
