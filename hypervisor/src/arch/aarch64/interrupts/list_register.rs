//! List registers: those of GICv3 (IHI 0069, 12.4.9), which the ABI has, and those of GICv2 (IHI 0048, 5.3.9), where there are no
//! others. Neither is tied to an interrupt of the machine.

use abi::vcpu::aarch64::{
    LIST_ACTIVE, LIST_EOI, LIST_GROUP1, LIST_PENDING, LIST_PRIORITY_SHIFT, LIST_SOURCE_SHIFT,
};

/// Bits of GICv2: number, source of an SGI, end requested, priority (5 bits), state, group.
const NUMBER: u32 = 0x3ff;
const SOURCE_SHIFT: u32 = 10;
const EOI_SHIFT: u32 = 19;
const PRIORITY_SHIFT: u32 = 23;
const STATE_SHIFT: u32 = 28;
const GROUP1_SHIFT: u32 = 30;

/// Where a field that only SGIs have is not to be.
const fn of_sgi(number: u32, source: u64) -> u64 {
    if number < 16 { source & 7 } else { 0 }
}

/// From a list register of GICv3 to one of GICv2.
pub fn narrow(list: u64) -> u32 {
    let number = list as u32 & NUMBER;
    number
        | (of_sgi(number, list >> LIST_SOURCE_SHIFT) as u32) << SOURCE_SHIFT
        | u32::from(list & LIST_EOI != 0) << EOI_SHIFT
        | ((list >> LIST_PRIORITY_SHIFT) as u32 >> 3 & 0x1f) << PRIORITY_SHIFT
        | ((list & (LIST_PENDING | LIST_ACTIVE)) >> 62 << STATE_SHIFT) as u32
        | u32::from(list & LIST_GROUP1 != 0) << GROUP1_SHIFT
}

/// The other way.
pub fn widen(list: u32) -> u64 {
    let number = list & NUMBER;
    let bit = |shift: u32, wide: u64| u64::from(list >> shift & 1) * wide;
    u64::from(number)
        | of_sgi(number, u64::from(list >> SOURCE_SHIFT)) << LIST_SOURCE_SHIFT
        | bit(EOI_SHIFT, LIST_EOI)
        | u64::from(list >> PRIORITY_SHIFT & 0x1f) << (LIST_PRIORITY_SHIFT + 3)
        | u64::from(list >> STATE_SHIFT & 3) << 62
        | bit(GROUP1_SHIFT, LIST_GROUP1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_is_where_both_have_it() {
        for (wide, narrowed) in [
            (27, 27),
            (5 | 3 << LIST_SOURCE_SHIFT, 5 | 3 << 10),
            // The end of one sender's SGI is asked for when there is another sender's.
            (5 | 3 << LIST_SOURCE_SHIFT | LIST_EOI, 5 | 3 << 10 | 1 << 19),
            (40 | LIST_EOI, 40 | 1 << 19),
            (40 | 0xa8 << LIST_PRIORITY_SHIFT, 40 | 0x15 << 23),
            (40 | LIST_PENDING, 40 | 1 << 28),
            (40 | LIST_ACTIVE, 40 | 2 << 28),
            (40 | LIST_GROUP1, 40 | 1 << 30),
        ] {
            assert_eq!((narrow(wide), widen(narrowed)), (narrowed, wide));
        }
        // Only SGIs have a source; the machine's interrupts are out of reach.
        assert_eq!(narrow(40 | 3 << LIST_SOURCE_SHIFT | 1 << 61), 40);
    }
}
