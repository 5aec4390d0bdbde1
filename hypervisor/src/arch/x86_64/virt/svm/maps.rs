//! What guests do without an exit: no port, and MSRs that VMLOAD, VMSAVE and VMRUN switch. One pair of maps
//! for all (AMD APM 2 15.10, 15.11).

use super::super::map::ExitMap;

/// I/O permission map: three pages.
pub(super) static PORT_MAP: ExitMap<1536> = ExitMap::new();
/// MSR permission map: two pages, two bits an MSR, read and write.
pub(super) static MSR_MAP: ExitMap<1024> = ExitMap::new();

/// Fills both maps.
pub(super) fn fill() {
    PORT_MAP.close();
    MSR_MAP.fill(|row| row.svm, place, 1);
}

/// First of the two bits of an MSR.
fn place(number: u32) -> usize {
    let base = if number >= 0xc000_0000 { 2048 * 8 } else { 0 };
    base + 2 * (number & 0x1fff) as usize
}

#[cfg(test)]
mod tests {
    use super::super::super::table::{self, Access};
    use super::*;

    #[test]
    fn the_maps_are_as_the_table_says() {
        fill();
        for number in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
            let mut rows = table::TABLE.iter().filter(|row| row.msrs.contains(&number));
            let access = rows.next().map_or(Access::None, |row| row.svm.1);
            let exits = [0, 1].map(|bit| MSR_MAP.exits(place(number) + bit));
            assert_eq!(exits, [access == Access::None, access != Access::All], "{number:#x}");
        }
        assert!((0..1536 * 64).all(|bit| PORT_MAP.exits(bit)));
        // Only these, which are harmless, and in the same test, as there is one map.
        let clear = (0..1024 * 64).filter(|&bit| !MSR_MAP.exits(bit)).count();
        assert_eq!(clear, 2 * 11);
    }
}
