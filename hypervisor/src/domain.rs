//! Protection domain: a capability table and a quota of kernel memory.

use crate::cell::Ref;
use crate::mem::{self, KernelPage, PAGE};
use crate::object::{self, AnyRef, Header, Object, Owned};
use crate::ring::Ring;
use crate::slot::{CapWord, Slot, Tree};
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use abi::cap::{Kind, Rights};
use abi::{Selector, Status};

/// Slots in a page of a capability table.
pub const SLOTS_PER_PAGE: u32 = (PAGE / 64) as u32;
// One directory page of table pages.
const _: () = assert!(abi::MAX_SLOTS == 512 * SLOTS_PER_PAGE);
/// Size of the cells that small objects are made in.
pub const CELL: u64 = 192;

/// Where the directory leads as long as nothing was put into a page of the table: empty slots, which are only read.
#[repr(C, align(4096))]
struct EmptySlots([AtomicU64; 512]);

static EMPTY: EmptySlots = EmptySlots([const { AtomicU64::new(0) }; 512]);

fn empty_slots() -> u64 {
    &raw const EMPTY as u64
}

/// Small objects of one domain: pages cut into cells.
struct Cells {
    free: u64,
    pages: u64,
}

/// Has the field behind it start a cache line; an even one, as processors fetch pairs of them.
#[repr(align(128))]
struct NewLine;

/// A protection domain.
#[repr(C, align(64))]
pub struct Domain {
    /// Common part.
    pub header: Header,
    directory: KernelPage,
    /// In as many bits as a register has that may name one of them.
    slots: u64,
    /// Above the levels of its payer and of the domain that made it.
    pub level: u8,
    dying: AtomicBool,
    /// What follows is written whenever something is created; what is before it, every call reads, on any CPU.
    _books: NewLine,
    /// Pages that it was given; changes under the tree's lock.
    limit: AtomicU64,
    /// Pages of those that nothing was charged to.
    free: AtomicU64,
    cells: TicketMutex<Cells>,
    objects: TicketMutex<Ring<Owned>>,
    /// Next selector that destruction looks at.
    cursor: AtomicU32,
}

/// Offsets for the fast path.
pub mod offset {
    use super::Domain;
    use core::mem::offset_of;
    /// Kernel address of the directory of table pages.
    pub const DIRECTORY: usize = offset_of!(Domain, directory);
    /// Number of slots, 64 bits. It follows the directory's address, for who loads both at once.
    pub const SLOTS: usize = offset_of!(Domain, slots);
}

impl Domain {
    /// Pages that a domain with `slots` slots takes beside its quota.
    pub fn overhead(slots: u32) -> u64 {
        2 + slots.div_ceil(SLOTS_PER_PAGE) as u64
    }

    /// Makes a domain of `slots` slots and `quota` pages. The caller has charged `payer` for [`Domain::overhead`] and the
    /// quota; the root domain has no other payer than itself. Pages of the table are taken when they are used first.
    pub fn create(
        payer: Option<Ref<Domain>>,
        level: u8,
        slots: u32,
        quota: u64,
    ) -> Result<Ref<Domain>, Status> {
        let page = mem::alloc().ok_or(Status::Quota)?;
        let directory = mem::alloc().ok_or(Status::Quota)?;
        for i in 0..slots.div_ceil(SLOTS_PER_PAGE) {
            directory.write(i as usize, empty_slots());
        }
        // SAFETY: nobody looks at it before it is there.
        let itself = || unsafe { Ref::from_address(page.virt.0) };
        let domain = Domain {
            header: Header::new(Kind::Domain, payer.unwrap_or_else(itself)),
            directory,
            slots: slots.into(),
            level,
            dying: AtomicBool::new(false),
            _books: NewLine,
            limit: AtomicU64::new(quota),
            free: AtomicU64::new(quota),
            cells: TicketMutex::new(Cells { free: 0, pages: 0 }),
            objects: TicketMutex::new(Ring::new()),
            cursor: AtomicU32::new(0),
        };
        // SAFETY: a fresh page, large and aligned enough.
        Ok(unsafe { Ref::place(page.virt.0, domain) })
    }

    /// The slot that `selector` names.
    #[inline(never)]
    pub fn slot(&self, selector: Selector) -> Option<Ref<Slot>> {
        self.slot_of_hot_path(selector)
    }

    /// The same, as a part of its caller: for operations that are called all the time.
    #[inline(always)]
    pub fn slot_of_hot_path(&self, selector: Selector) -> Option<Ref<Slot>> {
        let Selector(s) = selector;
        if u64::from(s) >= self.slots {
            return None;
        }
        let page = self.directory.read((s / SLOTS_PER_PAGE) as usize);
        // SAFETY: the directory holds a table page, or that of empty slots, for every selector below `slots`; a page
        // of zeros is a page of empty slots.
        Some(unsafe { Ref::from_address(page + (s % SLOTS_PER_PAGE) as u64 * 64) })
    }

    /// The capability that `selector` names; empty if there is none.
    #[inline(always)]
    pub fn capability(&self, selector: Selector) -> CapWord {
        self.slot_of_hot_path(selector).map_or(CapWord::NULL, |slot| slot.word())
    }

    /// The object that `selector` names, if it is a `T` and the capability has `rights`.
    #[inline(always)]
    pub fn find<T: Object>(&self, selector: Selector, rights: Rights) -> Result<Ref<T>, Status> {
        resolve(self.capability(selector), rights)
    }

    /// An empty slot for a new capability. The tree is locked.
    pub fn empty_slot(&self, selector: Selector) -> Result<Ref<Slot>, Status> {
        let slot = self.slot(selector).ok_or(Status::BadSelector)?;
        if selector == Selector::NULL {
            return Err(Status::BadSelector);
        }
        if !slot.is_free() {
            return Err(Status::Occupied);
        }
        if self.is_dying() {
            return Err(Status::Dead);
        }
        let place = (selector.0 / SLOTS_PER_PAGE) as usize;
        if self.directory.read(place) != empty_slots() {
            return Ok(slot);
        }
        // It was paid with the domain.
        let page = mem::alloc().ok_or(Status::Quota)?;
        self.directory.write(place, page.virt.0);
        self.slot(selector).ok_or(Status::BadSelector)
    }

    /// Charges `pages` to the quota.
    pub fn charge(&self, pages: u64) -> Result<(), Status> {
        if self.is_dying() {
            return Err(Status::Dead);
        }
        // What is free was returned to the pool before.
        self.free
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |free| free.checked_sub(pages))
            .map(|_| ())
            .map_err(|_| Status::Quota)
    }

    /// Returns `pages` to the quota. Whoever is charged them finds them in the pool.
    pub fn uncharge(&self, pages: u64) {
        self.free.fetch_add(pages, Ordering::Release);
    }

    /// Quota and what of it is used, in pages. Exact as long as the tree is locked.
    pub fn quota(&self) -> (u64, u64) {
        let limit = self.limit.load(Ordering::Relaxed);
        let free = self.free.load(Ordering::Relaxed);
        (limit, limit.saturating_sub(free))
    }

    /// Moves `pages` of what is free from this domain's quota to that of `domain`, which it paid for: the books of
    /// both are as if that had been created with so much more.
    pub fn give(&self, _tree: &Tree, domain: &Domain, pages: u64) -> Result<(), Status> {
        if domain.is_dying() {
            return Err(Status::Dead);
        }
        self.charge(pages)?;
        domain.limit.fetch_add(pages, Ordering::Relaxed);
        domain.uncharge(pages);
        Ok(())
    }

    /// Undoes [`Domain::give`], also of what `domain` was created with, as far as it is free.
    pub fn take_back(&self, _tree: &Tree, domain: &Domain, pages: u64) -> Result<(), Status> {
        domain.charge(pages)?;
        domain.limit.fetch_sub(pages, Ordering::Relaxed);
        self.uncharge(pages);
        Ok(())
    }

    /// A page, paid by this domain.
    pub fn alloc_page(&self) -> Result<KernelPage, Status> {
        self.charge(1)?;
        mem::alloc().ok_or(Status::Quota)
    }

    /// Returns a page that this domain paid.
    #[inline(never)]
    pub fn free_page(&self, page: KernelPage) {
        mem::free(page);
        self.uncharge(1);
    }

    /// A cell for a small object, paid by this domain.
    pub fn alloc_cell(&self) -> Result<u64, Status> {
        let mut cells = self.cells.lock();
        if cells.free == 0 {
            let page = self.alloc_page()?;
            // Word 0 of the page's last, incomplete cell links the pages.
            page.write(511, cells.pages);
            cells.pages = page.virt.0;
            for i in (0..(PAGE - 8) / CELL).rev() {
                let cell = page.virt.0 + i * CELL;
                page.write((i * CELL / 8) as usize, cells.free);
                cells.free = cell;
            }
        }
        let cell = cells.free;
        let page = KernelPage::from_virt(cell & !(PAGE - 1));
        cells.free = page.read(((cell & (PAGE - 1)) / 8) as usize);
        Ok(cell)
    }

    /// Returns a cell from [`Domain::alloc_cell`].
    pub fn free_cell(&self, cell: u64) {
        #[cfg(test)]
        mem::poison(cell, CELL);
        let mut cells = self.cells.lock();
        let page = KernelPage::from_virt(cell & !(PAGE - 1));
        page.write(((cell & (PAGE - 1)) / 8) as usize, cells.free);
        cells.free = cell;
    }

    /// Puts `object` in `cell`, from [`Domain::alloc_cell`], and on the list of this domain's objects.
    #[inline(always)]
    pub fn make_in<T: Object>(&self, cell: u64, object: T) -> Ref<T> {
        const { assert!(core::mem::size_of::<T>() <= CELL as usize) };
        // SAFETY: the cell is the caller's, large enough (asserted above) and 64-byte aligned.
        let object = unsafe { Ref::place(cell, object) };
        self.adopt(object::header(object));
        object
    }

    /// Adds an object that this domain pays for.
    pub fn adopt(&self, object: AnyRef) {
        self.objects.lock().push(object);
    }

    /// Takes an object off the list.
    pub fn disown(&self, object: AnyRef) {
        let _lock = self.objects.lock();
        object.link.unlink();
    }

    /// The object that was made last.
    pub fn newest_object(&self) -> Option<AnyRef> {
        self.objects.lock().first()
    }

    /// Whether destruction has begun.
    pub fn is_dying(&self) -> bool {
        self.dying.load(Ordering::Acquire)
    }

    /// Begins destruction: from now on nothing is created in it or put into its table.
    pub fn set_dying(&self) {
        self.dying.store(true, Ordering::Release);
    }

    /// The next slot for destruction to empty; `None` at the table's end.
    pub fn destruction_slot(&self) -> Option<Ref<Slot>> {
        self.slot(Selector(self.cursor.load(Ordering::Relaxed)))
    }

    /// Goes on to the next slot, or to the next page of slots where nothing was ever put into this one.
    pub fn destruction_advance(&self) {
        let cursor = self.cursor.load(Ordering::Relaxed);
        let page = self.directory.read((cursor / SLOTS_PER_PAGE) as usize);
        let step = if page == empty_slots() { SLOTS_PER_PAGE - cursor % SLOTS_PER_PAGE } else { 1 };
        self.cursor.store(cursor + step, Ordering::Relaxed);
    }

    /// Frees one of the pages of small objects or of the table; `false` when none is left.
    pub fn free_step(&self) -> bool {
        let mut cells = self.cells.lock();
        cells.free = 0;
        if cells.pages != 0 {
            let page = KernelPage::from_virt(cells.pages);
            cells.pages = page.read(511);
            self.free_page(page);
            return true;
        }
        let cursor = self.cursor.load(Ordering::Relaxed);
        let left = cursor.min(self.slots as u32).div_ceil(SLOTS_PER_PAGE);
        if left == 0 {
            return false;
        }
        let page = self.directory.read(left as usize - 1);
        if page != empty_slots() {
            mem::free(KernelPage::from_virt(page));
        }
        self.cursor.store((left - 1) * SLOTS_PER_PAGE, Ordering::Relaxed);
        true
    }

    /// Frees what [`Domain::free_step`] left: directory and the domain itself, and gives the payer
    /// its pages back.
    pub fn free_last(domain: Ref<Domain>) {
        let (limit, used) = domain.quota();
        debug_assert_eq!(used, 0, "pages that nobody returned");
        let pages = Domain::overhead(domain.slots as u32) + limit;
        let payer = domain.header.payer;
        mem::free(domain.directory);
        mem::free(KernelPage::from_virt(domain.address()));
        payer.uncharge(pages);
    }
}

impl Ref<Domain> {
    /// Puts what `new` makes in a cell that this domain pays for and on the list of its objects.
    #[inline(always)]
    pub fn make<T: Object>(self, new: impl FnOnce(Header) -> T) -> Result<Ref<T>, Status> {
        // The cell first: so that the object is made where it stays.
        let cell = self.alloc_cell()?;
        Ok(self.make_in(cell, new(Header::new(T::KIND, self))))
    }
}

/// The object of a capability, if it is a `T` and the capability has `rights`.
#[inline(always)]
pub fn resolve<T: Object>(word: CapWord, rights: Rights) -> Result<Ref<T>, Status> {
    let address = checked(word, T::KIND, rights)?;
    // SAFETY: a capability's kind is that of the object at its address; object lifetime as in `Ref`.
    Ok(unsafe { Ref::from_address(address) })
}

/// The address of a capability's object, if it is of `kind` and the capability has `rights`.
#[inline(always)]
pub fn checked(word: CapWord, kind: Kind, rights: Rights) -> Result<u64, Status> {
    if !word.is(kind) {
        return Err(Status::BadCapability);
    }
    if !word.allows(rights) {
        return Err(Status::Denied);
    }
    Ok(word.address())
}
