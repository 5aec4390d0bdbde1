//! What the guest finds in the ID registers: the machine's, cut to what this virtual machine offers ([`policy`]).

pub mod policy;

use super::gic::Version;
use alloc::vec::Vec;
use policy::{FIELDS, POLICY, Rule};
use rt::env::register_key;

/// The machine's ID registers.
#[derive(Clone, Copy, Debug)]
pub struct HostId<'a>(pub &'a [(u16, u64)]);

impl HostId<'_> {
    /// A register's value; 0 if it is not known, which of most says that nothing is there.
    pub fn get(&self, key: u16) -> u64 {
        self.0.iter().find(|(known, _)| *known == key).map_or(0, |&(_, value)| value)
    }

    /// Whether stage 2 has guests use RAM through the caches, even with theirs off (ID_AA64MMFR2_EL1.FWB): then the
    /// kernel has it do so.
    pub fn forces_write_back(&self) -> bool {
        self.get(register_key(3, 0, 0, 7, 2)) >> 40 & 0xf != 0
    }
}

/// MIDR_EL1.
pub const MIDR: u16 = register_key(3, 0, 0, 0, 0);

/// What the guest reads.
#[derive(Debug)]
pub struct GuestId {
    registers: Vec<(u16, u64)>,
    /// MIDR_EL1, which the guest reads without an exit.
    pub midr: u64,
}

impl GuestId {
    /// The registers of a guest with this interrupt controller.
    pub fn new(host: HostId<'_>, gic: Version) -> GuestId {
        let mut registers: Vec<(u16, u64)> =
            POLICY.iter().map(|(key, rules)| (*key, apply(rules, host.get(*key), gic))).collect();
        registers.sort_unstable_by_key(|(key, _)| *key);
        GuestId { registers, midr: host.get(MIDR) }
    }

    /// The value of an ID register: those that are not listed read as zero (Arm ARM D19.1, "reserved, RAZ"). `None`: the
    /// key is no ID register's.
    pub fn get(&self, key: u16) -> Option<u64> {
        // op0 3, op1 0, CRn 0, CRm 0 to 7.
        if key & !0x3f != register_key(3, 0, 0, 0, 0) {
            return None;
        }
        let found = self.registers.binary_search_by_key(&key, |(key, _)| *key);
        Some(found.map_or(0, |at| self.registers[at].1))
    }
}

/// A register's value for the guest.
fn apply(rules: &[Rule; FIELDS], host: u64, gic: Version) -> u64 {
    rules.iter().enumerate().fold(0, |value, (i, rule)| {
        let field = host >> (i * 4) & 0xf;
        let seen = match *rule {
            Rule::Keep => field,
            Rule::Hide => 0,
            // Numbers from 8 on are negative: less than nothing there.
            Rule::AtMost(most) if field < 8 => field.min(most),
            Rule::AtMost(_) => field,
            Rule::Is(value) => value & 0xf,
            Rule::Gic => u64::from(gic == Version::V3),
        };
        value | seen << (i * 4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PFR0: u16 = register_key(3, 0, 0, 4, 0);
    const DFR0: u16 = register_key(3, 0, 0, 5, 0);
    const MMFR0: u16 = register_key(3, 0, 0, 7, 0);

    #[test]
    fn what_is_offered_stays_and_what_is_not_is_hidden() {
        // Everything that there is, of a large core with SVE, RAS, AMU, MPAM, EL3.
        let host = [
            (PFR0, 0x1201_1112_1101_2222),
            (DFR0, 0x0000_f010_f030_5619),
            (MMFR0, 0x2100_0222_0010_1126),
        ];
        let id = GuestId::new(HostId(&host), Version::V3);
        assert_eq!(id.get(PFR0), Some(0x1101_0000_0101_0012));
        assert_eq!(id.get(DFR0), Some(0x0000_0000_0010_1006));
        assert_eq!(id.get(MMFR0), Some(0x0000_0000_0010_0122));
        // A GICv2 has no system registers.
        let id = GuestId::new(HostId(&host), Version::V2);
        assert_eq!(id.get(PFR0), Some(0x1101_0000_0001_0012));
        // Not listed: SVE's ID register, and one that does not exist yet.
        assert_eq!(id.get(register_key(3, 0, 0, 4, 4)), Some(0));
        assert_eq!(id.get(register_key(3, 0, 0, 7, 7)), Some(0));
        assert_eq!(id.get(register_key(3, 0, 1, 0, 1)), None);
        // No FP unit: a negative number.
        let id = GuestId::new(HostId(&[(PFR0, 0x00ff_0011)]), Version::V2);
        assert_eq!(id.get(PFR0), Some(0x00ff_0011));
    }

    proptest! {
        /// Of whatever machine: SVE, SME, MTE, RME, AMU, MPAM, RAS, nested virtualisation, trace and counters are not
        /// to be seen.
        #[test]
        fn nothing_hidden_shines_through(values in prop::collection::vec(any::<u64>(), POLICY.len())) {
            let host: Vec<(u16, u64)> = POLICY.iter().map(|(key, _)| *key).zip(values).collect();
            let id = GuestId::new(HostId(&host), Version::V3);
            let hidden: [(u16, &[u32]); 5] = [
                (PFR0, &[28, 32, 40, 44, 52]),
                (register_key(3, 0, 0, 4, 1), &[8, 24]),
                (DFR0, &[4, 8, 32, 36, 40, 44, 48, 52]),
                (register_key(3, 0, 0, 7, 2), &[24]),
                (register_key(3, 0, 0, 7, 1), &[8, 16]),
            ];
            for (key, shifts) in hidden {
                for shift in shifts {
                    prop_assert_eq!(id.get(key).unwrap() >> shift & 0xf, 0);
                }
            }
        }
    }
}
