//! Doorbells: ranges of a guest space that signal a notification when a guest writes there.
//!
//! The mapping capability of a doorbell is derived from the notification's: it ends with that, with its own deletion
//! and with the space. A write is looked up in a sorted table of one page for each space.

use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::mem::KernelPage;
use crate::notification::{self, Notification};
use crate::slot::DOORBELL;
use crate::space::{self, PORTS};
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::syscall::Caller;
use crate::vcpu::{Exit, Vcpu};
use abi::syscall::{DoorbellKind, SpaceKind};
use abi::vcpu::ExitKind;
use abi::{Status, call};

pub use abi::syscall::MAX_DOORBELLS;

/// What is added to numbers of ports, to tell them from addresses.
const PORT: u64 = 1 << 63;

/// Words of a doorbell in the table: where it starts, its size, the notification's address, the bits.
const WORDS: usize = 4;

const _: () = assert!(MAX_DOORBELLS * WORDS <= 512);

/// The doorbells of a space.
pub struct Doorbells {
    /// Kernel address of the table, or 0.
    page: AtomicU64,
    /// How many there are, by ascending start; locks the table.
    count: TicketMutex<usize>,
}

/// Where the address of the table is, for the fast path: 0 if there is none.
pub const PAGE: usize = core::mem::offset_of!(Doorbells, page);

impl Doorbells {
    /// None.
    pub const fn none() -> Doorbells {
        Doorbells { page: AtomicU64::new(0), count: TicketMutex::new(0) }
    }

    fn page(&self) -> Option<KernelPage> {
        let page = self.page.load(Ordering::Acquire);
        (page != 0).then(|| KernelPage::from_virt(page))
    }

    /// Notification and bits of the doorbell at `at`.
    fn find(&self, at: u64) -> Option<(Ref<Notification>, u64)> {
        let page = self.page()?;
        let count = self.count.lock();
        let word = (after(page, *count, at).checked_sub(1)?) * WORDS;
        if at - page.read(word) >= page.read(word + 1) {
            return None;
        }
        // SAFETY: a doorbell is removed before its notification ends.
        let notification = unsafe { Ref::from_address(page.read(word + 2)) };
        Some((notification, page.read(word + 3)))
    }

    fn insert(&self, payer: &Domain, doorbell: [u64; WORDS]) -> Result<(), Status> {
        let mut count = self.count.lock();
        let page = match self.page() {
            Some(page) => page,
            None => {
                let page = payer.alloc_page()?;
                self.page.store(page.virt.0, Ordering::Release);
                page
            }
        };
        let [first, size, ..] = doorbell;
        let place = after(page, *count, first);
        let meets_previous = place > 0 && {
            let word = (place - 1) * WORDS;
            first - page.read(word) < page.read(word + 1)
        };
        let meets_next = place < *count && page.read(place * WORDS) - first < size;
        if *count == MAX_DOORBELLS || meets_previous || meets_next {
            return Err(Status::Occupied);
        }
        for word in (place * WORDS..*count * WORDS).rev() {
            page.write(word + WORDS, page.read(word));
        }
        for (i, value) in doorbell.into_iter().enumerate() {
            page.write(place * WORDS + i, value);
        }
        *count += 1;
        Ok(())
    }

    /// Removes the doorbell that starts at `first`.
    pub fn remove(&self, first: u64) {
        let mut count = self.count.lock();
        let Some(page) = self.page() else { return };
        let place = after(page, *count, first);
        for word in place * WORDS..*count * WORDS {
            page.write(word - WORDS, page.read(word));
        }
        *count -= 1;
    }

    /// Takes the table away from a space that no vCPU uses any more.
    pub fn take_page(&self) -> Option<KernelPage> {
        let page = self.page.swap(0, Ordering::AcqRel);
        (page != 0).then(|| KernelPage::from_virt(page))
    }
}

/// How many of the first `count` doorbells in `page` start at `at` or before.
#[inline(always)]
fn after(page: KernelPage, count: usize, at: u64) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = (low + high) / 2;
        if page.read(middle * WORDS) <= at {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// [`abi::Op::BindDoorbell`].
pub fn bind(caller: &Caller) -> Result<(), Status> {
    let call: call::BindDoorbell = caller.arguments()?;
    let Caller { tree, domain, .. } = *caller;
    let source = domain.held(call.notification)?;
    let space = domain.object(call.space)?;
    let slot = domain.empty_slot(call.destination.0)?;
    let (end, base) = match call.kind {
        DoorbellKind::Memory => (space.end(), 0),
        DoorbellKind::Ports => (PORTS, PORT),
    };
    let (first, size) = (call.first, call.size);
    let inside = first.checked_add(size).is_some_and(|last| last <= end);
    if space.kind != SpaceKind::Guest || size == 0 || !inside {
        return Err(Status::BadArgument);
    }
    let bits = source.slot.first.load(Ordering::Relaxed);
    let doorbell = [base + first, size, source.object.address(), bits];
    space.doorbells.insert(&space.header.payer, doorbell)?;
    space::hold_mapping(tree, space, slot, &source.slot, [base + first, size], DOORBELL);
    Ok(())
}

/// The guest of `vcpu`, which runs on this CPU, has left for a write: rings the doorbell there, and has the guest go on after
/// the write. `false`: there is none, or the processor does not say where the next instruction is.
#[inline(always)]
pub fn ring(cpu: &Cpu, vcpu: Ref<Vcpu>, exit: &Exit) -> bool {
    let at = match exit.kind {
        ExitKind::Io => PORT + (exit.info[0] & 0xffff),
        _ => exit.info[1],
    };
    let Some((notification, bits)) = vcpu.guest.doorbells.find(at) else {
        return false;
    };
    if !vcpu.arch.with_mut(|arch| arch.skip_write(exit)) {
        return false;
    }
    notification::signal(cpu, notification, bits);
    true
}
