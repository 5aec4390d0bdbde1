//! Address spaces: host (native programs), guest (guest-physical memory of a VM) and device.

use crate::addr::HostPhys;
use crate::arch::{self, PageTable};
use crate::cell::{CpuCell, Ref};
use crate::domain::Domain;
use crate::doorbell::Doorbells;
use crate::epoch;
use crate::mem::KernelPage;
use crate::object::{AnyRef, Header};
use crate::ring::{Link, Linked, Ring};
use crate::slot::{CapWord, DOORBELL, List, Slot, Tree};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use abi::argument::{Access, PageAddress};
use abi::cap::{Kind, MemoryKind, Rights};
use abi::syscall::{Caching, SpaceKind};
use abi::{Selector, Status, USER_END, call};
use core::mem::offset_of;

pub use crate::arch::layout::GUEST_END;
/// Number of I/O ports.
pub const PORTS: u64 = 1 << 16;

/// Offsets for the fast path.
pub mod offset {
    use super::Space;
    use core::mem::offset_of;
    /// 0, unless it has or gets I/O ports.
    pub const PORTS: usize = offset_of!(Space, ports);
}

/// An address space.
#[repr(C, align(64))]
pub struct Space {
    /// Common part.
    pub header: Header,
    /// Kind.
    pub kind: SpaceKind,
    /// Tag of its translations where the processor has such (PCID); 0: none.
    pub tag: u16,
    /// Page tables.
    pub table: PageTable,
    /// Mappings in it, a list of slots; under the tree's lock.
    pub mappings: AtomicU32,
    /// What switches to it, as the architecture has it; 0: that takes more than loading a register. A switch to one with I/O ports
    /// takes more anyway.
    pub fast: u64,
    /// Threads and vCPUs that use it; under the tree's lock.
    users: Ring<User>,
    /// The CPUs that threads or vCPUs were made for which run in it, a bit for each: no other one loads its tables. None
    /// leaves, as a CPU can hold translations of a space that it has left.
    pub cpus: AtomicU64,
    /// Those of them that more than one was made for, or that one came back to.
    pub shared: AtomicU64,
    /// Doorbells of guests.
    pub doorbells: Doorbells,
    /// Kernel addresses of the two pages of the I/O permission bitmap, or 0. A set bit denies.
    ports: [AtomicU64; 2],
}

/// A thread or vCPU among the users of a space; part of it.
pub struct User {
    link: Link,
    object: CpuCell<Option<AnyRef>>,
}

// SAFETY: it leaves before the object ends that it is part of.
unsafe impl Linked for User {
    type Object = User;
    const LINK: usize = offset_of!(User, link);
}

impl User {
    /// What uses no space yet.
    pub const fn of_nothing() -> User {
        User { link: Link::new(), object: CpuCell::new(None) }
    }

    /// From now on `object`, which it is part of, uses `space`.
    pub fn enter(&self, _tree: &Tree, space: &Space, object: AnyRef) {
        self.object.set(Some(object));
        // SAFETY: it leaves before the object ends that it is part of.
        space.users.push(unsafe { Ref::from_address(&raw const *self as u64) });
    }

    /// It uses the space no more.
    pub fn leave(&self, _tree: &Tree) {
        self.link.unlink();
    }
}

/// A physical range that is mapped, and how.
#[derive(Clone, Copy, Debug)]
pub struct Mapped {
    /// First byte.
    pub phys: HostPhys,
    /// Kind, which decides the memory type.
    pub kind: MemoryKind,
    /// `READ`, `WRITE`, `EXEC`.
    pub rights: Rights,
    /// What the mapping asks for.
    pub caching: Caching,
}

impl Mapped {
    /// The memory type that follows: none for what the processor may cache.
    pub fn uncached(&self) -> Option<Caching> {
        match (self.caching, self.kind) {
            (Caching::Natural, MemoryKind::Device) => Some(Caching::Uncached),
            (Caching::Natural, _) => None,
            (asked, _) => Some(asked),
        }
    }
}

impl Space {
    /// Makes an empty space that `payer` pays for.
    pub fn make(payer: Ref<Domain>, kind: SpaceKind) -> Result<Ref<Space>, Status> {
        // The cell first: what comes after it cannot fail, or leaves nothing behind.
        let cell = payer.alloc_cell()?;
        let table = PageTable::new(kind, &payer).inspect_err(|_| payer.free_cell(cell))?;
        let tag = arch::alloc_space_tag(kind);
        let space = Space {
            header: Header::new(Kind::Space, payer),
            kind,
            tag,
            fast: table.fast_switch(tag),
            table,
            mappings: AtomicU32::new(0),
            users: Ring::new(),
            cpus: AtomicU64::new(0),
            shared: AtomicU64::new(0),
            doorbells: Doorbells::none(),
            ports: [const { AtomicU64::new(0) }; 2],
        };
        Ok(payer.make_in(cell, space))
    }

    /// From now on it may run on CPU `cpu`.
    pub fn runs_on(&self, _tree: &Tree, cpu: u32) {
        let before = self.cpus.fetch_or(1 << cpu, Ordering::Relaxed);
        self.shared.fetch_or(before & 1 << cpu, Ordering::Relaxed);
    }

    /// One of the threads and vCPUs that use it.
    pub fn user(&self, _tree: &Tree) -> Option<AnyRef> {
        self.users.first().and_then(|user| user.object.get())
    }

    /// First address past the space.
    pub fn end(&self) -> u64 {
        match self.kind {
            SpaceKind::Host => USER_END,
            SpaceKind::Guest | SpaceKind::Device => GUEST_END,
        }
    }

    /// Takes the page of kernel memory at `at` out. Something else may be mapped there before every CPU has passed the epoch.
    pub fn unmap_kernel_page(&self, _tree: &Tree, at: u64) {
        self.table.unmap(at, abi::PAGE_SIZE as u64);
        epoch::stale(arch::drop_translations(self));
    }

    /// Maps a page of kernel memory (UTCB, state page) for its users.
    pub fn map_kernel_page(
        &self,
        _tree: &Tree,
        at: PageAddress,
        page: KernelPage,
        rights: Rights,
    ) -> Result<(), Status> {
        if self.kind != SpaceKind::Host {
            return Err(Status::BadArgument);
        }
        let mapped =
            Mapped { phys: page.phys(), kind: MemoryKind::Ram, rights, caching: Caching::Natural };
        self.table.map(at.get(), abi::PAGE_SIZE as u64, &mapped, &self.header.payer).map(|_| ())
    }

    /// The I/O permission bitmap, if any port was ever mapped.
    #[inline(always)]
    pub fn port_bitmap(&self) -> Option<[KernelPage; 2]> {
        // One after the other: most spaces have none, and are loaded with every switch to them.
        let low = self.ports[0].load(Ordering::Acquire);
        if low == 0 {
            return None;
        }
        let high = self.ports[1].load(Ordering::Acquire);
        (high != 0).then(|| [low, high].map(KernelPage::from_virt))
    }

    fn make_port_bitmap(&self) -> Result<(), Status> {
        for page in &self.ports {
            if page.load(Ordering::Acquire) == 0 {
                let fresh = self.header.payer.alloc_page()?;
                fresh.fill(u64::MAX);
                page.store(fresh.virt.0, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Allows or denies up to 64 ports from `port` on; returns how many.
    fn set_ports(&self, port: u64, count: u64, allow: bool) -> Result<u64, Status> {
        let Some(pages) = self.port_bitmap() else {
            return Ok(count);
        };
        let bit = port % 64;
        let n = count.min(64 - bit);
        let mask = (u64::MAX >> (64 - n)) << bit;
        let (page, word) = (pages[(port / 32768) as usize & 1], (port / 64 % 512) as usize);
        let old = page.read(word);
        if allow && old & mask != mask {
            return Err(Status::Occupied);
        }
        page.write(word, if allow { old & !mask } else { old | mask });
        Ok(n)
    }

    /// Frees one page of the space's tables; `false` when none is left.
    pub fn free_step(&self, payer: &Domain) -> bool {
        for page in self.ports.iter().filter(|_| arch::HAS_PORTS) {
            let virt = page.swap(0, Ordering::AcqRel);
            if virt != 0 {
                payer.free_page(KernelPage::from_virt(virt));
                return true;
            }
        }
        if let Some(page) = self.doorbells.take_page() {
            payer.free_page(page);
            return true;
        }
        self.table.free_step(payer)
    }
}

/// How far a long operation came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is complete.
    Done,
    /// It has to go on: the system call restarts, so that interrupts are taken.
    Again,
}

/// Steps (page-table entries) that one run of a long operation takes.
const BATCH: usize = 12;

/// Maps memory into a space. On an error, what was mapped before it stays in the destination slot.
pub fn map(tree: &Tree, domain: &Domain, request: &call::Map) -> Result<Progress, Status> {
    let memory = domain.holder(request.memory)?;
    let space = domain.object(request.space)?;
    let [base, length] = memory.range();
    let extra = memory.extra.load(Ordering::Relaxed);
    let kind = MemoryKind::from_code((extra >> 8) as u8).ok_or(Status::BadCapability)?;
    let Access { rights, caching } = request.access;
    if !(Rights::RW | Rights::EXEC).contains(rights) || !rights.contains(Rights::READ) {
        return Err(Status::BadArgument);
    }
    if !memory.word().allows(rights) {
        return Err(Status::Denied);
    }
    let ports = is_ports(extra);
    let unit = if ports { 1 } else { abi::PAGE_SIZE as u64 };
    let end = if ports { PORTS } else { space.end() };
    let in_memory = request.offset.checked_add(request.size).is_some_and(|e| e <= length);
    let in_space = request.address.checked_add(request.size).is_some_and(|e| e <= end);
    let aligned = (request.offset | request.address | request.size) & (unit - 1) == 0;
    if request.size == 0 || !in_memory || !in_space || !aligned {
        return Err(Status::BadArgument);
    }
    let start = base + request.offset;
    if ports
        && (space.kind != SpaceKind::Host
            || start != request.address
            || caching != Caching::Natural)
    {
        return Err(Status::BadArgument);
    }
    let device = kind == MemoryKind::Device && space.kind != SpaceKind::Guest;
    if device && arch::is_guest_only(start, request.size) {
        return Err(Status::Denied);
    }
    let host_page_zero = request.address == 0 && space.kind == SpaceKind::Host;
    if !ports && host_page_zero {
        return Err(Status::BadArgument);
    }

    let slot = domain.slot(request.destination.0).ok_or(Status::BadSelector)?;
    let (slot, mut done) = if slot.is_free() {
        let slot = domain.empty_slot(request.destination.0)?;
        if ports {
            space.make_port_bitmap()?;
        }
        let range = [request.address, request.size];
        hold_mapping(tree, space, slot, &memory, range, (kind as u64) << 8);
        (slot, 0)
    } else {
        // A restart goes on where it stopped; anything else finds the slot in use.
        let mine = slot.word().kind() == Kind::Mapping
            && slot.word().address() == space.address()
            && slot.range() == [request.address, request.size]
            && slot.is_child_of(tree, &memory);
        let done = slot.done.load(Ordering::Relaxed);
        if !mine || done >= request.size {
            return Err(Status::Occupied);
        }
        (slot, done)
    };
    for _ in 0..BATCH {
        let left = request.size - done;
        let step = if ports {
            space.set_ports(request.address + done, left, true)
        } else {
            let mapped = Mapped { phys: HostPhys(start + done), kind, rights, caching };
            space.table.map(request.address + done, left, &mapped, &space.header.payer)
        };
        done += step.unwrap_or(0);
        slot.done.store(done, Ordering::Relaxed);
        if let Err(status) = step {
            slot.second.store(done, Ordering::Relaxed);
            if done == 0 {
                remove_mapping(tree, slot);
            } else if ports {
                // As below; but nobody waits for that.
                epoch::stale(space.cpus.load(Ordering::Relaxed));
                epoch::begin();
            }
            return Err(status);
        }
        if done == request.size {
            if ports {
                // CPUs that run in the space have a copy of its I/O permissions.
                epoch::stale(space.cpus.load(Ordering::Relaxed));
            }
            return Ok(Progress::Done);
        }
    }
    Ok(Progress::Again)
}

/// Whether memory is I/O ports whose slot has this beside its range. Where there are none, nobody can have such memory.
pub fn is_ports(extra: u64) -> bool {
    arch::HAS_PORTS && extra >> 8 & 0xff == MemoryKind::Ports as u64
}

/// Whether `selector` holds a mapping of I/O ports.
pub fn is_port_mapping(domain: &Domain, selector: Selector) -> bool {
    domain.slot(selector).is_some_and(|slot| {
        slot.word().kind() == Kind::Mapping && is_ports(slot.extra.load(Ordering::Relaxed))
    })
}

/// Unmaps up to a batch of what the mapping in `slot` still has; when nothing is left, empties the slot. A doorbell is
/// unbound.
pub fn unmap_step(tree: &Tree, slot: Ref<Slot>) -> Progress {
    let space = space_of(slot);
    if slot.extra.load(Ordering::Relaxed) & DOORBELL != 0 {
        space.doorbells.remove(slot.first.load(Ordering::Relaxed));
        remove_mapping(tree, slot);
        // Another CPU may be about to ring it.
        epoch::unlinked();
        return Progress::Done;
    }
    let progress = unmap_batch(tree, slot, &space);
    epoch::stale(arch::drop_translations(&space));
    progress
}

fn unmap_batch(tree: &Tree, slot: Ref<Slot>, space: &Space) -> Progress {
    let ports = is_ports(slot.extra.load(Ordering::Relaxed));
    for _ in 0..BATCH {
        let at = slot.first.load(Ordering::Relaxed);
        let left = slot.done.load(Ordering::Relaxed);
        if left == 0 {
            remove_mapping(tree, slot);
            return Progress::Done;
        }
        let step = if ports {
            // Taking back never fails.
            space.set_ports(at, left, false).unwrap_or(left)
        } else {
            space.table.unmap(at, left)
        };
        slot.first.store(at + step, Ordering::Release);
        slot.done.store(left - step, Ordering::Relaxed);
    }
    Progress::Again
}

/// Puts the capability to a mapping in `space` into a free slot; it is derived from the one in `parent`.
#[inline(always)]
pub fn hold_mapping(
    tree: &Tree,
    space: Ref<Space>,
    slot: Ref<Slot>,
    parent: &Slot,
    range: [u64; 2],
    extra: u64,
) {
    slot.fill(tree, CapWord::new(Kind::Mapping, Rights::empty(), space.address()), range, extra);
    slot.link_under(tree, parent);
    slot.join(tree, List::Bound, &space.mappings);
}

/// The space of the mapping in `slot`.
fn space_of(slot: Ref<Slot>) -> Ref<Space> {
    // SAFETY: a mapping's capability holds the address of its space, which outlives its mappings.
    unsafe { Ref::from_address(slot.word().address()) }
}

/// Takes a mapping out of the tree and its space, and empties the slot.
pub fn remove_mapping(tree: &Tree, slot: Ref<Slot>) {
    slot.leave(tree, List::Bound, &space_of(slot).mappings);
    slot.clear(tree);
}
