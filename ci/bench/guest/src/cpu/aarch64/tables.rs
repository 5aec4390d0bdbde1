//! Translation tables (Arm ARM D8.3): 39 bits of address in pages of 4 KiB.
//!
//! Everything is mapped as it is: RAM in pages, programs to be executed and read by EL1 and EL0, data to be read and written by
//! both; as devices what is below RAM's block of 2 MiB and above it, for EL1.

use bench_guest::place;
use core::arch::asm;

/// Entries of a table.
#[repr(C, align(4096))]
pub struct Entries(pub [u64; 512]);

impl Entries {
    /// A table that maps nothing.
    pub const EMPTY: Entries = Entries([0; 512]);
}

/// The first table: an entry for each GiB.
pub static mut ROOT: Entries = Entries::EMPTY;
/// The first GiB: an entry for each 2 MiB.
static mut LOW: Entries = Entries::EMPTY;
/// RAM: an entry for each page.
static mut RAM: Entries = Entries::EMPTY;

/// Bytes that an entry of each level maps.
const GIB: u64 = 1 << 30;
const BLOCK: u64 = 2 << 20;
const PAGE: u64 = 4 << 10;

const _: () =
    assert!(place::RAM.start.is_multiple_of(BLOCK) && place::RAM.end - place::RAM.start == BLOCK);

/// A table, or a page; without it a block.
pub const TABLE: u64 = 3;
const LEAF: u64 = 1;
/// Index in MAIR_EL1 of device memory.
const DEVICE: u64 = 1 << 2;
/// For EL0 too; not to be written.
const EL0: u64 = 1 << 6;
const READ_ONLY: u64 = 1 << 7;
/// Inner shareable; accessed before.
const COMMON: u64 = 3 << 8 | 1 << 10;
/// Neither EL1 nor EL0 executes it.
const NEVER: u64 = 3 << 53;

/// A page of data.
pub const DATA: u64 = TABLE | EL0 | COMMON | NEVER;
const PROGRAM: u64 = TABLE | EL0 | READ_ONLY | COMMON;
const DEVICES: u64 = LEAF | DEVICE | COMMON | NEVER;

/// MAIR_EL1: write-back memory; device memory nGnRE.
const MAIR: u64 = 0xff | 0x04 << 8;
/// TCR_EL1: 39 bits of address, tables in write-back memory, inner shareable; 4 GiB of physical addresses; none by TTBR1_EL1.
const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23;
/// SCTLR_EL1: RES1 bits of Armv8.0; MMU and caches on.
const SCTLR: u64 = 0x30d0_0800 | 1 << 0 | 1 << 2 | 1 << 12;

unsafe extern "C" {
    /// The first page of data (guest.ld).
    #[link_name = "writable_start"]
    static WRITABLE: u8;
}

/// Makes the tables and switches the MMU on. vCPUs write the same words.
pub fn prepare() {
    let writable = &raw const WRITABLE as u64;
    // SAFETY: the tables are for this alone.
    unsafe {
        for i in 0..512 {
            let (page, block) = (i as u64 * PAGE, i as u64 * BLOCK);
            let at = place::RAM.start + page;
            let kind = if at < writable { PROGRAM } else { DATA };
            (&raw mut RAM.0[i]).write_volatile(at | kind);
            let entry = match block == place::RAM.start {
                true => &raw const RAM as u64 | TABLE,
                false => block | DEVICES,
            };
            (&raw mut LOW.0[i]).write_volatile(entry);
        }
        (&raw mut ROOT.0[0]).write_volatile(&raw const LOW as u64 | TABLE);
        (&raw mut ROOT.0[1]).write_volatile(GIB | DEVICES);
        asm!(
            "dsb sy",
            "msr mair_el1, {mair}",
            "msr tcr_el1, {tcr}",
            "msr ttbr0_el1, {root}",
            "tlbi vmalle1",
            "dsb sy",
            "isb",
            "msr sctlr_el1, {sctlr}",
            "isb",
            mair = in(reg) MAIR,
            tcr = in(reg) TCR,
            root = in(reg) &raw const ROOT,
            sctlr = in(reg) SCTLR,
            options(nostack),
        );
    }
}
