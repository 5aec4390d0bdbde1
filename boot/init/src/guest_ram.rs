//! Where a guest sees its RAM.
use crate::frames::Chunk;
use alloc::vec::Vec;

/// RAM below this guest-physical address: what lies between it and 4 GiB is left to devices.
const LOW_END: u64 = 0xc000_0000;
/// The rest of the RAM starts here.
const HIGH_START: u64 = 1 << 32;

/// A part of a guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it lies in the machine.
    pub chunk: Chunk,
    /// Guest-physical address.
    pub guest_address: u64,
}

/// Lays out a guest's RAM: from 0 upwards, with a hole below 4 GiB.
pub fn lay_out(chunks: &[Chunk]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut address = 0;
    for &chunk in chunks {
        let mut rest = chunk;
        if address < LOW_END && address + rest.size > LOW_END {
            let low = Chunk {
                size: LOW_END - address,
                ..rest
            };
            parts.push(Part {
                chunk: low,
                guest_address: address,
            });
            rest.offset += low.size;
            rest.size -= low.size;
            address = LOW_END;
        }
        if address == LOW_END {
            address = HIGH_START;
        }
        parts.push(Part {
            chunk: rest,
            guest_address: address,
        });
        address += rest.size;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_left_below_4_gib() {
        let chunk = |region, size| Chunk {
            region,
            offset: 0x20_0000,
            size,
        };
        let places = |chunks: &[Chunk]| -> Vec<(u64, u64, u64)> {
            let place = |part: &Part| (part.guest_address, part.chunk.offset, part.chunk.size);
            lay_out(chunks).iter().map(place).collect()
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
        assert_eq!(
            places(&[chunk(0, LOW_END), chunk(1, 2 << 20)])[1].0,
            HIGH_START
        );
    }
}
