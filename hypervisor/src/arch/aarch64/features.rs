//! What the CPU must have, and what the kernel sets on each.

use super::sysreg::{isb, read, write};
use super::{paging, virt};
use core::sync::atomic::{AtomicBool, Ordering};

/// HCR_EL2 while threads run: EL0 under EL2 (TGE), and stage 2 gives the memory type (DC).
pub const HCR_THREAD: u64 = HCR_BOTH | DC | TGE;
/// HCR_EL2 while a guest runs. Trapped are WFI, SMC, ID registers (TID3), auxiliary control (TACR), limited ordering regions (TLOR)
/// and error records (TERR); broadcasts reach the inner shareable domain (FB, BSU). Pointer authentication is the guest's own.
pub const HCR_GUEST: u64 =
    HCR_BOTH | TWI | TSC | TID3 | TACR | TLOR | TERR | FB | BSU_INNER | APK | API;
/// What both have in common: held by stage 2 (VM); AArch64 (RW); interrupts to EL2; implementation-defined registers trap (TIDCP),
/// should there be some for EL0.
const HCR_BOTH: u64 = VM | RW | FMO | IMO | AMO | SWIO | TIDCP;
/// HCR_EL2.VSE: a virtual SError is pending.
pub const HCR_SERROR: u64 = 1 << 8;
/// HCR_EL2.TWE: WFE traps.
pub const HCR_WAIT_EVENT: u64 = 1 << 14;
/// HCR_EL2.FWB: stage 2 alone decides on the memory type of RAM, so that guests cannot look past the caches.
const HCR_FORCED_WRITE_BACK: u64 = 1 << 46;

const VM: u64 = 1 << 0;
const SWIO: u64 = 1 << 1;
const FMO: u64 = 1 << 3;
const IMO: u64 = 1 << 4;
const AMO: u64 = 1 << 5;
const FB: u64 = 1 << 9;
const BSU_INNER: u64 = 1 << 10;
const DC: u64 = 1 << 12;
const TWI: u64 = 1 << 13;
const TID3: u64 = 1 << 18;
const TSC: u64 = 1 << 19;
const TIDCP: u64 = 1 << 20;
const TACR: u64 = 1 << 21;
const TGE: u64 = 1 << 27;
const RW: u64 = 1 << 31;
const TLOR: u64 = 1 << 35;
const TERR: u64 = 1 << 36;
const APK: u64 = 1 << 40;
const API: u64 = 1 << 41;

/// SCTLR_EL1 while threads run: RES1 bits, cache maintenance and cache type at EL0 (UCI, UCT, DZE); little-endian, no
/// alignment checks; WFI and WFE trap. TGE and DC have M mean nothing for threads; see [`TCR_THREAD`].
pub const SCTLR_THREAD: u64 = 0x30d0_0980 | 1 << 26 | 1 << 15 | 1 << 14 | 1;
/// CPACR_EL1 while threads run: vector registers trap.
pub const CPACR_THREAD: u64 = 0;
/// TCR_EL1 outside of guests: no walks of the guest's tables, which are still loaded (EPD0, EPD1). Cores that speculate with an EL1
/// whose registers are changed one by one cache what they find (Cortex-A57 erratum 1319537, Cortex-A72 erratum
/// 1319367): with stage 1 on and no walks there is nothing to find. So HCR_EL2 and VTTBR_EL2 are switched between guest and
/// threads while these values are in place, VTTBR_EL2 while HCR_EL2 is the guest's.
pub const TCR_THREAD: u64 = 1 << 23 | 1 << 7;
/// CNTKCTL_EL1 while threads run: the physical counter can be read, the virtual one, which shows a guest's offset, and timers
/// not.
pub const CNTKCTL_THREAD: u64 = 0b01;

/// CPTR_EL2: RES1 bits; SVE, SME and trace registers (TTA) trap, FP does not.
const CPTR: u64 = 0x33ff | 1 << 20;
/// CPTR_EL2.TAM: activity monitors trap, on CPUs that have them.
const CPTR_ACTIVITY: u64 = 1 << 30;
/// CNTHCTL_EL2 while a guest runs: the physical counter can be read (EL1PCTEN), the physical timer traps.
pub const CNTHCTL_GUEST: u64 = 1 << 0;
/// CNTHCTL_EL2 while threads run: as well EL1PCEN, without which QEMU 7.2 traps EL0's reads of the physical counter;
/// CNTKCTL_EL1 denies EL0 the timer.
pub const CNTHCTL_THREAD: u64 = 0b11;
/// MDCR_EL2: debug, trace, profiling and performance-monitor registers trap (TTRF, TPMS, TDRA, TDOSA, TDA, TPM, TPMCR); the lower bits say how many
/// counters EL1 has.
const MDCR: u64 = 1 << 19 | 1 << 14 | 1 << 11 | 1 << 10 | 1 << 9 | 1 << 6 | 1 << 5;
const MDCR_COUNTERS: u64 = 0x1f;

static FORCED_WRITE_BACK: AtomicBool = AtomicBool::new(false);

/// Chooses, by the boot CPU, what is the same on all.
pub fn choose() {
    FORCED_WRITE_BACK.store(has_forced_write_back(), Ordering::Relaxed);
}

/// Whether this CPU has what was chosen.
pub fn fits() -> bool {
    check().is_ok() && (!forces_write_back() || has_forced_write_back())
}

/// Whether stage 2 alone decides on memory types, and in which format (Arm ARM D8.5.5).
#[inline]
pub fn forces_write_back() -> bool {
    FORCED_WRITE_BACK.load(Ordering::Relaxed)
}

/// ID_AA64MMFR2_EL1.FWB.
fn has_forced_write_back() -> bool {
    read!("S3_0_C0_C7_2") >> 40 & 0xf != 0
}

/// Bits of HCR_EL2 that threads and guests have in common.
pub fn hcr_common() -> u64 {
    if forces_write_back() { HCR_FORCED_WRITE_BACK } else { 0 }
}

/// Checks this CPU; if the kernel does not run on it, says why.
pub fn check() -> Result<(), &'static str> {
    if paging::physical_range() < paging::LEAST_PHYSICAL_RANGE {
        return Err("this CPU has fewer than 40 bits of physical addresses");
    }
    // TGran4: 0b1111 means absent (Arm ARM D17.2.64).
    if read!("id_aa64mmfr0_el1") >> 28 & 0xf == 0xf {
        return Err("this CPU has no 4 KiB translation granule");
    }
    if read!("id_aa64pfr0_el1") & 0xf == 0 {
        return Err("this CPU does not run AArch64 programs");
    }
    Ok(())
}

/// Whether the CPU authenticates pointers (ID_AA64ISAR1_EL1.API, APA; ID_AA64ISAR2_EL1.APA3).
pub fn has_pointer_authentication() -> bool {
    let isar1 = read!("id_aa64isar1_el1");
    let isar2 = read!("S3_0_C0_C6_2");
    isar1 >> 4 & 0xff != 0 || isar2 >> 12 & 0xf != 0
}

/// Whether the CPU has registers for errors of guests (ID_AA64PFR0_EL1.RAS).
pub fn has_error_records() -> bool {
    read!("id_aa64pfr0_el1") >> 28 & 0xf != 0
}

/// Whether the CPU has SME (ID_AA64PFR1_EL1.SME).
pub fn has_matrices() -> bool {
    read!("id_aa64pfr1_el1") >> 24 & 0xf != 0
}

/// Whether EL0 can be AArch32 (ID_AA64PFR0_EL1.EL0).
pub fn has_aarch32() -> bool {
    read!("id_aa64pfr0_el1") & 0xf == 2
}

/// Sets what never changes on this CPU, and what threads need.
pub fn enable_on_this_cpu() {
    write!("hcr_el2", HCR_THREAD | hcr_common());
    write!("vttbr_el2", paging::empty_space());
    write!("vtcr_el2", paging::vtcr());
    let activity = if read!("id_aa64pfr0_el1") >> 44 & 0xf != 0 { CPTR_ACTIVITY } else { 0 };
    write!("cptr_el2", CPTR | activity);
    write!("cntvoff_el2", 0);
    write!("cntv_ctl_el0", 0);
    write!("cnthp_ctl_el2", 0);
    write!("mdcr_el2", MDCR | read!("mdcr_el2") & MDCR_COUNTERS);
    write!("hstr_el2", 0);
    // Fine-grained traps and HCRX_EL2 add to the above; where they are there, firmware may have left anything in them.
    let fine_grained = read!("id_aa64mmfr0_el1") >> 56 & 0xf;
    if fine_grained >= 1 {
        clear_fine_grained_traps();
        if activity != 0 {
            // HAFGRTR_EL2: activity monitors trap as a whole.
            write!("S3_4_C3_C1_6", 0);
        }
    }
    if fine_grained >= 2 {
        clear_more_fine_grained_traps();
    }
    if read!("id_aa64mmfr1_el1") >> 40 & 0xf != 0 {
        write!("S3_4_C1_C2_2", 0);
    }
    let (pfr0, pfr1) = (read!("id_aa64pfr0_el1"), read!("id_aa64pfr1_el1"));
    if pfr0 >> 40 & 0xf != 0 || pfr1 >> 16 & 0xf != 0 {
        trap_partitioning();
    }
    virt::Thread::load_for_threads();
    write!("mdscr_el1", 0);
    if has_matrices() {
        write!("S3_3_C13_C0_5", 0);
    }
    // Performance counters: not for EL0. 0xf is a kind of its own.
    if !matches!(read!("id_aa64dfr0_el1") >> 8 & 0xf, 0 | 0xf) {
        write!("pmuserenr_el0", 0);
    }
    isb();
    super::flush_all();
}

/// Guests get the default partition, and no access to the registers of partitioning (MPAM; Arm DDI 0598, 7.3).
fn trap_partitioning() {
    // MPAMIDR_EL1: HAS_TIDR, HAS_HCR.
    let identity = read!("S3_0_C10_C4_4");
    let (has_tidr, has_hcr) = (identity & 1 << 58 != 0, identity & 1 << 17 != 0);
    write!("S3_0_C10_C5_0", 0);
    write!("S3_0_C10_C5_1", 0);
    // MPAM2_EL2: TRAPMPAM0EL1, TRAPMPAM1EL1, TIDR; all partitions are 0.
    let tidr = if has_tidr { 1 << 58 } else { 0 };
    write!("S3_4_C10_C5_0", 1 << 49 | 1 << 48 | tidr);
    if has_hcr {
        // MPAMHCR_EL2.TRAP_MPAMIDR_EL1.
        write!("S3_4_C10_C4_0", 1 << 31);
    }
}

/// HFGRTR_EL2, HFGWTR_EL2, HFGITR_EL2, HDFGRTR_EL2 and HDFGWTR_EL2: no traps.
fn clear_fine_grained_traps() {
    write!("S3_4_C1_C1_4", 0);
    write!("S3_4_C1_C1_5", 0);
    write!("S3_4_C1_C1_6", 0);
    write!("S3_4_C3_C1_4", 0);
    write!("S3_4_C3_C1_5", 0);
}

/// HDFGRTR2_EL2, HDFGWTR2_EL2, HFGRTR2_EL2, HFGWTR2_EL2 and HFGITR2_EL2 (FEAT_FGT2): what they name traps.
fn clear_more_fine_grained_traps() {
    write!("S3_4_C3_C1_0", 0);
    write!("S3_4_C3_C1_1", 0);
    write!("S3_4_C3_C1_2", 0);
    write!("S3_4_C3_C1_3", 0);
    write!("S3_4_C3_C1_7", 0);
}

/// Identification registers, as [`abi::boot::BootInfo::id_registers`] has them. Those without a name read 0 (Arm ARM
/// D17.3.1).
pub fn id_registers() -> [u64; abi::boot::ID_REGISTERS] {
    macro_rules! row {
        ($name:literal) => { row!($name 0 1 2 3 4 5 6 7) };
        ($name:literal $($column:literal)*) => { [$(read!(concat!($name, $column))),*] };
    }
    let rows = [
        [read!("midr_el1"), 0, 0, 0, 0, read!("mpidr_el1"), read!("revidr_el1"), 0],
        row!("S3_0_C0_C1_"),
        row!("S3_0_C0_C2_"),
        row!("S3_0_C0_C3_"),
        row!("S3_0_C0_C4_"),
        row!("S3_0_C0_C5_"),
        row!("S3_0_C0_C6_"),
        row!("S3_0_C0_C7_"),
    ];
    core::array::from_fn(|i| rows[i / 8][i % 8])
}
