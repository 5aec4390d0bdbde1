//! Translation tables of any architecture with 512 entries of 8 bytes in a table: walking, filling, freeing.

use crate::addr::HostPhys;
use crate::mem::KernelPage;
use abi::Status;

/// A format of translation tables.
pub trait Format: Copy {
    /// Bits of an entry that hold an address.
    const ADDRESS: u64;
    /// Number of levels; the root is at level `LEVELS - 1`, pages at level 0.
    fn levels(self) -> u32;
    /// Whether an entry translates or leads to a table.
    fn is_present(self, entry: u64) -> bool;
    /// Whether a present entry above level 0 translates.
    fn is_block(self, entry: u64) -> bool;
}

/// Bits of the entries that a mapping consists of.
#[derive(Clone, Copy, Debug)]
pub struct Bits {
    /// A page's, at level 0.
    pub page: u64,
    /// A block's, above.
    pub block: u64,
    /// A table's.
    pub table: u64,
    /// Level of the largest block.
    pub largest: u32,
}

/// Bytes that an entry at `level` translates.
pub const fn span(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

/// Index of the entry for `at` in a table at `level`.
pub const fn index(at: u64, level: u32) -> usize {
    (at >> (12 + 9 * level)) as usize & 511
}

fn table<F: Format>(entry: u64) -> KernelPage {
    KernelPage::from_phys(HostPhys(entry & F::ADDRESS))
}

/// Makes one leaf at `at`, as large as alignment and `left` allow; returns its size.
pub fn map_leaf<F: Format>(
    format: F,
    root: KernelPage,
    at: u64,
    phys: HostPhys,
    left: u64,
    bits: &Bits,
    mut alloc: impl FnMut() -> Result<KernelPage, Status>,
) -> Result<u64, Status> {
    let mut target = bits.largest;
    while target > 0 && ((at | phys.0) & (span(target) - 1) != 0 || left < span(target)) {
        target -= 1;
    }
    let (mut page, mut level) = (root, format.levels() - 1);
    loop {
        let i = index(at, level);
        let entry = page.read(i);
        let is_table = level > 0 && format.is_present(entry) && !format.is_block(entry);
        if level == target && !is_table {
            if format.is_present(entry) {
                return Err(Status::Occupied);
            }
            let leaf = if level > 0 { bits.block } else { bits.page };
            page.write(i, phys.0 | leaf);
            return Ok(span(level));
        }
        if is_table {
            // A table that is there keeps its small pages.
            target = target.min(level - 1);
            page = table::<F>(entry);
        } else if format.is_present(entry) {
            return Err(Status::Occupied);
        } else {
            let fresh = alloc()?;
            page.write(i, fresh.phys.0 | bits.table);
            page = fresh;
        }
        level -= 1;
    }
}

/// Clears the leaf at `at`, or passes over a stretch without one; returns the bytes, at most `left`.
pub fn unmap<F: Format>(format: F, root: KernelPage, at: u64, left: u64) -> u64 {
    let (mut page, mut level) = (root, format.levels() - 1);
    loop {
        let i = index(at, level);
        let entry = page.read(i);
        let stretch = (span(level) - (at & (span(level) - 1))).min(left);
        if !format.is_present(entry) {
            return stretch;
        }
        if level == 0 || format.is_block(entry) {
            page.write(i, 0);
            return stretch;
        }
        page = table::<F>(entry);
        level -= 1;
    }
}

/// Takes out one table that leads to no other, of those behind the first `entries` of the root; `None` if there is
/// none, the root apart.
pub fn take_table<F: Format>(format: F, root: KernelPage, entries: usize) -> Option<KernelPage> {
    let mut parent: Option<(KernelPage, usize)> = None;
    let (mut page, mut level) = (root, format.levels() - 1);
    while level > 0 {
        let entries = if level == format.levels() - 1 {
            entries
        } else {
            512
        };
        let is_table = |entry: u64| format.is_present(entry) && !format.is_block(entry);
        let Some(i) = (0..entries).find(|&i| is_table(page.read(i))) else {
            break;
        };
        parent = Some((page, i));
        page = table::<F>(page.read(i));
        level -= 1;
    }
    let (above, i) = parent?;
    above.write(i, 0);
    Some(page)
}

/// Rights of mappings of the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelRights {
    /// Code.
    ReadExecute,
    /// Constants.
    Read,
    /// Data.
    ReadWrite,
    /// Device registers.
    Device,
}
