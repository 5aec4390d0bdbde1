//! Which MSRs guests access without an exit: one bitmap for all (Intel SDM 3C 25.6.9).

use super::super::map::ExitMap;

/// Reads of low and of high MSRs, writes of low and of high MSRs.
pub(super) static MSR_BITMAP: ExitMap<512> = ExitMap::new();

/// First bit of the half for writes.
const WRITES: usize = 2048 * 8;

/// Fills the bitmap.
pub(super) fn fill() {
    MSR_BITMAP.fill(|row| row.vmx, place, WRITES);
}

fn place(number: u32) -> usize {
    let half = if number >= 0xc000_0000 { 1024 * 8 } else { 0 };
    half + (number & 0x1fff) as usize
}

#[cfg(test)]
mod tests {
    use super::super::super::table::{self, Access};
    use super::*;

    #[test]
    fn the_bitmap_is_as_the_table_says() {
        fill();
        for number in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
            let mut rows = table::TABLE.iter().filter(|row| row.msrs.contains(&number));
            let access = rows.next().map_or(Access::None, |row| row.vmx.1);
            let exits = [place(number), WRITES + place(number)].map(|bit| MSR_BITMAP.exits(bit));
            let expected = match access {
                Access::All => [false, false],
                Access::Read => [false, true],
                Access::None => [true, true],
            };
            assert_eq!(exits, expected, "{number:#x}");
        }
        // Only these, which are harmless, and in the same test, as there is one bitmap.
        let count =
            |bits: core::ops::Range<usize>| bits.filter(|&bit| !MSR_BITMAP.exits(bit)).count();
        assert_eq!((count(0..WRITES), count(WRITES..2 * WRITES)), (11, 7));
    }
}
