//! Revocation and destruction, in short steps that can be restarted at any point.
//!
//! A step takes the capability tree's lock, changes a bounded number of nodes, and leaves everything
//! consistent. Between steps the system call restarts through user mode, where interrupts are taken. What
//! ends is first unlinked, then *retired*; after the epoch that follows, its memory returns to its
//! payer.

use crate::cell::Ref;
use crate::context::{Context, State};
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::mem::KernelPage;
use crate::notification::{self, Notification};
use crate::object::{self, AnyRef, Ending};
use crate::portal::{self, Portal};
use crate::sched::{self, Sched};
use crate::slot::{self, CapWord, Slot, ZOMBIE};
use crate::space::{self, Progress, Space};
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use crate::{arch, cpu, epoch, interrupt, ipc, logring, overrun};
use abi::Status;
use abi::cap::Kind;
use core::sync::atomic::Ordering;
use spin::mutex::TicketMutex;

/// Steps that one run of a revocation or destruction takes.
const BATCH: usize = 32;

/// Steps of different CPUs exclude each other, so that an object ends once.
static DESTROY: TicketMutex<()> = TicketMutex::new(());

struct Retired {
    first: u64,
    last: u64,
}

static RETIRED: TicketMutex<Retired> = TicketMutex::new(Retired { first: 0, last: 0 });

/// Revokes what was derived from the capability in `slot`; with `whole`, deletes it too.
pub fn revoke(cpu: &Cpu, slot: Ref<Slot>, whole: bool) -> Result<Progress, Status> {
    let _steps = DESTROY.lock();
    for _ in 0..BATCH {
        if revoke_step(slot) == Progress::Done
            && (!whole || delete_self(cpu, slot)? == Progress::Done)
        {
            return Ok(Progress::Done);
        }
    }
    Ok(Progress::Again)
}

/// One step of revocation: the number of descendants or their depth gets smaller.
fn revoke_step(slot: Ref<Slot>) -> Progress {
    let tree = slot::lock();
    let Some(child) = slot.first_child(&tree) else {
        return Progress::Done;
    };
    if child.word().kind() == Kind::Mapping {
        space::unmap_step(&tree, child);
    } else if let Some(grandchild) = child.first_child(&tree) {
        if child.extra.load(Ordering::Relaxed) & ZOMBIE == 0 {
            child.withdraw(&tree);
        }
        grandchild.unlink(&tree);
        grandchild.link_under(&tree, &slot);
    } else {
        child.unlink(&tree);
        child.clear(&tree);
    }
    Progress::Again
}

/// Deletes the capability in `slot`, from which nothing is derived any more.
fn delete_self(cpu: &Cpu, slot: Ref<Slot>) -> Result<Progress, Status> {
    let address = {
        let tree = slot::lock();
        // Another CPU may have derived something from it since.
        if slot.first_child(&tree).is_some() {
            return Ok(Progress::Again);
        }
        if slot.word().kind() == Kind::Mapping {
            return Ok(space::unmap_step(&tree, slot));
        }
        let address = slot.own_object();
        if address == 0 {
            slot.unlink(&tree);
            slot.clear(&tree);
            return Ok(Progress::Done);
        }
        if slot.word() != CapWord::NULL {
            // SAFETY: the capability holds the address of an object, which ends only here.
            may_end(cpu, unsafe { Ref::from_address(address) })?;
            slot.condemn(&tree);
        }
        address
    };
    // SAFETY: as above.
    let object: AnyRef = unsafe { Ref::from_address(address) };
    if end(cpu, object)? == Progress::Again {
        return Ok(Progress::Again);
    }
    forget_origin(object);
    retire(object);
    Ok(Progress::Done)
}

/// Empties the slot of the first capability of `object`, which nobody can find any more then.
fn forget_origin(object: AnyRef) {
    let tree = slot::lock();
    if let Some(slot) = Slot::from_link(object.origin.load(Ordering::Relaxed)) {
        slot.unlink(&tree);
        slot.clear(&tree);
    }
}

/// Whether `object` can end now, with the tree locked: what the caller itself runs on cannot, and neither can what
/// others were made to use.
fn may_end(cpu: &Cpu, object: AnyRef) -> Result<(), Status> {
    let current = cpu.current.get();
    let busy = match object.kind {
        Kind::Thread | Kind::Vcpu => current.is_some_and(|c| c.address() == object.address()),
        Kind::Domain => runs_in(cpu, object::downcast(object)?),
        Kind::Space => {
            object::downcast::<Space>(object)?
                .users
                .load(Ordering::Acquire)
                != 0
        }
        _ => false,
    };
    if busy { Err(Status::Busy) } else { Ok(()) }
}

/// Whether the current thread is one of `domain`.
fn runs_in(cpu: &Cpu, domain: Ref<Domain>) -> bool {
    cpu.current
        .get()
        .and_then(|c| c.as_thread())
        .is_some_and(|t| t.domain == domain)
}

/// Ends an object that nobody can find any more. When it says `Done`, nothing refers to the object but its
/// payer's list.
fn end(cpu: &Cpu, object: AnyRef) -> Result<Progress, Status> {
    match object.kind {
        Kind::Domain => return end_domain(cpu, object::downcast(object)?),
        Kind::Space => {
            let space: Ref<Space> = object::downcast(object)?;
            let tree = slot::lock();
            for _ in 0..BATCH {
                match Slot::from_link(space.mappings.load(Ordering::Relaxed)) {
                    Some(mapping) => space::remove_mapping(&tree, mapping),
                    None => return Ok(Progress::Done),
                }
            }
            return Ok(Progress::Again);
        }
        Kind::Portal => portal::unbind(object::downcast::<Portal>(object)?),
        Kind::Thread | Kind::Vcpu | Kind::Sched | Kind::Notification => {
            if let Ok(notification) = object::downcast::<Notification>(object)
                && overrun::unbind_some(notification, BATCH) == Progress::Again
            {
                return Ok(Progress::Again);
            }
            if !detached(cpu, object)? {
                return Ok(Progress::Again);
            }
            unmap_kernel_pages(object)?;
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
fn unmap_kernel_pages(object: AnyRef) -> Result<(), Status> {
    let _tree = slot::lock();
    let page = abi::PAGE_SIZE as u64;
    match object.kind {
        Kind::Thread => {
            let thread: Ref<Thread> = object::downcast(object)?;
            thread.space.table.unmap(thread.utcb_address, page);
            thread.space.users.fetch_sub(1, Ordering::AcqRel);
        }
        Kind::Vcpu => {
            let vcpu: Ref<Vcpu> = object::downcast(object)?;
            vcpu.monitor.table.unmap(vcpu.state_address, page);
            vcpu.monitor.users.fetch_sub(1, Ordering::AcqRel);
            vcpu.guest.users.fetch_sub(1, Ordering::AcqRel);
        }
        _ => {}
    }
    Ok(())
}

/// The CPU that holds on to `object`, if any does.
fn holder(object: AnyRef) -> Result<Option<u32>, Status> {
    Ok(match object.kind {
        Kind::Thread => Some(object::downcast::<Thread>(object)?.context.cpu()),
        Kind::Vcpu => Some(object::downcast::<Vcpu>(object)?.context.cpu()),
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
                cpu::by_index(other).post_ending(object);
                Ok(false)
            }
            _ => {
                detach(cpu, object);
                Ok(true)
            }
        },
    }
}

/// On a CPU that held on to `object` when it was asked: lets go of it, or asks the one that does so now.
pub fn detach_posted(cpu: &Cpu, object: AnyRef) {
    match holder(object) {
        Ok(Some(other)) if other != cpu.index => cpu::by_index(other).post_ending(object),
        _ => detach(cpu, object),
    }
}

/// On the CPU that holds on to `object`: lets go of it.
pub fn detach(cpu: &Cpu, object: AnyRef) {
    if let Ok(thread) = object::downcast::<Thread>(object) {
        portal::unbind_all(thread);
        detach_context(cpu, thread.context());
        ipc::abandon(cpu, thread);
    } else if let Ok(vcpu) = object::downcast::<Vcpu>(object) {
        // First: what leaves the CPU may have its timer looked after.
        cpu.arch.leave_guest(None);
        vcpu.arch.with_mut(|arch| arch.leave_cpu(cpu));
        detach_context(cpu, vcpu.context());
    } else if let Ok(sched) = object::downcast::<Sched>(object) {
        detach_sched(cpu, sched);
    } else if let Ok(notification) = object::downcast::<Notification>(object) {
        interrupt::forget(notification);
        logring::forget(notification);
        // It is closed: who waits now is the last one.
        if let Some(waiter) = notification.waiter() {
            if waiter.state.get() == State::Waiting {
                notification::end_wait(cpu, waiter, Status::Aborted);
            } else {
                notification.detach(waiter);
                waiter.notification.set(None);
            }
        }
    }
    object.set_ending(Ending::Detached);
}

fn detach_context(cpu: &Cpu, context: Ref<Context>) {
    sched::release_chain(cpu, context);
    context.dismiss_helpers();
    if context.state.get() == State::Helping {
        context.stop_helping();
    }
    context.state.set(State::Stopped);
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
    cpu.reschedule.set(true);
}

fn detach_sched(cpu: &Cpu, sched: Ref<Sched>) {
    if let Some(home) = sched.home.get() {
        home.sched.set(None);
        home.set_started(false);
    }
    sched::remove(cpu, sched);
    overrun::unbind(sched);
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
fn end_domain(cpu: &Cpu, top: Ref<Domain>) -> Result<Progress, Status> {
    let mut domain = top;
    loop {
        if runs_in(cpu, domain) {
            return Err(Status::Busy);
        }
        {
            // Whoever creates or delegates holds this lock from its look at the mark to the end.
            let _tree = slot::lock();
            domain.set_dying();
        }
        let slot = match next_victim(&domain) {
            Victim::Slot(slot) => slot,
            Victim::Again => return Ok(Progress::Again),
            Victim::None => break,
        };
        if revoke_step(slot) == Progress::Again {
            return Ok(Progress::Again);
        }
        match first_capability_of_domain(slot) {
            Some(inner) => domain = inner,
            None => {
                end_one(cpu, slot)?;
                return Ok(Progress::Again);
            }
        }
    }
    if domain == top {
        return Ok(Progress::Done);
    }
    forget_origin(object::header(domain));
    retire(object::header(domain));
    Ok(Progress::Again)
}

/// Deletes the capability in `slot`; if that cannot be, because others use the space that ends with it, one of those.
fn end_one(cpu: &Cpu, slot: Ref<Slot>) -> Result<(), Status> {
    match delete_self(cpu, slot) {
        Err(Status::Busy) => {
            let user = user_of_space(slot).ok_or(Status::Busy)?;
            if revoke_step(user) == Progress::Done {
                delete_self(cpu, user)?;
            }
            Ok(())
        }
        other => other.map(|_| ()),
    }
}

/// The first capability of a thread or vCPU that uses the space whose first capability is in `slot`. A domain may
/// end before it that holds the space, as somebody else paid for both.
fn user_of_space(slot: Ref<Slot>) -> Option<Ref<Slot>> {
    let space = crate::domain::resolve::<Space>(slot.word(), abi::Rights::empty()).ok()?;
    let uses = |object: AnyRef| {
        object::downcast::<Thread>(object).is_ok_and(|t| t.space == space)
            || object::downcast::<Vcpu>(object)
                .is_ok_and(|v| v.guest == space || v.monitor == space)
    };
    let user = space.header.payer?.find_object(uses)?;
    Slot::from_link(user.origin.load(Ordering::Relaxed))
}

/// The domain that ends with the capability in `slot`, if it is one.
fn first_capability_of_domain(slot: Ref<Slot>) -> Option<Ref<Domain>> {
    let address = slot.own_object();
    // SAFETY: it is the address of an object, which ends only in a step of this module.
    let object: AnyRef = (address != 0).then(|| unsafe { Ref::from_address(address) })?;
    object::downcast(object).ok()
}

/// Takes a finished object off its payer's list and queues its memory for the end of the epoch.
fn retire(object: AnyRef) {
    if let Some(payer) = object.payer {
        payer.disown(object);
    }
    let mut queue = RETIRED.lock();
    object.next.store(0, Ordering::Relaxed);
    object.prev.store(epoch::next(), Ordering::Relaxed);
    if queue.last == 0 {
        queue.first = object.address();
    } else {
        // SAFETY: retired objects keep their headers until they leave the queue.
        let last: AnyRef = unsafe { Ref::from_address(queue.last) };
        last.next.store(object.address(), Ordering::Relaxed);
    }
    queue.last = object.address();
}

/// Frees the memory of retired objects whose epoch is over, a batch at a time.
pub fn reclaim() -> Progress {
    let mut queue = RETIRED.lock();
    for _ in 0..BATCH {
        if queue.first == 0 {
            return Progress::Done;
        }
        // SAFETY: as in `retire`.
        let object: AnyRef = unsafe { Ref::from_address(queue.first) };
        if !epoch::is_over(object.prev.load(Ordering::Relaxed)) {
            return Progress::Done;
        }
        let next = object.next.load(Ordering::Relaxed);
        if reclaim_step(object) == Progress::Done {
            queue.first = next;
            if next == 0 {
                queue.last = 0;
            }
        }
    }
    Progress::Again
}

fn reclaim_step(object: AnyRef) -> Progress {
    if let Ok(domain) = object::downcast::<Domain>(object) {
        if domain.free_step() {
            return Progress::Again;
        }
        Domain::free_last(domain);
        return Progress::Done;
    }
    let Some(payer) = object.payer else {
        return Progress::Done;
    };
    match object.kind {
        Kind::Thread => {
            if let Ok(thread) = object::downcast::<Thread>(object) {
                payer.free_page(thread.utcb);
            }
            payer.free_page(KernelPage::from_virt(object.address()));
        }
        Kind::Vcpu => {
            if let Ok(vcpu) = object::downcast::<Vcpu>(object) {
                payer.free_page(vcpu.state_page);
                let (pages, count) = vcpu.arch_pages;
                for &page in pages.iter().take(count) {
                    payer.free_page(page);
                }
            }
            payer.free_page(KernelPage::from_virt(object.address()));
        }
        Kind::Space => {
            if let Ok(space) = object::downcast::<Space>(object) {
                if space.free_step(&payer) {
                    return Progress::Again;
                }
                arch::free_space_tag(space.tag);
            }
            payer.free_cell(object.address());
        }
        _ => payer.free_cell(object.address()),
    }
    Progress::Done
}

/// Forgets what waits for the end of its epoch: the world it was part of is gone.
#[cfg(test)]
pub fn reset() {
    *RETIRED.lock() = Retired { first: 0, last: 0 };
}
