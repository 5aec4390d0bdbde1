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
use crate::portal::{self, Portal};
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

/// Light steps that one run of a revocation or destruction takes; a heavy one ends it.
const BATCH: usize = 16;

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing: it is complete.
    Done,
    /// One node of the tree.
    Light,
    /// As much as is done without taking interrupts.
    Heavy,
}

/// What waits for the end of its epoch; what was retired first is the last.
static RETIRED: TicketMutex<Ring<Owned>> = TicketMutex::new(Ring::new());

/// Revokes what was derived from the capability in `slot`; with `whole`, deletes it too.
pub fn revoke(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>, whole: bool) -> Result<Progress, Status> {
    match revoke_some(tree, slot) {
        Progress::Done if whole => delete_self(cpu, tree, slot),
        progress => Ok(progress),
    }
}

/// One step of revocation: the number of descendants or their depth gets smaller.
fn revoke_step(tree: &Tree, slot: Ref<Slot>) -> Step {
    let Some(child) = slot.first_child(tree) else {
        return Step::Done;
    };
    if child.word().kind() == Kind::Mapping {
        space::unmap_step(tree, child);
        return Step::Heavy;
    }
    take_back(tree, child);
    if let Some(grandchild) = child.first_child(tree) {
        grandchild.unlink(tree);
        grandchild.link_under(tree, &slot);
    } else if !binding::unbind_one(tree, &child) {
        child.unlink(tree);
        child.clear(tree);
    }
    Step::Light
}

/// A batch of steps of revocation.
fn revoke_some(tree: &Tree, slot: Ref<Slot>) -> Progress {
    for _ in 0..BATCH {
        match revoke_step(tree, slot) {
            Step::Done => return Progress::Done,
            Step::Light => {}
            Step::Heavy => break,
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
    let Some(object) = object else {
        slot.unlink(tree);
        slot.clear(tree);
        return Ok(Progress::Done);
    };
    if end(cpu, tree, object)? == Progress::Again {
        return Ok(Progress::Again);
    }
    forget_origin(tree, object);
    retire(object);
    Ok(Progress::Done)
}

/// The object that ends with the capability in `slot`, if one does.
fn own_object(slot: Ref<Slot>) -> Option<AnyRef> {
    let address = slot.own_object();
    // SAFETY: it is the address of an object, which ends only in a step of this module.
    (address != 0).then(|| unsafe { Ref::from_address(address) })
}

/// Empties the slot of the first capability of `object`, which nobody can find any more then.
fn forget_origin(tree: &Tree, object: AnyRef) {
    if let Some(slot) = Slot::from_link(object.origin.load(Ordering::Relaxed)) {
        slot.unlink(tree);
        slot.clear(tree);
    }
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
    match object.kind {
        Kind::Domain => return end_domain(cpu, tree, object::downcast(object)?),
        Kind::Space => {
            let space: Ref<Space> = object::downcast(object)?;
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
            return Ok(Progress::Again);
        }
        Kind::Portal => portal::unbind(object::downcast::<Portal>(object)?),
        Kind::Thread | Kind::Vcpu | Kind::Sched | Kind::Notification => {
            if !detached(cpu, object)? {
                return Ok(Progress::Again);
            }
            unmap_kernel_pages(tree, object)?;
        }
        // These have no payer and no first capability.
        Kind::Null
        | Kind::Memory
        | Kind::Mapping
        | Kind::Interrupt
        | Kind::Log
        | Kind::Platform
        | Kind::Time => {}
    }
    Ok(Progress::Done)
}

/// Takes the shared pages of a thread or vCPU out of its program's space.
fn unmap_kernel_pages(tree: &Tree, object: AnyRef) -> Result<(), Status> {
    match object.kind {
        Kind::Thread => {
            let thread: Ref<Thread> = object::downcast(object)?;
            thread.space.unmap_kernel_page(tree, thread.utcb_address);
            thread.use_of_space.leave(tree);
        }
        Kind::Vcpu => {
            let vcpu: Ref<Vcpu> = object::downcast(object)?;
            vcpu.monitor.unmap_kernel_page(tree, vcpu.state_address);
            for user in &vcpu.uses {
                user.leave(tree);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The CPU that holds on to `object`, if any does.
fn holder(object: AnyRef) -> Result<Option<u32>, Status> {
    Ok(match object.kind {
        Kind::Thread | Kind::Vcpu => Context::of(object).map(|context| context.cpu()),
        Kind::Sched => Some(object::downcast::<Sched>(object)?.cpu()),
        Kind::Notification => object::downcast::<Notification>(object)?.close(),
        _ => None,
    })
}

/// Has the object's CPU let go of it; whether it has.
fn detached(cpu: &Cpu, object: AnyRef) -> Result<bool, Status> {
    match object.ending() {
        Ending::Detached => Ok(true),
        Ending::Requested => Ok(false),
        Ending::Alive => match holder(object)? {
            Some(other) if other != cpu.index => {
                object.set_ending(Ending::Requested);
                cpu::by_index(other).post(Work::Ending(object));
                Ok(false)
            }
            _ => Ok(detach(cpu, object) == Progress::Done),
        },
    }
}

/// On a CPU that held on to `object` when it was asked: lets go of it, in steps, or asks the one that does so now.
pub fn detach_posted(cpu: &Cpu, object: AnyRef) -> Progress {
    match holder(object) {
        Ok(Some(other)) if other != cpu.index => {
            cpu::by_index(other).post(Work::Ending(object));
            Progress::Done
        }
        _ => detach(cpu, object),
    }
}

/// On the CPU that holds on to `object`: lets go of it, in steps. What is stopped by the first one may have been given
/// time before the next. What is in this CPU's inbox on its way from another one arrives first.
fn detach(cpu: &Cpu, object: AnyRef) -> Progress {
    let progress = if let Some(context) = Context::of(object) {
        detach_context(cpu, context)
    } else if let Ok(sched) = object::downcast::<Sched>(object) {
        detach_sched(cpu, sched);
        Progress::Done
    } else if let Ok(notification) = object::downcast::<Notification>(object) {
        detach_notification(cpu, notification)
    } else {
        Progress::Done
    };
    if progress == Progress::Done {
        object.set_ending(Ending::Detached);
    }
    progress
}

fn detach_notification(cpu: &Cpu, notification: Ref<Notification>) -> Progress {
    // It is closed: who waits now is the last one.
    match notification.waiter() {
        Some(waiter) => notification::release(cpu, waiter),
        None => Progress::Done,
    }
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
    if let Some(notification) = context.notification.take() {
        notification.detach(context);
    }
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

/// What the end of a domain takes away next.
enum Victim {
    /// The capability in this slot: the first one of an object that it paid for, or one in its table.
    Slot(Ref<Slot>),
    /// Many empty slots were passed: look again.
    Again,
    /// Nothing is left.
    None,
}

fn next_victim(domain: &Domain) -> Victim {
    if let Some(object) = domain.newest_object() {
        // Objects end in the opposite order of their making: threads before their spaces.
        return Slot::from_link(object.origin.load(Ordering::Relaxed))
            .map_or(Victim::None, Victim::Slot);
    }
    for _ in 0..BATCH {
        match domain.destruction_slot() {
            None => return Victim::None,
            Some(slot) if slot.is_free() => domain.destruction_advance(),
            Some(slot) => return Victim::Slot(slot),
        }
    }
    Victim::Again
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
        let slot = match next_victim(&domain) {
            Victim::Slot(slot) => slot,
            Victim::Again => return Ok(Progress::Again),
            Victim::None => break,
        };
        close(cpu, tree, slot)?;
        if slot.first_child(tree).is_some() {
            revoke_some(tree, slot);
            return Ok(Progress::Again);
        }
        match first_capability_of::<Domain>(slot) {
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
    forget_origin(tree, object::header(domain));
    retire(object::header(domain));
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

/// Deletes the capability in `slot`; if that cannot be, because others use the space that ends with it, one of those.
fn end_one(cpu: &Cpu, tree: &Tree, slot: Ref<Slot>) -> Result<(), Status> {
    match delete_self(cpu, tree, slot) {
        Err(Status::Busy) => {
            let user = user_of_space(tree, slot).ok_or(Status::Busy)?;
            close(cpu, tree, user)?;
            if revoke_some(tree, user) == Progress::Done {
                delete_self(cpu, tree, user)?;
            }
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// The first capability of a thread or vCPU that uses the space that ends with the capability in `slot`. A domain may
/// end before it that holds the space, as somebody else paid for both.
fn user_of_space(tree: &Tree, slot: Ref<Slot>) -> Option<Ref<Slot>> {
    let user = first_capability_of::<Space>(slot)?.user(tree)?;
    Slot::from_link(user.origin.load(Ordering::Relaxed))
}

/// What ends with the capability in `slot`, if it is a `T`.
fn first_capability_of<T: Object>(slot: Ref<Slot>) -> Option<Ref<T>> {
    object::downcast(own_object(slot)?).ok()
}

/// Takes a finished object off its payer's list and queues its memory for the end of the epoch.
fn retire(object: AnyRef) {
    if let Some(payer) = object.payer {
        payer.disown(object);
    }
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

/// Takes a retired object, whose memory is about to be freed, out of the queue.
fn leave_queue(object: AnyRef) {
    let _queue = RETIRED.lock();
    object.link.unlink();
}

/// Frees all or a part of a retired object, the first in the queue; returns how many pages, or what takes as long.
fn reclaim_step(object: AnyRef) -> usize {
    let payer = match (object::downcast::<Domain>(object), object.payer) {
        (Ok(domain), _) if domain.free_step() => return 1,
        (Ok(domain), _) => {
            leave_queue(object);
            Domain::free_last(domain);
            return 2;
        }
        (Err(_), Some(payer)) => payer,
        (Err(_), None) => {
            leave_queue(object);
            return 0;
        }
    };
    if let Ok(space) = object::downcast::<Space>(object) {
        if space.free_step(&payer) {
            // Tables are searched for.
            return PAGES;
        }
        arch::free_space_tag(space.tag);
    }
    leave_queue(object);
    if let Ok(thread) = object::downcast::<Thread>(object) {
        payer.free_page(thread.utcb);
        payer.free_page(KernelPage::from_virt(object.address()));
        return 2;
    }
    let Ok(vcpu) = object::downcast::<Vcpu>(object) else {
        payer.free_cell(object.address());
        return 0;
    };
    let (pages, count) = vcpu.arch_pages;
    for &page in pages.iter().take(count) {
        payer.free_page(page);
    }
    payer.free_page(vcpu.state_page);
    payer.free_page(KernelPage::from_virt(object.address()));
    count + 2
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
