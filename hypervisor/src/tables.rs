//! Translation tables of any architecture with 512 entries of 8 bytes in a table: walking, filling, freeing.

use crate::addr::HostPhys;
use crate::mem::KernelPage;
use abi::Status;
use core::sync::atomic::{AtomicU64, Ordering};

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
            page.write(i, fresh.phys().0 | bits.table);
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

/// Entries that one call of [`take_table`] passes over.
const BATCH: usize = 128;

/// What [`take_table`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A table, which leads to no other and is not the root.
    Table(KernelPage),
    /// Nothing so far: the next call goes on.
    Nothing,
    /// There is none any more but the root.
    Last,
}

/// Takes out a table, of those behind the first `entries` of the root. `from` is the address below which there is none:
/// 0 at first, then as the last call left it. Nobody maps anything meanwhile.
pub fn take_table<F: Format>(
    format: F,
    root: KernelPage,
    entries: usize,
    from: &AtomicU64,
) -> Taken {
    let is_table = |entry: u64| format.is_present(entry) && !format.is_block(entry);
    let mut at = from.load(Ordering::Relaxed);
    let (mut page, mut level) = (root, format.levels() - 1);
    let mut above: Option<(KernelPage, usize)> = None;
    let (mut i, mut end) = ((at / span(level)) as usize, entries);
    let mut looks = BATCH;
    while level > 0 {
        while i < end && !is_table(page.read(i)) {
            i += 1;
            at = (at & !(span(level) - 1)) + span(level);
            looks -= 1;
            // At its end a table can be taken, and is not found again from the address behind.
            if looks == 0 && i < end {
                from.store(at, Ordering::Relaxed);
                return Taken::Nothing;
            }
        }
        if i == end {
            break;
        }
        above = Some((page, i));
        page = table::<F>(page.read(i));
        level -= 1;
        (i, end) = (index(at, level), 512);
    }
    let Some((parent, i)) = above else {
        return Taken::Last;
    };
    parent.write(i, 0);
    from.store(at, Ordering::Relaxed);
    Taken::Table(page)
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
