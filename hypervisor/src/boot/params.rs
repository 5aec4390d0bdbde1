//! What the loader handed over, copied out of its memory and checked.
#![forbid(unsafe_code)]

use crate::addr::HostPhys;

use super::{MemoryMap, PhysRange};

/// Longest command line that is kept, in bytes.
pub const MAX_COMMAND_LINE: usize = 1024;

/// How the kernel was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loader {
    /// PVH: QEMU, Cloud Hypervisor, Xen.
    Pvh,
    /// Multiboot2: GRUB.
    Multiboot2,
    /// A loader of arm64 images.
    Image,
}

/// What the kernel's core gets from boot code. Nothing in it refers to the loader's memory, except the
/// bundle and the RSDP, whose pages are out of [`MemoryMap::usable`].
#[derive(Debug)]
pub struct BootParams {
    /// How the kernel was started.
    pub loader: Loader,
    /// Physical memory. The kernel's image, its low start-up page, page 0 and the bundle are not usable.
    pub memory_map: MemoryMap,
    /// The boot bundle: page-aligned start, below 4 GiB; its size is what the loader loaded.
    pub bundle: Option<PhysRange>,
    /// The kernel's command line.
    pub command_line: CommandLine,
    /// The ACPI root pointer, below 4 GiB.
    pub rsdp: Option<HostPhys>,
    /// Address of the device tree.
    pub device_tree: Option<HostPhys>,
    /// The machine's counter (x86: TSC) when the kernel was entered.
    pub boot_counter: u64,
}

/// The kernel's command line: words separated by spaces.
#[derive(Clone)]
pub struct CommandLine {
    bytes: [u8; MAX_COMMAND_LINE],
    len: usize,
    truncated: bool,
}

impl CommandLine {
    /// Without a word.
    pub const EMPTY: CommandLine = CommandLine {
        bytes: [0; MAX_COMMAND_LINE],
        len: 0,
        truncated: false,
    };

    /// Copies `raw` up to its first zero byte. What is not printable ASCII becomes `?`.
    pub fn new(raw: &[u8]) -> CommandLine {
        let mut line = CommandLine::EMPTY;
        let text = raw.split(|&byte| byte == 0).next().unwrap_or_default();
        for (to, &from) in line.bytes.iter_mut().zip(text) {
            *to = if from == b'\t' { b' ' } else { from };
            if !(b' '..=b'~').contains(to) {
                *to = b'?';
            }
        }
        line.len = text.len().min(MAX_COMMAND_LINE);
        line.truncated = text.len() > MAX_COMMAND_LINE;
        line
    }

    /// All of it: ASCII.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether the loader's line was longer than what is kept.
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }

    fn words(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.text().split(|&byte| byte == b' ')
    }

    /// Whether `word` is among the words.
    pub fn has(&self, word: &str) -> bool {
        self.words().any(|w| w == word.as_bytes())
    }

    /// The value of the last word `key=value`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        self.words().rev().find_map(|word| {
            word.strip_prefix(key.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
        })
    }

    /// The value of the last word `key=value`, if that is a number of up to nine digits.
    pub fn number(&self, key: &str) -> Option<u64> {
        let digits = self.value(key)?;
        let is_number = matches!(digits.len(), 1..=9) && digits.iter().all(u8::is_ascii_digit);
        let number = || digits.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0'));
        is_number.then(number)
    }
}

impl core::fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "\"{}\"", self.text().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_values() {
        let line = CommandLine::new(b"a mitigations=off x=1 x=2 y==\0junk=1");
        assert!(line.has("mitigations=off") && line.has("a"));
        assert!(!line.has("mitigations") && !line.has("junk=1"));
        assert_eq!(line.value("x"), Some(&b"2"[..]));
        assert_eq!(line.number("x"), Some(2));
        assert_eq!(line.value("y"), Some(&b"="[..]));
        assert_eq!(line.number("y"), None);
        assert_eq!(line.value("junk"), None);
        assert_eq!(CommandLine::new(b"").text(), b"");
        for (text, number) in [
            ("12 x", Some(12)),
            ("", None),
            ("-1", None),
            ("1234567890", None),
        ] {
            let line = CommandLine::new(format!("n={text}").as_bytes());
            assert_eq!(line.number("n"), number, "{text}");
        }
    }

    #[test]
    fn hostile_lines() {
        let line = CommandLine::new(b"\xff\x1b[2J\ta");
        assert_eq!(line.text(), b"??[2J a");
        let long = CommandLine::new(&[b'x'; MAX_COMMAND_LINE + 1]);
        assert!(long.is_truncated());
        assert_eq!(long.text().len(), MAX_COMMAND_LINE);
        assert!(!CommandLine::new(&[b'x'; MAX_COMMAND_LINE]).is_truncated());
    }
}
