//! Sets of small numbers, as the bits of a word.

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

#[cfg(test)]
mod tests {
    #[test]
    fn each_bit_has_its_number() {
        let numbers: Vec<u32> = super::ones(1 << 63 | 0b1001).collect();
        assert_eq!(numbers, [0, 3, 63]);
        assert_eq!(super::ones(0).next(), None);
    }
}
