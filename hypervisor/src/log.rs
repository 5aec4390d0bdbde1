//! What the kernel reports: lines of its log, and last words on the debug UART.

use crate::{arch, logring};
use abi::text::Text;
use core::fmt::{self, Write};

/// Longest line, in bytes.
const LINE: usize = 256;

/// Reports something.
macro_rules! info {
    ($($text:tt)+) => { $crate::log::report("", format_args!($($text)+)) };
}

/// Reports something that its reader may want to change.
macro_rules! warning {
    ($($text:tt)+) => { $crate::log::report("warning: ", format_args!($($text)+)) };
}

pub(crate) use {info, warning};

/// A line, cut to its length. Nothing here can panic, as panics are printed this way.
struct Line {
    bytes: [u8; LINE],
    used: usize,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        self.used += logring::copy(self.bytes.get_mut(self.used..).unwrap_or_default(), bytes);
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }

    /// For digits; the kernel has no text but ASCII.
    fn write_char(&mut self, char: char) -> fmt::Result {
        self.push(&[char as u8]);
        Ok(())
    }
}

/// Hands the line that `text` makes to `sink`.
#[inline(never)]
fn format(text: fmt::Arguments<'_>, sink: fn(&[u8])) {
    let mut line = Line { bytes: [0; LINE], used: 0 };
    // Fails only if a Display implementation does; the rest of the line is lost then.
    let _ = line.write_fmt(text);
    // Where a line ends that was cut.
    line.bytes[LINE - 1] = b'\n';
    sink(line.bytes.get(..line.used).unwrap_or_default());
}

/// Appends a line to the kernel's log, after the word for its `kind`.
#[inline(never)]
pub fn report(kind: &str, text: fmt::Arguments<'_>) {
    format(format_args!("bulkhead: {}{text}\n", Text(kind)), logring::append);
}

/// Prints a line on the debug UART, whoever has the log. It takes no lock.
pub fn print(text: fmt::Arguments<'_>) {
    format(text, arch::early_output);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_and_end() {
        format(format_args!("{}, {}\n", Text("a"), abi::text::Dec(7)), |line| {
            assert_eq!(line, b"a, 7\n");
        });
        format(format_args!("{}\n", Text(&"x".repeat(LINE))), |line| {
            assert_eq!((line.len(), line[LINE - 2], line[LINE - 1]), (LINE, b'x', b'\n'));
        });
    }
}
