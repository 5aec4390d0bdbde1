//! What the loader handed over, copied out of its memory and checked.
#![forbid(unsafe_code)]

use crate::addr::HostPhys;

use super::{MemoryMap, PhysRange};

/// Longest command line that is kept, in bytes.
pub const MAX_COMMAND_LINE: usize = 1024;

/// What the kernel's core gets from boot code. Nothing in it refers to the loader's memory, except the
/// bundle and the RSDP, whose pages are out of [`MemoryMap::usable`].
#[derive(Debug)]
pub struct BootParams {
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

impl BootParams {
    /// Nothing so far.
    pub const EMPTY: BootParams = BootParams {
        memory_map: MemoryMap::empty(),
        bundle: None,
        command_line: CommandLine::EMPTY,
        rsdp: None,
        device_tree: None,
        boot_counter: 0,
    };
}

/// The kernel's command line: words separated by spaces.
#[derive(Clone)]
pub struct CommandLine {
    bytes: [u8; MAX_COMMAND_LINE],
    len: usize,
}

impl CommandLine {
    /// Without a word.
    pub const EMPTY: CommandLine = CommandLine { bytes: [0; MAX_COMMAND_LINE], len: 0 };

    /// Copies `raw` up to its first zero byte. What is not printable ASCII becomes `?`.
    pub fn set(&mut self, raw: &[u8]) {
        let text = raw.iter().take_while(|&&byte| byte != 0);
        self.len = 0;
        for (to, &byte) in self.bytes.iter_mut().zip(text) {
            *to = match byte {
                b'\t' => b' ',
                b' '..=b'~' => byte,
                _ => b'?',
            };
            self.len += 1;
        }
    }

    /// All of it: ASCII.
    pub fn text(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The value of the last word `key=value`.
    pub fn value(&self, key: &str) -> Option<&[u8]> {
        let mut words = self.text().rsplit(|&byte| byte == b' ');
        words.find_map(|word| {
            // Byte by byte, as in `acpi`.
            let mut rest = word.iter();
            let is_key = key.bytes().all(|byte| rest.next() == Some(&byte));
            rest.as_slice().strip_prefix(b"=").filter(|_| is_key)
        })
    }

    /// Whether measures against speculation are wanted.
    pub fn mitigates(&self) -> bool {
        self.value("mitigations") != Some(b"off")
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

    fn line(raw: &[u8]) -> CommandLine {
        let mut line = CommandLine::EMPTY;
        line.set(raw);
        line
    }

    #[test]
    fn words_and_values() {
        let all = line(b"a mitigations=off x=1 x=2 y==\0junk=1");
        assert!(!all.mitigates() && line(b"mitigations=on mitigations").mitigates());
        assert_eq!(all.value("x"), Some(&b"2"[..]));
        assert_eq!(all.number("x"), Some(2));
        assert_eq!(all.value("y"), Some(&b"="[..]));
        assert_eq!(all.number("y"), None);
        assert_eq!(all.value("junk"), None);
        assert_eq!(line(b"").text(), b"");
        for (text, number) in [("12 x", Some(12)), ("", None), ("-1", None), ("1234567890", None)] {
            let words = format!("n={text}");
            assert_eq!(line(words.as_bytes()).number("n"), number, "{text}");
        }
    }

    #[test]
    fn hostile_lines() {
        assert_eq!(line(b"\xff\x1b[2J\ta").text(), b"??[2J a");
        let long = line(&[b'x'; MAX_COMMAND_LINE + 1]);
        assert_eq!(long.text().len(), MAX_COMMAND_LINE);
    }
}
