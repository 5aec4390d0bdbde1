//! Bits of words: sets of small numbers, and integers that are narrower.

/// The numbers in a set, ascending.
#[inline]
pub fn ones(mut set: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let number = set.trailing_zeros();
        set &= set - 1;
        Some(number)
    })
}

/// The lower `size` bytes of a value.
pub const fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sign-extends the lower `size` bytes of a value.
pub const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn each_bit_has_its_number() {
        let numbers: Vec<u32> = super::ones(1 << 63 | 0b1001).collect();
        assert_eq!(numbers, [0, 3, 63]);
        assert_eq!(super::ones(0).next(), None);
    }
}
