//! What the program prints, line by line.

/// Most bytes of a line; what is longer goes on in another one.
const LINE: usize = 120;

/// Where lines go.
pub trait Lines {
    /// Takes a line without its end: printable characters of ASCII only.
    fn line(&mut self, text: &str);
}

/// Text that has not come to the end of its line.
#[derive(Debug)]
pub struct Output {
    bytes: [u8; LINE],
    length: usize,
}

impl Output {
    /// Nothing printed yet.
    pub const fn new() -> Output {
        Output { bytes: [0; LINE], length: 0 }
    }

    /// Prints a byte. What could move a terminal's cursor, or is part of a longer character, becomes a question mark.
    pub fn print(&mut self, byte: u8, lines: &mut impl Lines) {
        if byte == b'\n' {
            return self.flush(lines);
        }
        if self.length == LINE {
            self.flush(lines);
        }
        let printable = byte == b' ' || byte.is_ascii_graphic();
        self.bytes[self.length] = if printable { byte } else { b'?' };
        self.length += 1;
    }

    /// Ends the line.
    pub fn flush(&mut self, lines: &mut impl Lines) {
        // The bytes are ASCII.
        lines.line(core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default());
        self.length = 0;
    }

    /// Ends the line, if there is one.
    pub fn finish(&mut self, lines: &mut impl Lines) {
        if self.length != 0 {
            self.flush(lines);
        }
    }
}

impl Default for Output {
    fn default() -> Output {
        Output::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Lines for Vec<String> {
        fn line(&mut self, text: &str) {
            self.push(text.into());
        }
    }

    #[test]
    fn lines_are_whole_and_harmless() {
        let (mut output, mut lines) = (Output::new(), Vec::new());
        for byte in b"one\n\ntw\x1b[2J\xc3\xa4" {
            output.print(*byte, &mut lines);
        }
        output.finish(&mut lines);
        output.finish(&mut lines);
        assert_eq!(lines, ["one", "", "tw?[2J??"]);
        for _ in 0..2 * LINE + 1 {
            output.print(b'x', &mut lines);
        }
        assert_eq!(lines.len(), 5);
        assert_eq!(lines[4], "x".repeat(LINE));
    }
}
