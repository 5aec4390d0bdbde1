//! The policy: for each ID register what becomes of each of its fields (Arm ARM D19.2). All fields have four bits.
//!
//! What is kept needs nothing of the hypervisor beyond what it does anyway; what would need state that is not switched,
//! traps that are not handled, or a part of the machine that guests do not get, is hidden. Registers that are not
//! listed, and with them features that do not exist yet, read as zero.
use rt::env::register_key;

/// Fields of a register.
pub const FIELDS: usize = 16;

/// What becomes of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The guest sees the machine's value.
    Keep,
    /// The guest sees 0: not there.
    Hide,
    /// The guest sees the machine's value, up to this.
    AtMost(u64),
    /// The guest sees this.
    Is(u64),
    /// GIC: 1 if the guest's GIC has system registers.
    Gic,
}

use Rule::{AtMost, Gic, Hide, Is, Keep};

const fn id(crm: u16, op2: u16) -> u16 {
    register_key(3, 0, 0, crm, op2)
}

/// A register with all fields kept: AArch32's, for programs at EL0.
const ALL: [Rule; FIELDS] = [Keep; FIELDS];

/// The registers, each with its fields from the lowest to the highest.
#[rustfmt::skip]
pub const POLICY: &[(u16, [Rule; FIELDS])] = &[
    // ID_PFR0_EL1: without AMU and RAS.
    (id(1, 0), [Keep, Keep, Keep, Keep, Keep, Hide, Keep, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_PFR1_EL1: without virtualisation and the GIC's registers.
    (id(1, 1), [Keep, Keep, Keep, Hide, Keep, Keep, Keep, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_DFR0_EL1: debug of Armv8.0, no trace, no counters.
    (id(1, 2), [Is(6), Hide, Is(6), Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_MMFR0_EL1 to ID_MMFR3_EL1.
    (id(1, 4), ALL),
    (id(1, 5), ALL),
    (id(1, 6), ALL),
    (id(1, 7), ALL),
    // ID_ISAR0_EL1 to ID_ISAR5_EL1, ID_MMFR4_EL1, ID_ISAR6_EL1.
    (id(2, 0), ALL),
    (id(2, 1), ALL),
    (id(2, 2), ALL),
    (id(2, 3), ALL),
    (id(2, 4), ALL),
    (id(2, 5), ALL),
    (id(2, 6), ALL),
    (id(2, 7), ALL),
    // MVFR0_EL1 to MVFR2_EL1.
    (id(3, 0), ALL),
    (id(3, 1), ALL),
    (id(3, 2), ALL),
    // ID_PFR2_EL1: CSV3, SSBS.
    (id(3, 4), [Keep, Keep, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_MMFR5_EL1.
    (id(3, 6), [Keep, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_AA64PFR0_EL1: EL0, EL1 (AArch64 only), EL2, EL3, FP, AdvSIMD, GIC, RAS; SVE, SEL2, MPAM, AMU, DIT, RME,
    // CSV2 (from 2 on it has SCXTNUM), CSV3.
    (id(4, 0), [AtMost(2), Is(1), Hide, Hide, Keep, Keep, Gic, Hide, Hide, Hide, Hide, Hide, AtMost(1), Hide, AtMost(1), AtMost(1)]),
    // ID_AA64PFR1_EL1: BT, SSBS; not MTE, SME, NMI, GCS and others.
    (id(4, 1), [AtMost(1), AtMost(2), Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_AA64DFR0_EL1: debug of Armv8.0 with the fewest breakpoints and watchpoints, whose registers do nothing; no trace,
    // counters, statistics, buffers.
    (id(5, 0), [Is(6), Hide, Hide, Is(1), Hide, Is(1), Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_AA64ISAR0_EL1: all but TME.
    (id(6, 0), [Hide, Keep, Keep, Keep, Keep, Keep, Hide, Keep, Keep, Keep, Keep, Keep, Keep, Keep, AtMost(2), Keep]),
    // ID_AA64ISAR1_EL1: all but XS and LS64, which need HCRX_EL2.
    (id(6, 1), [Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep, Keep, AtMost(1), AtMost(1), Keep, Keep, Hide, Hide]),
    // ID_AA64ISAR2_EL1: RPRES, GPA3, APA3, BC, PAC_frac, CLRBHB, CSSC; not WFxT, MOPS and others.
    (id(6, 2), [Hide, Keep, Keep, Keep, Hide, Keep, Keep, Keep, Hide, Hide, Hide, Hide, Hide, AtMost(1), Hide, Hide]),
    // ID_AA64MMFR0_EL1: PARange up to 40 bits, as stage 2 translates; ASIDBits, BigEnd, BigEndEL0, granules; not SNSMem,
    // stage 2's granules, ExS, FGT, ECV.
    (id(7, 0), [AtMost(2), Keep, Keep, Hide, Keep, Keep, Keep, Keep, Hide, Hide, Hide, Hide, Hide, Hide, Hide, Hide]),
    // ID_AA64MMFR1_EL1: HAFDBS, HPDS, PAN, SpecSEI, ETS, AFP, ECBHB; not VMIDBits, VH, LO, XNX, TWED, HCX, TIDCP1 and others.
    (id(7, 1), [AtMost(2), Hide, Hide, AtMost(2), Hide, AtMost(3), Keep, Hide, Hide, AtMost(2), Hide, AtMost(1), Hide, Hide, Hide, Keep]),
    // ID_AA64MMFR2_EL1: CnP, UAO, LSM, VARange, CCIDX, ST, AT, TTL, BBM, E0PD; not IESB, NV, IDS, FWB, EVT.
    (id(7, 2), [Keep, Keep, Keep, Hide, AtMost(1), Keep, Hide, Keep, Keep, Hide, Hide, Hide, Keep, Keep, Hide, Keep]),
];
