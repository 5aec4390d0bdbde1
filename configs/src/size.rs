//! Sizes as people write them: `"512 MiB"`.

/// Units, largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// How a size is written, for messages.
pub const HELP: &str = "write a size as a string with its unit: \"512 MiB\" (KiB, MiB or GiB)";

/// Reads a size with its unit; `None` if it is none or does not fit.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.trim();
    let (digits, unit) =
        UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    digits.trim_end().parse::<u64>().ok()?.checked_mul(*unit)
}

/// Writes a size with the largest unit that gives a whole number; bytes if none does.
pub fn show(bytes: u64) -> String {
    match UNITS.iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{} {name}", bytes / unit),
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for text in ["512 MiB", "2 GiB", "3 KiB"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(parse("1GiB"), Some(1 << 30));
        for bad in [
            "",
            "12",
            "MiB",
            "-1 MiB",
            "1.5 GiB",
            "1 GB",
            "99999999999999999999 KiB",
            "17179869184 GiB",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
