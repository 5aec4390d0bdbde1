//! Speculation: what AArch64 CPUs leak, by what they and firmware say, and the measures against it.
//!
//! Barriers are firmware's, taken where other stage-2 tables are loaded than before: of a CPU that needs them no space
//! has a fast switch, so without them nothing is slower.

use crate::speculation::{Item, Verdict, choose};
use abi::boot::Workaround;

bitflags::bitflags! {
    /// What is done against speculation.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Measures: u8 {
        /// SMCCC_ARCH_WORKAROUND_1 when another program or guest comes to run: the branch predictor.
        const PREDICTOR = 1 << 0;
        /// SMCCC_ARCH_WORKAROUND_2 once: loads do not bypass stores.
        const STORES = 1 << 1;
        /// SMCCC_ARCH_WORKAROUND_3, like the first, which it contains: branch history too.
        const HISTORY = 1 << 2;
    }
}

/// What a CPU and its firmware say.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// MIDR_EL1.
    pub midr: u64,
    /// ID_AA64PFR0_EL1.
    pub pfr0: u64,
    /// ID_AA64PFR1_EL1.
    pub pfr1: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// What firmware says of SMCCC_ARCH_WORKAROUND_1 to 3.
    pub firmware: [Workaround; 3],
}

/// Arm's cores that do not speculate far: Cortex-A35, A53, A55, A510, A520 (part numbers of MIDR_EL1; Arm,
/// "Vulnerability of Speculative Processors").
const IN_ORDER: [u64; 5] = [0xd04, 0xd03, 0xd05, 0xd46, 0xd80];

impl Identity {
    fn is_in_order(&self) -> bool {
        self.midr >> 24 & 0xff == 0x41 && IN_ORDER.contains(&(self.midr >> 4 & 0xfff))
    }

    /// ID_AA64PFR0_EL1.CSV2: 1, branches trained elsewhere do not steer; 3, nor does their history.
    fn csv2(&self) -> u64 {
        self.pfr0 >> 56 & 0xf
    }

    /// History does not pass exceptions (ID_AA64MMFR1_EL1.ECBHB), or does not matter.
    fn is_history_harmless(&self) -> bool {
        self.csv2() >= 3 || self.mmfr1 >> 60 & 0xf != 0 || self.is_in_order()
    }

    /// A verdict by what firmware says of workaround `number`, from 0.
    fn firmware(&self, number: usize, how: &'static str, measure: Measures) -> Verdict<Measures> {
        match self.firmware[number] {
            Workaround::Needed => Verdict::Mitigated(how, measure),
            Workaround::NotNeeded => Verdict::NotAffected,
            Workaround::NotOffered => Verdict::Open("firmware has no mitigation"),
        }
    }
}

/// The table.
const TABLE: &[Item<Identity, Measures>] = &[
    // The kernel is mapped in the translation regime of EL2 alone.
    Item("Meltdown", |_| Verdict::NotAffected),
    Item("Spectre v2, between programs and guests", |cpu| {
        match cpu.csv2() != 0 || cpu.is_in_order() {
            true => Verdict::NotAffected,
            false => cpu.firmware(0, "SMCCC_ARCH_WORKAROUND_1", Measures::PREDICTOR),
        }
    }),
    Item("branch history, between programs and guests", |cpu| match cpu.is_history_harmless() {
        true => Verdict::NotAffected,
        false => cpu.firmware(2, "SMCCC_ARCH_WORKAROUND_3", Measures::HISTORY),
    }),
    Item("branch history, in the kernel", |cpu| match cpu.is_history_harmless() {
        true => Verdict::NotAffected,
        false => Verdict::Open("the kernel does not clear it"),
    }),
    // ID_AA64PFR1_EL1.SSBS: off for programs, whose PSTATE.SSBS is 0; guests choose.
    Item("store bypass", |cpu| match (cpu.pfr1 >> 4 & 0xf, cpu.is_in_order()) {
        (_, true) => Verdict::NotAffected,
        (0, _) => cpu.firmware(1, "SMCCC_ARCH_WORKAROUND_2, for all", Measures::STORES),
        _ => Verdict::Mitigated("PSTATE.SSBS", Measures::empty()),
    }),
];

impl Measures {
    /// Those for a CPU; see [`choose`].
    pub fn choose(cpu: &Identity, mitigate: bool, report: bool) -> Measures {
        choose(TABLE, cpu, mitigate, report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Workaround::{Needed, NotNeeded, NotOffered};

    const A72: Identity =
        Identity { midr: 0x410f_d083, pfr0: 0x2222, pfr1: 0, mmfr1: 0, firmware: [NotOffered; 3] };

    fn verdicts(cpu: &Identity) -> Vec<Verdict<Measures>> {
        TABLE.iter().map(|item| (item.1)(cpu)).collect()
    }

    fn open(cpu: &Identity) -> usize {
        let is_open = |verdict: &&Verdict<Measures>| matches!(verdict, Verdict::Open(_));
        verdicts(cpu).iter().filter(is_open).count()
    }

    #[test]
    fn firmware_decides_where_the_cpu_does_not_say() {
        assert_eq!(open(&A72), 4);
        assert_eq!(Measures::choose(&A72, true, false), Measures::empty());
        let patched = Identity { firmware: [Needed; 3], ..A72 };
        assert_eq!(open(&patched), 1);
        assert_eq!(Measures::choose(&patched, true, false), Measures::all());
        assert_eq!(Measures::choose(&patched, false, false), Measures::empty());
        let old_firmware = Identity { firmware: [Needed, NotNeeded, NotOffered], ..A72 };
        assert_eq!(open(&old_firmware), 2);
        let measures = Measures::choose(&old_firmware, true, false);
        assert_eq!(measures, Measures::PREDICTOR);
    }

    #[test]
    fn the_readme_has_each_item() {
        crate::speculation::check_readme(TABLE);
    }

    #[test]
    fn the_cpu_has_the_last_word() {
        let a53 = Identity { midr: 0x410f_d034, firmware: [Needed; 3], ..A72 };
        assert!(verdicts(&a53).iter().all(|&v| v == Verdict::NotAffected));
        // The same number of another maker's.
        let other = Identity { midr: 0x510f_d034, ..a53 };
        assert_eq!(Measures::choose(&other, true, false), Measures::all());
        for (csv2, ecbhb, expected) in
            [(1, 0, Measures::HISTORY), (2, 1, Measures::empty()), (3, 0, Measures::empty())]
        {
            let cpu = Identity {
                pfr0: csv2 << 56,
                pfr1: 1 << 4,
                mmfr1: ecbhb << 60,
                firmware: [Needed; 3],
                ..A72
            };
            assert_eq!(Measures::choose(&cpu, true, false), expected, "{csv2}");
        }
    }
}
