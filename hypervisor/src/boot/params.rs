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

    /// All of it.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }

    /// Whether the loader's line was longer than what is kept.
    pub const fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Whether `word` is among the words.
    pub fn has(&self, word: &str) -> bool {
        self.as_str().split(' ').any(|w| w == word)
    }

    /// The value of the last word `key=value`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.as_str()
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .rfind(|(name, _)| *name == key)
            .map(|(_, value)| value)
    }
}

impl core::fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.as_str())
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
        assert_eq!(line.value("x"), Some("2"));
        assert_eq!(line.value("y"), Some("="));
        assert_eq!(line.value("junk"), None);
        assert_eq!(CommandLine::new(b"").as_str(), "");
    }

    #[test]
    fn hostile_lines() {
        let line = CommandLine::new(b"\xff\x1b[2J\ta");
        assert_eq!(line.as_str(), "??[2J a");
        let long = CommandLine::new(&[b'x'; MAX_COMMAND_LINE + 1]);
        assert!(long.is_truncated());
        assert_eq!(long.as_str().len(), MAX_COMMAND_LINE);
        assert!(!CommandLine::new(&[b'x'; MAX_COMMAND_LINE]).is_truncated());
    }
}
