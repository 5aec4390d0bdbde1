//! Firmware calls of the guest: PSCI 1.1 (DEN 0022) and the SMC Calling Convention's own (DEN 0028), by HVC and SMC.
//!
//! Of the mitigations that the machine's firmware may provide (SMCCC_ARCH_WORKAROUND_1 to 3) the guest is told what the kernel
//! says of them; calls that are needed do not come here, as the kernel passes them on.
use abi::boot::Workaround;
use smccc::arch::{
    SMCCC_ARCH_FEATURES, SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3,
    SMCCC_VERSION,
};
use smccc::psci::error::{
    ALREADY_ON, INVALID_ADDRESS, INVALID_PARAMETERS, NOT_SUPPORTED, ON_PENDING, SUCCESS,
};
use smccc::psci::{
    PSCI_AFFINITY_INFO_32, PSCI_AFFINITY_INFO_64, PSCI_CPU_OFF, PSCI_CPU_ON_32, PSCI_CPU_ON_64,
    PSCI_CPU_SUSPEND_32, PSCI_CPU_SUSPEND_64, PSCI_FEATURES, PSCI_MIGRATE_INFO_TYPE,
    PSCI_SYSTEM_OFF, PSCI_SYSTEM_RESET, PSCI_VERSION,
};

/// PSCI 1.1.
const VERSION: i64 = 1 << 16 | 1;
/// SMCCC 1.1.
const CONVENTION: i64 = 1 << 16 | 1;
/// There is no trusted OS that would have to migrate.
const NO_MIGRATION: i64 = 2;
/// A function identifier's bit: arguments of 64 bits.
const WIDE: u32 = 1 << 30;

/// What a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Only an answer.
    Answer(i64),
    /// Wait for an interrupt.
    Suspend,
    /// Start a vCPU.
    On {
        /// Its affinity.
        target: u64,
        /// Where it starts.
        entry: u64,
        /// Its `x0`.
        context: u64,
    },
    /// End the calling vCPU.
    Off,
    /// Whether a vCPU runs.
    AffinityInfo {
        /// Its affinity.
        target: u64,
        /// The lowest level of affinity that counts.
        level: u64,
    },
    /// Power off.
    SystemOff,
    /// Start again.
    SystemReset,
}

/// Functions that PSCI_FEATURES knows.
const PSCI_FUNCTIONS: [u32; 13] = [
    PSCI_VERSION,
    PSCI_CPU_SUSPEND_32,
    PSCI_CPU_SUSPEND_64,
    PSCI_CPU_OFF,
    PSCI_CPU_ON_32,
    PSCI_CPU_ON_64,
    PSCI_AFFINITY_INFO_32,
    PSCI_AFFINITY_INFO_64,
    PSCI_MIGRATE_INFO_TYPE,
    PSCI_SYSTEM_OFF,
    PSCI_SYSTEM_RESET,
    PSCI_FEATURES,
    SMCCC_VERSION,
];
/// Functions that SMCCC_ARCH_FEATURES knows, besides [`WORKAROUNDS`].
const CONVENTION_FUNCTIONS: [u32; 2] = [SMCCC_VERSION, SMCCC_ARCH_FEATURES];

/// SMCCC_ARCH_FEATURES of a mitigation (DEN 0028, 7.4): it can be there and not be needed.
const NOT_NEEDED: i64 = 1;
/// The mitigations.
const WORKAROUNDS: [u32; 3] =
    [SMCCC_ARCH_WORKAROUND_1, SMCCC_ARCH_WORKAROUND_2, SMCCC_ARCH_WORKAROUND_3];

/// What the guest is told of a function by SMCCC_ARCH_FEATURES.
fn feature(function: u32, workarounds: u32) -> i64 {
    if let Some(i) = WORKAROUNDS.iter().position(|&known| known == function) {
        return match Workaround::unpack(workarounds, i) {
            Workaround::NotOffered => NOT_SUPPORTED.into(),
            Workaround::Needed => SUCCESS.into(),
            Workaround::NotNeeded => NOT_NEEDED,
        };
    }
    let known = CONVENTION_FUNCTIONS.contains(&function);
    if known { SUCCESS } else { NOT_SUPPORTED }.into()
}

/// The call in `x0` to `x3`, on a machine with these mitigations ([`Workaround::pack`]).
pub fn decode(registers: [u64; 4], workarounds: u32) -> Call {
    let function = registers[0] as u32;
    let wide = function & WIDE != 0;
    let argument = |i: usize| {
        if wide { registers[i] } else { registers[i] & 0xffff_ffff }
    };
    match function {
        PSCI_VERSION => Call::Answer(VERSION),
        PSCI_CPU_SUSPEND_32 | PSCI_CPU_SUSPEND_64 => Call::Suspend,
        PSCI_CPU_OFF => Call::Off,
        PSCI_CPU_ON_32 | PSCI_CPU_ON_64 => {
            Call::On { target: argument(1), entry: argument(2), context: argument(3) }
        }
        PSCI_AFFINITY_INFO_32 | PSCI_AFFINITY_INFO_64 => {
            Call::AffinityInfo { target: argument(1), level: argument(2) }
        }
        PSCI_MIGRATE_INFO_TYPE => Call::Answer(NO_MIGRATION),
        PSCI_SYSTEM_OFF => Call::SystemOff,
        PSCI_SYSTEM_RESET => Call::SystemReset,
        PSCI_FEATURES => {
            let known = PSCI_FUNCTIONS.contains(&(registers[1] as u32));
            Call::Answer(if known { SUCCESS } else { NOT_SUPPORTED }.into())
        }
        SMCCC_VERSION => Call::Answer(CONVENTION),
        SMCCC_ARCH_FEATURES => Call::Answer(feature(registers[1] as u32, workarounds)),
        // Who calls what is not needed gets what firmware does then: nothing.
        _ if WORKAROUNDS.contains(&function) && feature(function, workarounds) >= 0 => {
            Call::Answer(SUCCESS.into())
        }
        _ => Call::Answer(NOT_SUPPORTED.into()),
    }
}

/// Power state of a vCPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Power {
    /// It does not run.
    #[default]
    Off,
    /// It was asked to start, here and with this in `x0`.
    Pending(u64, u64),
    /// It runs.
    On,
}

/// Power states of a VM's vCPUs.
#[derive(Debug)]
pub struct Powers<const N: usize> {
    states: [Power; N],
    count: usize,
}

impl<const N: usize> Powers<N> {
    /// `count` vCPUs, of which the first is to start so.
    pub fn new(count: u32, entry: u64, context: u64) -> Powers<N> {
        let mut states = [Power::Off; N];
        if let Some(first) = states.first_mut() {
            *first = Power::Pending(entry, context);
        }
        Powers { states, count: (count as usize).min(N) }
    }

    /// The vCPU with this affinity: 0.0.0.n is vCPU `n`.
    fn find(&mut self, target: u64) -> Option<&mut Power> {
        let index = usize::try_from(target).ok()?;
        self.states[..self.count].get_mut(index)
    }

    /// CPU_ON (DEN 0022, 5.4): the vCPU to be kicked, or the error. `entry_is_ram`: whether it can run there.
    pub fn on(
        &mut self,
        target: u64,
        entry: u64,
        context: u64,
        entry_is_ram: bool,
    ) -> Result<u32, i64> {
        let Some(power) = self.find(target) else {
            return Err(INVALID_PARAMETERS.into());
        };
        match power {
            Power::On => Err(ALREADY_ON.into()),
            Power::Pending(..) => Err(ON_PENDING.into()),
            Power::Off if !entry_is_ram || !entry.is_multiple_of(4) => Err(INVALID_ADDRESS.into()),
            Power::Off => {
                *power = Power::Pending(entry, context);
                Ok(target as u32)
            }
        }
    }

    /// CPU_OFF. Whether no vCPU is left.
    pub fn off(&mut self, vcpu: u32) -> bool {
        if let Some(power) = self.find(vcpu.into()) {
            *power = Power::Off;
        }
        self.states.iter().all(|power| *power == Power::Off)
    }

    /// Takes the request to start `vcpu`, if there is one: entry and context.
    pub fn start(&mut self, vcpu: u32) -> Option<(u64, u64)> {
        let power = self.find(vcpu.into())?;
        let Power::Pending(entry, context) = *power else {
            return None;
        };
        *power = Power::On;
        Some((entry, context))
    }

    /// AFFINITY_INFO (DEN 0022, 5.8): of single vCPUs only.
    pub fn info(&mut self, target: u64, level: u64) -> i64 {
        match self.find(target) {
            Some(power) if level == 0 => match power {
                Power::On => 0,
                Power::Off => 1,
                Power::Pending(..) => 2,
            },
            _ => INVALID_PARAMETERS.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_what_they_say_and_unknown_ones_are_refused() {
        let call = |function: u32, argument: u64| decode([function.into(), argument, 2, 3], 0);
        assert_eq!(call(0x8400_0000, 0), Call::Answer(0x1_0001));
        assert_eq!(call(0x8000_0000, 0), Call::Answer(0x1_0001));
        assert_eq!(
            call(0x8400_0003, 0xffff_ffff_0000_0001),
            Call::On { target: 1, entry: 2, context: 3 }
        );
        assert_eq!(call(0xc400_0004, 1 << 32), Call::AffinityInfo { target: 1 << 32, level: 2 });
        for function in PSCI_FUNCTIONS {
            assert_eq!(call(PSCI_FEATURES, function.into()), Call::Answer(0));
        }
        for function in CONVENTION_FUNCTIONS {
            let answer = call(SMCCC_ARCH_FEATURES, function.into());
            assert_eq!(answer, Call::Answer(0));
        }
        let foreign = call(PSCI_FEATURES, SMCCC_ARCH_FEATURES.into());
        assert_eq!(foreign, Call::Answer(-1));
        assert_eq!(call(SMCCC_ARCH_FEATURES, 0x8000_8000), Call::Answer(-1));
        for (workarounds, answers, call_answer) in
            [(0, [-1, -1, -1], -1), (0b01_10_01, [0, 1, 0], 0), (0b00_00_10, [1, -1, -1], 0)]
        {
            let ask = |function: u32, argument: u32| {
                decode([function.into(), argument.into(), 0, 0], workarounds)
            };
            let features = WORKAROUNDS.map(|function| ask(SMCCC_ARCH_FEATURES, function));
            assert_eq!(features, answers.map(Call::Answer));
            assert_eq!(ask(SMCCC_ARCH_WORKAROUND_1, 0), Call::Answer(call_answer));
        }
        for function in [0, 0x8400_0005, 0x8400_ffff, 0xc600_ff01, u32::MAX] {
            assert_eq!(call(function, 0), Call::Answer(-1));
        }
    }

    #[test]
    fn a_vcpu_is_started_once() {
        let mut powers = Powers::<4>::new(2, 0x100, 7);
        assert_eq!(powers.start(0), Some((0x100, 7)));
        assert_eq!(powers.start(1), None);
        assert_eq!(powers.info(1, 0), 1);
        assert_eq!(powers.on(1, 0x200, 8, false), Err(-9));
        assert_eq!(powers.on(1, 0x200, 8, true), Ok(1));
        assert_eq!(powers.on(1, 0x200, 8, true), Err(-5));
        assert_eq!(powers.info(1, 0), 2);
        assert_eq!(powers.start(1), Some((0x200, 8)));
        assert_eq!(powers.start(1), None);
        assert_eq!(powers.on(1, 0x200, 8, true), Err(-4));
        for target in [2, 4, 1 << 32 | 1, u64::MAX] {
            assert_eq!(powers.on(target, 0x200, 8, true), Err(-2));
        }
        assert_eq!((powers.info(0, 0), powers.info(0, 1)), (0, -2));
        assert!(!powers.off(0));
        assert!(powers.off(1));
    }
}
