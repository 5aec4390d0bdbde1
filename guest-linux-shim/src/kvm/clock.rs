//! The KVM clock: nanoseconds from the TSC by a scale that the hypervisor publishes for each vCPU.

/// A vCPU's record of system time, as it lies in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SystemTime {
    /// Odd while the record changes. The writer makes it odd, writes the rest, makes it even.
    pub version: u32,
    /// TSC value at which `system_time` was right.
    pub tsc_timestamp: u64,
    /// Nanoseconds since the guest started, at `tsc_timestamp`.
    pub system_time: u64,
    /// How TSC ticks become nanoseconds.
    pub scale: Scale,
    /// [`SystemTime::TSC_STABLE`] and others.
    pub flags: u8,
}

impl SystemTime {
    /// Bytes in the record.
    pub const SIZE: usize = 32;
    /// Flag: all vCPUs' clocks agree, so that a reading needs no comparison with other vCPUs'.
    pub const TSC_STABLE: u8 = 1 << 0;
    /// Flag: the guest was stopped; its watchdogs should not bark.
    pub const GUEST_STOPPED: u8 = 1 << 1;

    /// The record as bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&self.version.to_le_bytes());
        out[8..16].copy_from_slice(&self.tsc_timestamp.to_le_bytes());
        out[16..24].copy_from_slice(&self.system_time.to_le_bytes());
        out[24..28].copy_from_slice(&self.scale.multiplier.to_le_bytes());
        out[28] = self.scale.shift as u8;
        out[29] = self.flags;
        out
    }
}

/// The time of day at which the guest's system time was 0, as it lies in guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WallClock {
    /// As [`SystemTime::version`].
    pub version: u32,
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: u32,
    /// Nanoseconds beyond them.
    pub nanoseconds: u32,
}

impl WallClock {
    /// Bytes in the record.
    pub const SIZE: usize = 12;

    /// The record as bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..4].copy_from_slice(&self.version.to_le_bytes());
        out[4..8].copy_from_slice(&self.seconds.to_le_bytes());
        out[8..12].copy_from_slice(&self.nanoseconds.to_le_bytes());
        out
    }
}

/// Nanoseconds from ticks: `((ticks << shift) * multiplier) >> 32`; a negative shift is one to the right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// `tsc_to_system_mul`.
    pub multiplier: u32,
    /// `tsc_shift`.
    pub shift: i8,
}

const NANOSECONDS: u64 = 1_000_000_000;

impl Scale {
    /// The scale for a counter that ticks `hz` times a second; `hz` is not 0.
    pub const fn new(hz: u64) -> Scale {
        let (mut base, mut shift) = (if hz == 0 { 1 } else { hz }, 0);
        while base > 2 * NANOSECONDS {
            base >>= 1;
            shift -= 1;
        }
        while base <= NANOSECONDS {
            base <<= 1;
            shift += 1;
        }
        // Below 2^32: `base` is now above the number of nanoseconds.
        Scale { multiplier: ((NANOSECONDS << 32) / base) as u32, shift }
    }

    /// Nanoseconds in so many ticks.
    pub const fn nanoseconds(self, ticks: u64) -> u64 {
        let ticks = if self.shift < 0 { ticks >> -self.shift } else { ticks << self.shift };
        ((ticks as u128 * self.multiplier as u128) >> 32) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_a_second() {
        for hz in [
            1_000_000,
            24_000_000,
            999_999_999,
            1_000_000_000,
            1_000_000_001,
            2_400_000_000,
            9_999_999_999,
        ] {
            let ns = Scale::new(hz).nanoseconds(hz);
            assert!(ns.abs_diff(NANOSECONDS) <= 1000, "{hz} Hz: {ns}");
        }
    }

    #[test]
    fn layout() {
        let time = SystemTime {
            version: 2,
            tsc_timestamp: 3,
            system_time: 4,
            scale: Scale { multiplier: 5, shift: -1 },
            flags: SystemTime::TSC_STABLE,
        };
        let bytes = time.encode();
        assert_eq!((bytes[0], bytes[8], bytes[16], bytes[24]), (2, 3, 4, 5));
        assert_eq!((bytes[28], bytes[29]), (0xff, 1));
    }
}
