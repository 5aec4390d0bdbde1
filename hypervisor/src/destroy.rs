//! Revocation and destruction, in short steps that can be restarted at any point.
//!
//! A step takes the capability tree's lock, changes a bounded number of nodes, and leaves everything
//! consistent. Between steps the system call restarts through user mode, where interrupts are taken. What
//! ends is first unlinked, then *retired*; after the epoch that follows, its memory returns to its
//! payer.

use crate::cell::Ref;
use crate::context::{Context, State};
use crate::cpu::{Cpu, Work};
use crate::domain::Domain;
use crate::mem::KernelPage;
use crate::notification::{self, Notification};
use crate::object::{self, AnyRef, Ending, Object, Owned};
use crate::portal;
use crate::ring::Ring;
use crate::sched::{self, Sched};
use crate::slot::{CapWord, Slot, Tree};
use crate::space::{self, Progress, Space};
use crate::sync::TicketMutex;
use crate::sync::atomic::Ordering;
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use crate::{arch, binding, cpu, epoch, ipc, migrate};
use abi::Status;
use abi::cap::Kind;

/// Steps that one run of a revocation or destruction takes.
const BATCH: usize = 16;

/// What waits for the end of its epoch; what was retired first is the last.
static RETIRED: TicketMutex<Ring<Owned>> = TicketMutex::new(Ring::new());

/// Revokes what was derived from the capability in `slot`; with `whole`, deletes it too.
pub fn revoke(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>, whole: bool) -> Result<Progress, Status> {
    match revoke_some(tree, slot) {
        Progress::Done if whole => delete_self(cpu, tree, slot),
        progress => Ok(progress),
    }
}

/// A batch of steps of revocation: with each, the number of descendants or their depth gets smaller.
fn revoke_some(tree: &Tree, slot: Ref<Slot>) -> Progress {
    for _ in 0..BATCH {
        let Some(child) = slot.first_child(tree) else {
            return Progress::Done;
        };
        if child.word().kind() == Kind::Mapping {
            // As much as is done without taking interrupts.
            space::unmap_step(tree, child);
            break;
        }
        take_back(tree, child);
        if let Some(grandchild) = child.first_child(tree) {
            grandchild.unlink(tree);
            grandchild.link_under(tree, &slot);
        } else if !binding::unbind_one(tree, &child) {
            child.clear(tree);
        }
    }
    Progress::Again
}

/// Withdraws the capability in `slot`, if it is still there; if it is the first one of its object, nobody finds that any
/// more. Other CPUs may have found the object before, but for memory and time, which are found and used with the tree locked.
fn take_back(tree: &Tree, slot: Ref<Slot>) {
    let word = slot.word();
    if word == CapWord::NULL {
        return;
    }
    slot.withdraw(tree);
    binding::withdrawn(tree, &slot, word);
    if !matches!(word.kind(), Kind::Memory | Kind::Time) {
        epoch::unlinked();
    }
}

/// Deletes the capability in `slot`, from which nothing is derived any more.
fn delete_self(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>) -> Result<Progress, Status> {
    if slot.word().kind() == Kind::Mapping {
        return Ok(space::unmap_step(tree, slot));
    }
    let object = own_object(slot);
    if let Some(object) = object.filter(|_| slot.word() != CapWord::NULL) {
        may_end(cpu, tree, object)?;
    }
    take_back(tree, slot);
    if binding::unbind_one(tree, &slot) {
        return Ok(Progress::Again);
    }
    match object {
        Some(object) if end(cpu, tree, object)? == Progress::Again => return Ok(Progress::Again),
        Some(object) => retire(tree, object),
        None => slot.clear(tree),
    }
    Ok(Progress::Done)
}

/// The object that ends with the capability in `slot`, if one does.
fn own_object(slot: Ref<Slot>) -> Option<AnyRef> {
    let address = slot.own_object();
    // SAFETY: it is the address of an object, which ends only in a step of this module.
    (address != 0).then(|| unsafe { Ref::from_address(address) })
}

/// Whether `object` can end now: what the caller itself runs on cannot, and neither can what
/// others were made to use.
fn may_end(cpu: &Cpu, tree: &Tree, object: AnyRef) -> Result<(), Status> {
    let current = cpu.current.get();
    let busy = match object.kind {
        Kind::Thread | Kind::Vcpu => current.is_some_and(|c| c.address() == object.address()),
        Kind::Domain => runs_in(cpu, object::downcast(object)?),
        Kind::Space => object::downcast::<Space>(object)?.user(tree).is_some(),
        _ => false,
    };
    if busy { Err(Status::Busy) } else { Ok(()) }
}

/// Whether the current thread is one of `domain`.
fn runs_in(cpu: &Cpu, domain: Ref<Domain>) -> bool {
    cpu.current.get().and_then(|c| c.as_thread()).is_some_and(|t| t.domain == domain)
}

/// Ends an object that nobody can find any more. When it says `Done`, nothing refers to the object but its
/// payer's list.
fn end(cpu: &Cpu, tree: &Tree, object: AnyRef) -> Result<Progress, Status> {
    if let Ok(domain) = object::downcast(object) {
        return end_domain(cpu, tree, domain);
    }
    if let Ok(space) = object::downcast(object) {
        return end_space(tree, space);
    }
    if let Ok(portal) = object::downcast(object) {
        portal::unbind(portal);
        return Ok(Progress::Done);
    }
    if object.ending() == Ending::Alive {
        let_go(cpu, object);
    }
    if object.ending() != Ending::Detached {
        return Ok(Progress::Again);
    }
    // The pages that it shares with its program leave that one's space.
    if let Ok(thread) = object::downcast::<Thread>(object) {
        thread.space.unmap_kernel_page(tree, thread.utcb_address);
        thread.use_of_space.leave(tree);
    } else if let Ok(vcpu) = object::downcast::<Vcpu>(object) {
        vcpu.monitor.unmap_kernel_page(tree, vcpu.state_address);
        vcpu.uses.iter().for_each(|user| user.leave(tree));
    }
    Ok(Progress::Done)
}

fn end_space(tree: &Tree, space: Ref<Space>) -> Result<Progress, Status> {
    // With a domain it can have been closed before.
    if space.user(tree).is_some() {
        return Err(Status::Busy);
    }
    for _ in 0..BATCH {
        match Slot::from_link(space.mappings.load(Ordering::Relaxed)) {
            Some(mapping) => space::remove_mapping(tree, mapping),
            None => return Ok(Progress::Done),
        }
    }
    Ok(Progress::Again)
}

/// The CPU that holds on to `object`, if any does.
fn holder(object: AnyRef) -> Option<u32> {
    if let Some(context) = Context::of(object) {
        Some(context.cpu())
    } else if let Ok(sched) = object::downcast::<Sched>(object) {
        Some(sched.cpu())
    } else {
        object::downcast::<Notification>(object).ok()?.close()
    }
}

/// Lets go of `object`, in steps, or asks the CPU to do so that holds on to it now.
pub fn let_go(cpu: &Cpu, object: AnyRef) -> Progress {
    match holder(object) {
        Some(other) if other != cpu.index => {
            object.set_ending(Ending::Requested);
            cpu::by_index(other).post(Work::Ending(object));
            Progress::Done
        }
        _ => detach(cpu, object),
    }
}

/// On the CPU that holds on to `object`: lets go of it, in steps. What is stopped by the first one may have been given
/// time before the next. What is in this CPU's inbox on its way from another one arrives first.
fn detach(cpu: &Cpu, object: AnyRef) -> Progress {
    if let Some(context) = Context::of(object) {
        if detach_context(cpu, context) == Progress::Again {
            return Progress::Again;
        }
    } else if let Ok(sched) = object::downcast::<Sched>(object) {
        detach_sched(cpu, sched);
    } else if let Ok(notification) = object::downcast::<Notification>(object)
        && let Some(waiter) = notification.waiter()
    {
        // It is closed: who waits now is the last one. Until that has arrived, other CPUs can still find the way from it to here.
        if waiter.state.get() == State::Moving {
            return Progress::Again;
        }
        notification::release(cpu, waiter);
    }
    object.set_ending(Ending::Detached);
    Progress::Done
}

/// Stops `context`: from then on whoever calls or helps it gets a status, so that the lists that are emptied here
/// do not grow again.
fn detach_context(cpu: &Cpu, context: Ref<Context>) -> Progress {
    if context.state.get() == State::Moving {
        return Progress::Again;
    }
    migrate::evict(cpu, context);
    sched::release_chain(cpu, context);
    if context.state.get() == State::Helping {
        context.stop_helping();
    }
    context.stop(cpu);
    cpu.timeouts.disarm(&context.timeout);
    notification::forget(context);
    if let Some(callee) = context.callee.take() {
        // The handler finishes what it was asked, on the time of whoever calls it next.
        callee.caller.set(None);
    }
    if let Some(sched) = context.sched.take() {
        sched::unbind(cpu, sched);
    }
    if cpu.current.get() == Some(context) {
        cpu.current.set(None);
    }
    let Some(thread) = context.as_thread() else {
        return Progress::Done;
    };
    ipc::stop(cpu, thread);
    if portal::unbind_some(thread) == Progress::Again {
        return Progress::Again;
    }
    thread.context.dismiss_helpers()
}

fn detach_sched(cpu: &Cpu, sched: Ref<Sched>) {
    if let Some(home) = sched.home.get() {
        // A handler that ran on it may have time of its own, which has waited since it was idle.
        sched::release_chain(cpu, home);
        home.sched.set(None);
        home.started.store(false, Ordering::Release);
    }
    sched::unbind(cpu, sched);
    cpu.timeouts.disarm(&sched.replenish);
}

/// What the end of a domain takes away next: the first capability of an object that it paid for, or one in its table. `None`:
/// nothing is left. An empty slot: many were passed.
fn next_victim(domain: &Domain) -> Option<Ref<Slot>> {
    if let Some(object) = domain.newest_object() {
        // Objects end in the opposite order of their making: threads before their spaces.
        return object.first_capability();
    }
    for _ in 0..BATCH {
        let slot = domain.destruction_slot()?;
        if !slot.is_free() {
            return Some(slot);
        }
        domain.destruction_advance();
    }
    domain.destruction_slot()
}

/// One step of the end of a domain, or of a domain that it paid for or created, which ends first.
/// [`Domain::level`] grows on the way there and bounds it.
fn end_domain(cpu: &Cpu, tree: &Tree, top: Ref<Domain>) -> Result<Progress, Status> {
    let mut domain = top;
    loop {
        if runs_in(cpu, domain) {
            return Err(Status::Busy);
        }
        // Whoever creates or delegates holds the tree's lock from its look at the mark to the end.
        domain.set_dying();
        let Some(slot) = next_victim(&domain) else {
            break;
        };
        if slot.is_free() {
            return Ok(Progress::Again);
        }
        close(cpu, tree, slot)?;
        if slot.first_child(tree).is_some() {
            revoke_some(tree, slot);
            return Ok(Progress::Again);
        }
        match what_ends_with::<Domain>(slot) {
            Some(inner) => domain = inner,
            None => {
                end_one(cpu, tree, slot)?;
                return Ok(Progress::Again);
            }
        }
    }
    if domain == top {
        return Ok(Progress::Done);
    }
    retire(tree, object::header(domain));
    Ok(Progress::Again)
}

/// From now on nobody finds what the capability in `slot` names, which goes with its domain, or derives anything from it:
/// else whoever goes on delegating it could keep the domain from its end.
fn close(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>) -> Result<(), Status> {
    let kind = slot.word().kind();
    if matches!(kind, Kind::Null | Kind::Mapping) {
        return Ok(());
    }
    if let Some(object) = own_object(slot).filter(|object| object.kind != Kind::Space) {
        may_end(cpu, tree, object)?;
    }
    take_back(tree, slot);
    Ok(())
}

/// Deletes the capability in `slot`, which is closed; but if others use the space that ends with it, one of those. A domain
/// may end before them that holds the space, as somebody else paid for both.
fn end_one(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>) -> Result<(), Status> {
    let user = what_ends_with::<Space>(slot).and_then(|space| space.user(tree));
    let slot = user.and_then(|user| user.first_capability()).unwrap_or(slot);
    close(cpu, tree, slot)?;
    if revoke_some(tree, slot) == Progress::Done {
        delete_self(cpu, tree, slot)?;
    }
    Ok(())
}

/// What ends with the capability in `slot`, if it is a `T`.
fn what_ends_with<T: Object>(slot: Ref<Slot>) -> Option<Ref<T>> {
    object::downcast(own_object(slot)?).ok()
}

/// Empties the slot of a finished object's first capability, takes the object off its payer's list and queues its memory for
/// the end of the epoch.
fn retire(tree: &Tree, object: AnyRef) {
    if let Some(slot) = object.first_capability() {
        slot.clear(tree);
    }
    object.payer.disown(object);
    let queue = RETIRED.lock();
    let epoch = epoch::unlinked();
    object.ending_next.store(epoch, Ordering::Relaxed);
    queue.push(object);
}

/// Pages that are freed at once, but for an object of more.
const PAGES: usize = 2;

/// Who frees memory: one CPU at a time.
static RECLAIM: TicketMutex<()> = TicketMutex::new(());

/// Frees the memory of retired objects whose epoch is over, a batch at a time.
pub fn reclaim() -> Progress {
    let Some(_turn) = RECLAIM.try_lock() else {
        return Progress::Again;
    };
    let mut pages = 0;
    for _ in 0..BATCH {
        let Some(object) = RETIRED.lock().last() else {
            return Progress::Done;
        };
        if !epoch::is_unused(object.ending_next.load(Ordering::Relaxed)) {
            return Progress::Done;
        }
        pages += reclaim_step(object);
        if pages >= PAGES {
            break;
        }
    }
    Progress::Again
}

/// Frees all or a part of a retired object, the first in the queue; returns how many pages, or what takes as long.
fn reclaim_step(object: AnyRef) -> usize {
    let payer = object.payer;
    let domain = object::downcast::<Domain>(object);
    if let Ok(domain) = domain
        && domain.free_step()
    {
        return 1;
    }
    if let Ok(space) = object::downcast::<Space>(object) {
        if space.free_step(&payer) {
            // Tables are searched for.
            return PAGES;
        }
        arch::free_space_tag(space.tag);
    }
    {
        let _queue = RETIRED.lock();
        object.link.unlink();
    }
    let own = KernelPage::from_virt(object.address());
    if let Ok(domain) = domain {
        Domain::free_last(domain);
        2
    } else if let Ok(thread) = object::downcast::<Thread>(object) {
        [thread.utcb, own].map(|page| payer.free_page(page)).len()
    } else if let Ok(vcpu) = object::downcast::<Vcpu>(object) {
        let (pages, count) = vcpu.arch_pages;
        let all = pages.into_iter().take(count).chain([vcpu.state_page, own]);
        all.map(|page| payer.free_page(page)).count()
    } else {
        payer.free_cell(object.address());
        0
    }
}

/// Forgets what waits for the end of its epoch: the world it was part of is gone.
#[cfg(test)]
pub fn reset() {
    RETIRED.lock().reset();
}

/// What brings back what waits for the end of its epoch.
#[cfg(test)]
pub fn save() -> impl Fn() {
    let bring_back = RETIRED.lock().save();
    move || bring_back(&RETIRED.lock())
}
