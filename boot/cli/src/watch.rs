//! Looks at what a machine prints: for the pattern that a script waits for, and for the hypervisor's panic.

use regex::Regex;

/// Beginnings of the line with which a hypervisor that cannot go on says so.
const PANICS: [&str; 2] = ["bulkhead: panic:", "KERNEL PANIC"];

/// A line longer than this is taken in parts.
pub const LONGEST: usize = 8192;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The pattern, on a line or on the line that is being written.
    Pattern,
    /// The hypervisor's panic, with its line.
    Panic(String),
}

/// Text out of a terminal's bytes: without carriage returns and control sequences.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    state: Sequence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
}

impl Plain {
    /// Adds the text of `bytes`, which go on where the last ones ended, to `out`.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => Sequence::Escape,
                (Sequence::Escape, b'[') => Sequence::Control,
                (Sequence::Control, 0x20..=0x3f) => Sequence::Control,
                (Sequence::Escape | Sequence::Control, _) => Sequence::None,
                (Sequence::None, b'\n' | b'\t' | b' '..=0x7e | 0x80..) => {
                    out.push(*byte);
                    Sequence::None
                }
                (Sequence::None, _) => Sequence::None,
            };
        }
    }
}

/// Watches a machine's output.
#[derive(Debug, Default)]
pub struct Watch {
    until: Option<Regex>,
    plain: Plain,
    line: Vec<u8>,
}

impl Watch {
    /// Watches for `until`, where there is one, and for panics.
    pub fn new(until: Option<Regex>) -> Watch {
        Watch { until, ..Watch::default() }
    }

    /// Takes more output; the first thing found in it.
    pub fn take(&mut self, bytes: &[u8]) -> Option<Found> {
        let mut text = Vec::new();
        self.plain.take(bytes, &mut text);
        for part in text.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            let found = self.look();
            if found.is_some() {
                return found;
            }
            if part.ends_with(b"\n") || self.line.len() > LONGEST {
                self.line.clear();
            }
        }
        None
    }

    fn look(&self) -> Option<Found> {
        let line = String::from_utf8_lossy(&self.line);
        let line = line.trim_end_matches('\n');
        if self.until.as_ref().is_some_and(|pattern| pattern.is_match(line)) {
            return Some(Found::Pattern);
        }
        let whole = self.line.ends_with(b"\n");
        (whole && PANICS.iter().any(|panic| line.starts_with(panic)))
            .then(|| Found::Panic(line.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_and_panics() {
        let watch = || Watch::new(Some(Regex::new(r"^linux:~# $").unwrap()));
        assert_eq!(watch().take(b"\x1b[1;32mlinux:~# "), Some(Found::Pattern));
        let mut parts = watch();
        assert_eq!(parts.take(b"text\r\nlinux:"), None);
        assert_eq!(parts.take(b"~# "), Some(Found::Pattern));
        assert_eq!(watch().take(b"echo linux:~# "), None);
        assert_eq!(
            watch().take(b"a\r\nbulkhead: panic: cause\r\n"),
            Some(Found::Panic("bulkhead: panic: cause".into()))
        );
        assert_eq!(watch().take(b"a bulkhead: panic: cause\r\n"), None);
    }
}
