//! Translation tables: stage 2 for host, guest and device spaces alike, and the kernel's own at EL2.
//!
//! Granule 4 KiB. Stage 2 has 39 bits of input from one table at level 1 (Arm ARM D8.2); EL2's stage 1 has 48. In the
//! terms of [`crate::tables`], level 0 holds pages, as Arm's level 3 does.

use super::features;
use super::firmware::smccc;
use super::sysreg::{isb, publish, read};
use crate::addr::{HostPhys, HostVirt};
use crate::domain::Domain;
use crate::mem::{self, KernelPage};
use crate::space::Mapped;
use crate::tables::{self, Bits, KernelRights, Taken};
use abi::Status;
use abi::cap::Rights;
use abi::syscall::{Caching, SpaceKind};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const VALID: u64 = 1 << 0;
/// A table above level 0; a page at level 0.
const TABLE: u64 = 1 << 1;
const INNER_SHAREABLE: u64 = 3 << 8;
const ACCESSED: u64 = 1 << 10;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Stage 2: access (S2AP), memory type (MemAttr) and execution (Arm ARM D8.3).
const S2_READ: u64 = 1 << 6;
const S2_WRITE: u64 = 1 << 7;
const S2_NORMAL: u64 = 0b1111 << 2;
/// As `S2_NORMAL`, where HCR_EL2.FWB is set: write-back, whatever the guest says.
const S2_FORCED_WRITE_BACK: u64 = 0b0110 << 2;
/// The same with and without HCR_EL2.FWB.
const S2_NON_CACHEABLE: u64 = 0b0101 << 2;
const S2_DEVICE_NGNRE: u64 = 0b0001 << 2;
const S2_NO_EXECUTE: u64 = 1 << 54;

/// Stage 1 at EL2: AP[1] is RES1, AP[2] denies writing.
const EL2_RES1: u64 = 1 << 6;
const EL2_READ_ONLY: u64 = 1 << 7;
const EL2_NO_EXECUTE: u64 = 1 << 54;
/// Indices into [`MAIR`].
const NORMAL: u64 = 0 << 2;
const DEVICE: u64 = 1 << 2;

/// MAIR_EL2: 0 is normal memory, write-back; 1 is device memory, nGnRE.
pub const MAIR: u64 = 0x04ff;
/// TCR_EL2 but for PS: 48 bits, cacheable walks, inner shareable; bits 31 and 23 are RES1.
pub const TCR: u64 = 1 << 31 | 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 16;
/// VTCR_EL2 but for PS: 39 bits (T0SZ), level 1 first (SL0), cacheable walks, inner shareable; bit 31 is RES1.
const VTCR: u64 = 1 << 31 | 3 << 12 | 1 << 10 | 1 << 8 | 1 << 6 | 25;

/// Bits of physical addresses that every supported CPU has, at least (PARange 0b0010).
pub const LEAST_PHYSICAL_RANGE: u64 = 2;

/// Root of the kernel's tables.
static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);
/// A stage-2 table without entries: what is loaded while no space may be.
static EMPTY_ROOT: AtomicU64 = AtomicU64::new(0);

/// ID_AA64MMFR0_EL1.PARange, at most 48 bits.
pub fn physical_range() -> u64 {
    (read!("id_aa64mmfr0_el1") & 0xf).min(5)
}

/// First physical address that stage 2 cannot reach.
pub fn physical_end() -> u64 {
    const BITS: [u32; 6] = [32, 36, 40, 42, 44, 48];
    1 << BITS[physical_range() as usize]
}

/// VTCR_EL2.
pub fn vtcr() -> u64 {
    VTCR | physical_range() << 16
}

#[derive(Clone, Copy)]
struct Format {
    levels: u32,
}

const STAGE_2: Format = Format { levels: 3 };
const KERNEL: Format = Format { levels: 4 };

impl tables::Format for Format {
    const ADDRESS: u64 = ADDRESS;

    fn levels(self) -> u32 {
        self.levels
    }

    fn is_present(self, entry: u64) -> bool {
        entry & VALID != 0
    }

    fn is_block(self, entry: u64) -> bool {
        entry & TABLE == 0
    }
}

fn bits(leaf: u64, largest: u32) -> Bits {
    let leaf = leaf | VALID | ACCESSED;
    Bits { page: leaf | TABLE, block: leaf, table: VALID | TABLE, largest }
}

/// The stage-2 tables of a space.
pub struct PageTable {
    root: KernelPage,
    /// How far freeing has come.
    freed_to: AtomicU64,
    freed: AtomicBool,
}

impl PageTable {
    /// Empty tables; `payer` pays for them.
    pub fn new(_kind: SpaceKind, payer: &Domain) -> Result<PageTable, Status> {
        Ok(PageTable {
            root: payer.alloc_page()?,
            freed_to: AtomicU64::new(0),
            freed: AtomicBool::new(false),
        })
    }

    /// VTTBR_EL2 for these tables with VMID `tag`.
    #[inline(always)]
    pub fn translation_base(&self, tag: u16) -> u64 {
        self.root.phys().0 | u64::from(tag) << 48
    }

    /// What the fast path loads; 0 without a tag of its own, or if switches take a barrier.
    pub fn fast_switch(&self, tag: u16) -> u64 {
        if tag == 0 || smccc::separates() { 0 } else { self.translation_base(tag) }
    }

    /// Maps the largest page that fits at `at`, at most `left` bytes; returns its size.
    pub fn map(&self, at: u64, left: u64, mapped: &Mapped, payer: &Domain) -> Result<u64, Status> {
        let has = |right, bit| {
            if mapped.rights.contains(right) { bit } else { 0 }
        };
        let memory = match mapped.uncached() {
            Some(Caching::WriteCombining) => S2_NON_CACHEABLE | INNER_SHAREABLE,
            Some(_) => S2_DEVICE_NGNRE,
            None if features::forces_write_back() => S2_FORCED_WRITE_BACK | INNER_SHAREABLE,
            None => S2_NORMAL | INNER_SHAREABLE,
        };
        let execute = if mapped.rights.contains(Rights::EXEC) {
            forget_instructions();
            0
        } else {
            S2_NO_EXECUTE
        };
        let leaf = memory | S2_READ | has(Rights::WRITE, S2_WRITE) | execute;
        let alloc = || payer.alloc_page();
        let size =
            tables::map_leaf(STAGE_2, self.root, at, mapped.phys, left, &bits(leaf, 2), alloc);
        publish();
        size
    }

    /// Unmaps the page at `at`, or passes over a stretch without one; returns the bytes, at most `left`.
    pub fn unmap(&self, at: u64, left: u64) -> u64 {
        tables::unmap(STAGE_2, self.root, at, left)
    }

    /// Frees one table, or looks for one; `false` when none is left.
    pub fn free_step(&self, payer: &Domain) -> bool {
        if self.freed.load(Ordering::Relaxed) {
            return false;
        }
        match tables::take_table(STAGE_2, self.root, 512, &self.freed_to) {
            Taken::Table(table) => payer.free_page(table),
            Taken::Nothing => {}
            Taken::Last => {
                self.freed.store(true, Ordering::Relaxed);
                payer.free_page(self.root);
            }
        }
        true
    }
}

/// Memory becomes executable somewhere: nothing that was fetched from it before is executed there.
///
/// Programs make code visible that they write, but by the addresses that it has with them: in an instruction cache that finds lines
/// by virtual addresses (CTR_EL0.L1Ip, as of Cortex-A53) there can be others of the same memory, a former owner's, which go
/// only with all (Arm ARM D7.5, "VIPT instruction caches").
fn forget_instructions() {
    const PHYSICALLY_INDEXED: u64 = 0b11;
    if read!("ctr_el0") >> 14 & 0b11 != PHYSICALLY_INDEXED {
        // SAFETY: dropping instructions is always safe.
        unsafe { core::arch::asm!("ic ialluis", "dsb ish", options(nostack, preserves_flags)) };
    }
}

/// Makes the kernel's root table. Boot only.
pub fn init_kernel() -> Option<()> {
    KERNEL_ROOT.store(mem::alloc()?.phys().0, Ordering::Relaxed);
    EMPTY_ROOT.store(mem::alloc()?.phys().0, Ordering::Relaxed);
    Some(())
}

/// Maps kernel memory. Boot only; what is mapped stays.
pub fn map_kernel(at: HostVirt, phys: HostPhys, size: u64, rights: KernelRights) -> Option<()> {
    map_at(kernel_root(), at, phys, size, rights, mem::alloc)
}

/// Maps kernel memory in the tables at `root`, which takes further tables from `alloc`.
pub fn map_at(
    root: HostPhys,
    at: HostVirt,
    phys: HostPhys,
    size: u64,
    rights: KernelRights,
    mut alloc: impl FnMut() -> Option<KernelPage>,
) -> Option<()> {
    let root = KernelPage::from_phys(root);
    let leaf = EL2_RES1
        | match rights {
            KernelRights::ReadExecute => NORMAL | INNER_SHAREABLE | EL2_READ_ONLY,
            KernelRights::Read => NORMAL | INNER_SHAREABLE | EL2_READ_ONLY | EL2_NO_EXECUTE,
            KernelRights::ReadWrite => NORMAL | INNER_SHAREABLE | EL2_NO_EXECUTE,
            KernelRights::Device => DEVICE | EL2_NO_EXECUTE,
        };
    let mut done = 0;
    while done < size {
        let (at, phys) = (at.offset(done), phys.offset(done));
        let alloc = || alloc().ok_or(Status::Quota);
        let bits = bits(leaf, 1);
        done += tables::map_leaf(KERNEL, root, at.0, phys, size - done, &bits, alloc).ok()?;
    }
    publish();
    isb();
    Some(())
}

/// Root of the kernel's own tables.
pub fn kernel_root() -> HostPhys {
    HostPhys(KERNEL_ROOT.load(Ordering::Relaxed))
}

/// VTTBR_EL2 with nothing behind it.
pub fn empty_space() -> u64 {
    EMPTY_ROOT.load(Ordering::Relaxed)
}
