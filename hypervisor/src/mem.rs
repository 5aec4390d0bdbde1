//! The pool: all memory that kernel objects are made of.
//!
//! One contiguous range, chosen at boot, handed out page by page. Who pays is decided by the
//! caller ([`crate::domain::Domain`]): the quotas of all domains together never exceed the pool.

use crate::addr::{HostPhys, HostVirt};
use crate::arch::{self, layout};
use crate::sync::TicketMutex;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page.
pub const PAGE: u64 = abi::PAGE_SIZE as u64;

/// A page of kernel memory, owned by whoever holds this value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct KernelPage {
    /// Where the kernel sees it.
    pub virt: HostVirt,
}

impl KernelPage {
    /// No page: fills arrays.
    pub const NONE: KernelPage = KernelPage { virt: HostVirt(0) };

    /// The page at physical address `phys`, which is inside the pool.
    pub fn from_phys(phys: HostPhys) -> KernelPage {
        KernelPage { virt: layout::window(phys) }
    }

    /// The page at kernel address `virt`, which is inside the pool.
    pub fn from_virt(virt: u64) -> KernelPage {
        KernelPage { virt: HostVirt(virt) }
    }

    /// Where it is.
    pub fn phys(self) -> HostPhys {
        layout::window_phys(self.virt)
    }

    /// Fills the page with copies of a word.
    pub fn fill(&self, word: u64) {
        // SAFETY: the page belongs to the holder and is mapped writable in the window.
        unsafe { arch::fill_page(self.virt.0, word) };
    }

    /// Copies `count` words from the same place of another page, each read once.
    pub fn copy(&self, from: KernelPage, first: usize, count: usize) {
        assert!(first + count <= 512);
        let offset = first as u64 * 8;
        // SAFETY: inside the pages, which the holder may read and write. What programs or other CPUs change in them
        // meanwhile is copied as it was before or after.
        unsafe { arch::copy_words(from.virt.0 + offset, self.virt.0 + offset, count) };
    }

    /// Reads word `index` (0 to 511).
    #[inline]
    pub fn read(&self, index: usize) -> u64 {
        debug_assert!(index < 512);
        // SAFETY: inside the page, which the holder owns; atomic because page tables are read and
        // written by the processor and by other CPUs too.
        let word = unsafe { &*((self.virt.0 as *const AtomicU64).add(index & 511)) };
        word.load(Ordering::Relaxed)
    }

    /// Writes word `index` (0 to 511).
    #[inline]
    pub fn write(&self, index: usize, value: u64) {
        debug_assert!(index < 512);
        // SAFETY: as for `read`.
        let word = unsafe { &*((self.virt.0 as *const AtomicU64).add(index & 511)) };
        word.store(value, Ordering::Release);
    }
}

/// Free pages are full of zeros but for their link, so that who takes many at once does not clear many at once.
struct FreeList {
    head: u64,
    untouched: u64,
    end: u64,
    free: u64,
}

static POOL: TicketMutex<FreeList> =
    TicketMutex::new(FreeList { head: 0, untouched: 0, end: 0, free: 0 });
static POOL_BASE: AtomicU64 = AtomicU64::new(0);

/// Gives the pool its memory, once, at boot: `size` bytes at `base`, mapped in the window. Clears them.
///
/// # Safety
/// The range belongs to the kernel alone and is mapped read-write.
pub unsafe fn init(base: HostPhys, size: u64) {
    let start = layout::window(base).0;
    // SAFETY: the caller's word.
    unsafe { core::ptr::write_bytes(start as *mut u8, 0, size as usize) };
    let mut pool = POOL.lock();
    *pool = FreeList { head: 0, untouched: start, end: start + size, free: size / PAGE };
    POOL_BASE.store(start, Ordering::Relaxed);
}

/// The pool as after [`init`]: clears what was taken since. Whoever had it is gone.
#[cfg(test)]
pub fn reset() {
    let mut pool = POOL.lock();
    let start = base();
    let used = (pool.untouched - start) as usize;
    // SAFETY: that part of the pool is mapped, and nobody's any more.
    unsafe { core::ptr::write_bytes(start as *mut u8, 0, used) };
    pool.head = 0;
    pool.untouched = start;
    pool.free = (pool.end - start) / PAGE;
}

/// What brings the pool back to its present state.
#[cfg(test)]
pub fn save() -> impl Fn() {
    let (head, untouched, free) = {
        let pool = POOL.lock();
        (pool.head, pool.untouched, pool.free)
    };
    let size = (untouched - base()) as usize;
    // SAFETY: that part of the pool is mapped. Whatever refers to it, nobody writes there now.
    let bytes = unsafe { core::slice::from_raw_parts(base() as *const u8, size) }.to_vec();
    move || {
        let mut pool = POOL.lock();
        let since = pool.untouched.saturating_sub(untouched) as usize;
        // SAFETY: as above; what was taken since is clear again, as all that was never taken.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), base() as *mut u8, size);
            core::ptr::write_bytes(untouched as *mut u8, 0, since);
        }
        (pool.head, pool.untouched, pool.free) = (head, untouched, free);
    }
}

/// Kernel address at which the pool starts.
pub fn base() -> u64 {
    POOL_BASE.load(Ordering::Relaxed)
}

/// Pages that are free.
pub fn free_pages() -> u64 {
    POOL.lock().free
}

/// Takes a page, filled with zeros. The caller has charged somebody for it.
pub fn alloc() -> Option<KernelPage> {
    let mut pool = POOL.lock();
    let page = if pool.head != 0 {
        let page = KernelPage::from_virt(pool.head);
        pool.head = page.read(0);
        page.write(0, 0);
        page
    } else if pool.untouched < pool.end {
        pool.untouched += PAGE;
        KernelPage::from_virt(pool.untouched - PAGE)
    } else {
        return None;
    };
    pool.free -= 1;
    Some(page)
}

/// Returns a page that nothing refers to any more, and clears it.
pub fn free(page: KernelPage) {
    page.fill(0);
    let mut pool = POOL.lock();
    page.write(0, pool.head);
    pool.head = page.virt.0;
    pool.free += 1;
}

/// Takes `count` adjoining pages. Only at boot, before any page has been returned.
pub fn alloc_adjoining(count: usize) -> Option<KernelPage> {
    let first = alloc()?;
    for i in 1..count as u64 {
        if alloc()?.virt.0 != first.virt.0 + i * PAGE {
            return None;
        }
    }
    Some(first)
}

/// Has whoever still uses freed memory at `start` fail.
#[cfg(test)]
pub fn poison(start: u64, size: u64) {
    for at in (start..start + size).step_by(8) {
        // SAFETY: the memory was freed, and is inside the pool.
        unsafe { (at as *mut u64).write_volatile(0x6b6b_6b6b_6b6b_6b68) };
    }
}
