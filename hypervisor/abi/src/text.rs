//! Numbers and words in messages.
//!
//! Small, for the kernel's sake: what `core` has for the same purpose knows widths, fills and signs, and takes 4 KiB.

use core::fmt::{Display, Formatter, Result, Write};

/// A number in decimal.
pub struct Dec(pub u64);

/// A number in hexadecimal, after `0x`.
pub struct Hex(pub u64);

/// Words as they are.
pub struct Text<'a>(pub &'a str);

impl Display for Dec {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        digits(f, self.0, 10)
    }
}

impl Display for Hex {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str("0x")?;
        digits(f, self.0, 16)
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.0)
    }
}

/// Writes `value` to a `base` of 2 to 36, in up to 64 calls of itself.
fn digits(f: &mut Formatter<'_>, value: u64, base: u64) -> Result {
    if value >= base {
        digits(f, value / base, base)?;
    }
    let digit = (value % base) as u8;
    let first = if digit < 10 { b'0' } else { b'a' - 10 };
    f.write_char(char::from(first + digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_core_writes_them() {
        for value in [0, 9, 10, 15, 16, 255, 0xffff_8000_1234_abcd, u64::MAX] {
            assert_eq!(Dec(value).to_string(), value.to_string());
            assert_eq!(Hex(value).to_string(), format!("{value:#x}"));
        }
        assert_eq!(Text("words").to_string(), "words");
    }
}
