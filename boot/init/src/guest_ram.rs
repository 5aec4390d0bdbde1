//! Where a guest sees its RAM.
use crate::frames::Chunk;
use alloc::vec::Vec;
use core::ops::Range;

/// Guest-physical addresses of RAM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The first.
    pub start: u64,
    /// Addresses behind it that are left to devices.
    pub hole: Option<Range<u64>>,
}

/// A part of a guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies in the machine.
    pub chunk: Chunk,
    /// Guest-physical address.
    pub guest_address: u64,
}

/// Lays out a guest's RAM.
pub fn lay_out(chunks: &[Chunk], layout: &Layout) -> Vec<Part> {
    // Without a hole there is none that an address could reach.
    let hole = layout.hole.clone().unwrap_or(u64::MAX..u64::MAX);
    let mut parts = Vec::new();
    let mut address = layout.start;
    for &chunk in chunks {
        let mut rest = chunk;
        if address < hole.start && rest.size > hole.start - address {
            let low = Chunk { size: hole.start - address, ..rest };
            parts.push(Part { chunk: low, guest_address: address });
            rest.offset += low.size;
            rest.size -= low.size;
            address = hole.start;
        }
        if address == hole.start {
            address = hole.end;
        }
        parts.push(Part { chunk: rest, guest_address: address });
        address += rest.size;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW_END: u64 = 0xc000_0000;
    const HIGH_START: u64 = 1 << 32;

    #[test]
    fn a_hole_is_left_below_4_gib() {
        let layout = Layout { start: 0, hole: Some(LOW_END..HIGH_START) };
        let chunk = |region, size| Chunk { region, offset: 0x20_0000, size };
        let places = |chunks: &[Chunk]| -> Vec<(u64, u64, u64)> {
            let place = |part: &Part| (part.guest_address, part.chunk.offset, part.chunk.size);
            lay_out(chunks, &layout).iter().map(place).collect()
        };
        assert_eq!(places(&[chunk(0, 128 << 20)]), [(0, 0x20_0000, 128 << 20)]);
        assert_eq!(places(&[chunk(0, LOW_END)]), [(0, 0x20_0000, LOW_END)]);
        assert_eq!(
            places(&[chunk(0, 1 << 30), chunk(1, 3 << 30)]),
            [
                (0, 0x20_0000, 1 << 30),
                (1 << 30, 0x20_0000, 2 << 30),
                (HIGH_START, 0x20_0000 + (2 << 30), 1 << 30)
            ]
        );
        assert_eq!(places(&[chunk(0, LOW_END), chunk(1, 2 << 20)])[1].0, HIGH_START);
        let high = Layout { start: 1 << 30, hole: None };
        let part = Part { chunk: chunk(0, 1 << 33), guest_address: 1 << 30 };
        assert_eq!(lay_out(&[part.chunk], &high), [part]);
    }
}
