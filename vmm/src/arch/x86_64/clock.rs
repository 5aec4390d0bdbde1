//! The guest's clock: the records of the KVM interface in guest memory.
use crate::memory::{GuestPhys, GuestRam, NotRam};
use guest_linux_shim::kvm::clock::{Scale, SystemTime, WallClock};

/// Clock of a VM. System time is 0 at a TSC value of each vCPU, its origin: 0, unless the guest moves its TSC.
///
/// The machine's clock of the day is not known to the monitor, so that the wall clock starts with the epoch:
/// a guest that wants the date has to ask for it over a network.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    scale: Scale,
}

impl Clock {
    /// The clock on a machine whose TSC ticks `hz` times a second.
    pub fn new(hz: u64) -> Clock {
        Clock { scale: Scale::new(hz) }
    }

    /// Writes a vCPU's system time. One record for ever: the TSC does not stop and has one frequency.
    pub fn publish(
        &self,
        ram: &GuestRam,
        at: GuestPhys,
        version: u32,
        origin: u64,
    ) -> Result<(), NotRam> {
        let time = SystemTime {
            version,
            tsc_timestamp: origin,
            system_time: 0,
            scale: self.scale,
            flags: SystemTime::TSC_STABLE,
        };
        publish(ram, at, &time.encode())
    }

    /// Writes the wall clock.
    pub fn publish_wall(&self, ram: &GuestRam, at: GuestPhys, version: u32) -> Result<(), NotRam> {
        let time = WallClock { version, seconds: 0, nanoseconds: 0 };
        publish(ram, at, &time.encode())
    }
}

/// Writes a record whose version is in its first four bytes: odd version, the rest, even version. The reader
/// is the guest whose vCPU waits for this, or others that see the order of the stores (x86).
fn publish(ram: &GuestRam, at: GuestPhys, record: &[u8]) -> Result<(), NotRam> {
    let (version, rest) = record.split_at(4);
    if !ram.contains(at, record.len() as u64) {
        return Err(NotRam);
    }
    let mut odd = [0; 4];
    odd.copy_from_slice(version);
    odd[0] |= 1;
    ram.write(at, &odd)?;
    ram.write(at.plus(4), rest)?;
    ram.write(at, version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::testing::ram;
    use proptest::prelude::*;

    proptest! {
        /// The guest's arithmetic gives the time within a millionth, for hours of ticks at any frequency.
        #[test]
        fn a_guest_reads_the_time(hz in 10_000_000u64..6_000_000_000, seconds in 0u64..100_000) {
            let ram = ram(&[(0, 0x1000)]);
            Clock::new(hz).publish(&ram, GuestPhys(0x40), 2, 0).unwrap();
            let multiplier = u128::from(ram.read_u32(GuestPhys(0x40 + 24)).unwrap());
            let shift = ram.read_u32(GuestPhys(0x40 + 28)).unwrap() as u8 as i8;
            let ticks = hz * seconds;
            let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
            let time = ((u128::from(shifted) * multiplier) >> 32) as u64;
            let right = seconds * 1_000_000_000;
            prop_assert!(time.abs_diff(right) <= 2 + right / 1_000_000, "{time} {right}");
        }
    }

    #[test]
    fn records_need_ram() {
        let ram = ram(&[(0, 0x1000)]);
        let clock = Clock::new(1_000_000_000);
        assert_eq!(clock.publish(&ram, GuestPhys(0xff0), 2, 0), Err(NotRam));
        assert_eq!(ram.read_u32(GuestPhys(0xff0)), Ok(0));
        clock.publish_wall(&ram, GuestPhys(0xff4), 4).unwrap();
        assert_eq!(ram.read_u32(GuestPhys(0xff4)), Ok(4));
        assert_eq!(clock.publish_wall(&ram, GuestPhys(u64::MAX), 2), Err(NotRam));
    }
}
