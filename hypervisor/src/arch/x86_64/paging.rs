//! Page tables: host spaces, and guest and device spaces in the formats of NPT and EPT.
//!
//! Four levels. Intel SDM vol. 3, 4.5 (host) and 28.3.2 (EPT); AMD APM vol. 2, 5.3 and 15.25 (NPT has the
//! host's format, with every access a user access).

use super::layout;
use crate::addr::{HostPhys, HostVirt};
use crate::domain::Domain;
use crate::mem::{self, KernelPage};
use crate::space::Mapped;
use crate::tables::{self, Bits, KernelRights, Taken, index};
use abi::boot::Virtualization;
use abi::cap::Rights;
use abi::syscall::{Caching, SpaceKind};
use abi::{Status, USER_END};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
/// Leaf above the lowest level: the same bit in all formats.
const LARGE: u64 = 1 << 7;
const EPT_EXECUTE: u64 = 1 << 2;
const EPT_UNCACHED: u64 = 0;
const EPT_WRITE_COMBINING: u64 = 1 << 3;
const EPT_WRITE_BACK: u64 = 6 << 3;
const EPT_IGNORE_PAT: u64 = 1 << 6;
/// Index 1 into [`PAT`], in the format of host and NPT.
const WRITE_COMBINING: u64 = WRITE_THROUGH;
/// IA32_PAT: as after reset (Intel SDM vol. 3, table 12-12), but for index 1, which is write-combining, and which nothing
/// uses before.
pub const PAT: u64 = 0x0007_0406_0007_0106;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const LEVELS: u32 = 4;

/// Largest leaf: level 1 (2 MiB), or 2 (1 GiB) where the processor has it.
static LARGEST_LEAF: AtomicU64 = AtomicU64::new(1);
/// The same in EPT, where a larger one would be a misconfiguration (Intel SDM 3C 29.3.3.1).
static LARGEST_EPT_LEAF: AtomicU64 = AtomicU64::new(1);
/// Physical address of the kernel's own root table.
pub(super) static KERNEL_ROOT: AtomicU64 = AtomicU64::new(0);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Host,
    Npt,
    Ept,
}

/// The page tables of a space.
pub struct PageTable {
    root: KernelPage,
    format: Format,
    /// How far freeing has come.
    freed_to: AtomicU64,
    freed: AtomicBool,
}

impl tables::Format for Format {
    const ADDRESS: u64 = ADDRESS;

    fn levels(self) -> u32 {
        LEVELS
    }

    fn is_present(self, entry: u64) -> bool {
        let present = match self {
            Format::Ept => PRESENT | WRITABLE | EPT_EXECUTE,
            Format::Host | Format::Npt => PRESENT,
        };
        entry & present != 0
    }

    fn is_block(self, entry: u64) -> bool {
        entry & LARGE != 0
    }
}

impl PageTable {
    /// Empty tables; `payer` pays for them.
    pub fn new(kind: SpaceKind, payer: &Domain) -> Result<PageTable, Status> {
        let format = match (kind, super::virtualization()) {
            (SpaceKind::Host, _) => Format::Host,
            (SpaceKind::Guest | SpaceKind::Device, Virtualization::Svm) => Format::Npt,
            // Also where no guest can run: it is vCPUs that cannot be made there.
            (SpaceKind::Guest | SpaceKind::Device, _) => Format::Ept,
        };
        let root = payer.alloc_page()?;
        if format == Format::Host {
            let kernel = KernelPage::from_phys(HostPhys(KERNEL_ROOT.load(Ordering::Relaxed)));
            for i in 256..512 {
                root.write(i, kernel.read(i));
            }
        }
        Ok(PageTable { root, format, freed_to: AtomicU64::new(0), freed: AtomicBool::new(false) })
    }

    /// Physical address of the root table.
    pub fn root(&self) -> HostPhys {
        self.root.phys()
    }

    /// The value of CR3 for these tables with PCID `tag`.
    pub fn fast_switch(&self, tag: u16) -> u64 {
        // Bit 63: keep the tag's translations (Intel SDM vol. 3, 4.10.4.1).
        self.root.phys().0 | tag as u64 | if tag != 0 { 1 << 63 } else { 0 }
    }

    fn bits(&self, mapped: &Mapped) -> Bits {
        let has = |right, bit| {
            if mapped.rights.contains(right) { bit } else { 0 }
        };
        let (leaf, table, largest) = match self.format {
            Format::Ept => {
                let memory = match mapped.uncached() {
                    None => EPT_WRITE_BACK | EPT_IGNORE_PAT,
                    // The guest may have it write-combining.
                    Some(_) if mapped.caching == Caching::Natural => EPT_UNCACHED,
                    Some(Caching::WriteCombining) => EPT_WRITE_COMBINING | EPT_IGNORE_PAT,
                    Some(_) => EPT_UNCACHED | EPT_IGNORE_PAT,
                };
                let rights = has(Rights::WRITE, WRITABLE) | has(Rights::EXEC, EPT_EXECUTE);
                let table = PRESENT | WRITABLE | EPT_EXECUTE;
                (PRESENT | memory | rights, table, &LARGEST_EPT_LEAF)
            }
            Format::Host | Format::Npt => {
                let memory = match mapped.uncached() {
                    None => 0,
                    Some(Caching::WriteCombining) => WRITE_COMBINING,
                    Some(_) => CACHE_DISABLE | WRITE_THROUGH,
                };
                let execute = if mapped.rights.contains(Rights::EXEC) { 0 } else { NO_EXECUTE };
                let rights = has(Rights::WRITE, WRITABLE) | execute;
                let table = PRESENT | WRITABLE | USER;
                (PRESENT | USER | memory | rights, table, &LARGEST_LEAF)
            }
        };
        Bits {
            page: leaf,
            block: leaf | LARGE,
            table,
            largest: largest.load(Ordering::Relaxed) as u32,
        }
    }

    /// Maps the largest page that fits at `at`, at most `left` bytes; returns its size.
    pub fn map(&self, at: u64, left: u64, mapped: &Mapped, payer: &Domain) -> Result<u64, Status> {
        debug_assert!(self.format != Format::Host || at + left <= USER_END);
        let (format, bits) = (self.format, self.bits(mapped));
        let alloc = || payer.alloc_page();
        tables::map_leaf(format, self.root, at, mapped.phys, left, &bits, alloc)
    }

    /// Unmaps the page at `at`, or passes over a stretch without one; returns the bytes, at most `left`.
    pub fn unmap(&self, at: u64, left: u64) -> u64 {
        tables::unmap(self.format, self.root, at, left)
    }

    /// Frees one table, or looks for one; `false` when none is left.
    pub fn free_step(&self, payer: &Domain) -> bool {
        if self.freed.load(Ordering::Relaxed) {
            return false;
        }
        let user_half = self.format == Format::Host;
        let entries = if user_half { 256 } else { 512 };
        match tables::take_table(self.format, self.root, entries, &self.freed_to) {
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

/// Says whether EPT has 1-GiB pages. Boot only.
pub fn set_ept_giant_pages(there: bool) {
    LARGEST_EPT_LEAF.store(if there { 2 } else { 1 }, Ordering::Relaxed);
}

/// Builds the kernel's own root table. Boot only.
pub fn init_kernel(page1g: bool) -> Option<KernelPage> {
    LARGEST_LEAF.store(if page1g { 2 } else { 1 }, Ordering::Relaxed);
    let root = mem::alloc()?;
    KERNEL_ROOT.store(root.phys().0, Ordering::Relaxed);
    // Later spaces copy the top-level entries: they are all there from now on.
    for at in [layout::WINDOW, layout::IMAGE] {
        let fresh = mem::alloc()?;
        root.write(index(at, 3), fresh.phys().0 | PRESENT | WRITABLE);
    }
    Some(root)
}

/// Maps kernel memory. Boot only; what is mapped stays.
pub fn map_kernel(at: HostVirt, phys: HostPhys, size: u64, rights: KernelRights) -> Option<()> {
    let root = KernelPage::from_phys(HostPhys(KERNEL_ROOT.load(Ordering::Relaxed)));
    let leaf = PRESENT
        | GLOBAL
        | match rights {
            KernelRights::ReadExecute => 0,
            KernelRights::Read => NO_EXECUTE,
            KernelRights::ReadWrite => NO_EXECUTE | WRITABLE,
            KernelRights::Device => NO_EXECUTE | WRITABLE | CACHE_DISABLE | WRITE_THROUGH,
        };
    let bits = Bits { page: leaf, block: leaf | LARGE, table: PRESENT | WRITABLE, largest: 1 };
    let mut done = 0;
    while done < size {
        let (at, phys) = (at.offset(done), phys.offset(done));
        let alloc = || mem::alloc().ok_or(Status::Quota);
        done += tables::map_leaf(Format::Host, root, at.0, phys, size - done, &bits, alloc).ok()?;
    }
    Some(())
}

/// Root of the kernel's own tables, with an empty user half.
pub fn kernel_root() -> HostPhys {
    HostPhys(KERNEL_ROOT.load(Ordering::Relaxed))
}
