//! Notifications: asynchronous signals. Interrupts, timeouts, kicks and doorbells arrive as these.
//!
//! A notification is a word of bits and at most one context that waits for it or is kicked by it. Anyone
//! may set bits from any CPU; what follows from it happens on the waiter's CPU.

use crate::cell::{CpuCell, Ref};
use crate::context::{Context, State};
use crate::cpu::{self, Cpu, Work};
use crate::object::Header;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::thread::Thread;
use abi::{Status, call};

/// Offsets for the fast path.
pub mod offset {
    use super::Notification;
    use core::mem::offset_of;
    /// The bits.
    pub const WORD: usize = offset_of!(Notification, word);
    /// Whether somebody waits or is kicked.
    pub const ATTACHED: usize = offset_of!(Notification, attached);
}

/// Who waits, or the vCPU that it kicks.
struct Waiter {
    context: Option<Ref<Context>>,
    /// Positions of the capabilities that it needs for that.
    through: [u32; 2],
    /// One of them is gone: the waiter's CPU ends it.
    ended: bool,
    /// The notification is ending: nobody waits any more.
    closed: bool,
}

/// A notification.
#[repr(C, align(64))]
pub struct Notification {
    /// Common part.
    pub header: Header,
    word: AtomicU64,
    /// Whether somebody waits or is kicked; changes under the lock of `waiter`, read without it.
    attached: AtomicBool,
    waiter: TicketMutex<Waiter>,
    /// Whether it is in a CPU's inbox, and what comes after it there.
    pub posted: AtomicBool,
    /// Link in the inbox; under its lock.
    pub posted_next: CpuCell<Option<Ref<Notification>>>,
}

impl Notification {
    /// A notification with no bit set.
    pub fn new(header: Header) -> Notification {
        Notification {
            header,
            word: AtomicU64::new(0),
            attached: AtomicBool::new(false),
            waiter: TicketMutex::new(Waiter {
                context: None,
                through: [0; 2],
                ended: false,
                closed: false,
            }),
            posted: AtomicBool::new(false),
            posted_next: CpuCell::new(None),
        }
    }

    /// Whether a bit is set.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::SeqCst) != 0
    }

    /// Takes all bits.
    #[inline(always)]
    pub fn take(&self) -> u64 {
        self.word.swap(0, Ordering::SeqCst)
    }

    /// Makes `context` the one that is woken or kicked, as long as the capabilities `through` which are there.
    pub fn attach(&self, context: Ref<Context>, through: [u32; 2]) -> Result<(), Status> {
        let mut waiter = self.waiter.lock();
        if waiter.closed {
            return Err(Status::Aborted);
        }
        if waiter.context.is_some() {
            return Err(Status::Busy);
        }
        waiter.context = Some(context);
        (waiter.through, waiter.ended) = (through, false);
        // Before the look at the bits that follows, as the bits are set before the look at this.
        self.attached.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The capability in the slot at position `from` is at `to` now.
    pub fn moved(&self, from: u32, to: u32) {
        let mut waiter = self.waiter.lock();
        waiter.through = waiter.through.map(|link| if link == from { to } else { link });
    }

    /// Removes the waiter, if it is `context`.
    #[inline(never)]
    pub fn detach(&self, context: Ref<Context>) {
        let mut waiter = self.waiter.lock();
        if waiter.context == Some(context) {
            waiter.context = None;
            self.attached.store(false, Ordering::Relaxed);
        }
    }

    /// From now on nobody new waits; the CPU of who waits already.
    pub fn close(&self) -> Option<u32> {
        let mut waiter = self.waiter.lock();
        waiter.closed = true;
        waiter.context.map(|context| context.cpu())
    }

    /// Who waits or is kicked.
    pub fn waiter(&self) -> Option<Ref<Context>> {
        self.waiter.lock().context
    }
}

/// Who waits, if it is on this CPU, and whether that has to end. If it is on another one, that is told.
#[inline(always)]
fn waiter_here(cpu: &Cpu, notification: Ref<Notification>) -> Option<(Ref<Context>, bool)> {
    let waiter = notification.waiter.lock();
    let context = waiter.context?;
    if context.cpu() == cpu.index {
        return Some((context, waiter.ended));
    }
    // Before the lock is released: once a notification is closed and has no waiter, it enters no inbox.
    cpu::by_index(context.cpu()).post(Work::Notification(notification));
    None
}

/// Sets `bits` and wakes whoever waits.
#[inline(always)]
pub fn signal(cpu: &Cpu, notification: Ref<Notification>, bits: u64) {
    notification.word.fetch_or(bits, Ordering::SeqCst);
    // Sequentially consistent: either the bits are seen by who is about to wait, after it
    // attached itself, or it is seen here.
    if notification.attached.load(Ordering::SeqCst) {
        arrive(cpu, notification);
    }
}

/// The fast path of `thread`, the current context, has set bits of [`Cpu::signalled`], and somebody was attached.
#[cold]
pub fn signalled(cpu: &Cpu, thread: Ref<Thread>) {
    if let Some(notification) = cpu.signalled.take() {
        thread.with_frame(|frame| frame.set_result(Status::Success));
        arrive(cpu, notification);
    }
}

/// As [`signal`], for who is in the midst of changing queues: whoever waits is woken by an interrupt, on this CPU too.
pub fn signal_later(notification: Ref<Notification>, bits: u64) {
    notification.word.fetch_or(bits, Ordering::SeqCst);
    let waiter = notification.waiter.lock();
    if let Some(context) = waiter.context {
        // Under the lock, as in `waiter_here`.
        cpu::by_index(context.cpu()).post(Work::Notification(notification));
    }
}

/// The capability in the slot at position `link` is gone: who waits or is kicked through it does so no more, from the
/// next interrupt of its CPU on.
pub fn end_through(notification: Ref<Notification>, link: u32) {
    let mut waiter = notification.waiter.lock();
    if let Some(context) = waiter.context
        && waiter.through.contains(&link)
    {
        waiter.ended = true;
        // Under the lock, as in `waiter_here`.
        cpu::by_index(context.cpu()).post(Work::Notification(notification));
    }
}

/// Wakes who waits, or has its CPU do so.
pub fn arrive(cpu: &Cpu, notification: Ref<Notification>) {
    let Some((waiter, ended)) = waiter_here(cpu, notification) else {
        return;
    };
    match waiter.state.get() {
        _ if ended => release(cpu, waiter),
        State::Waiting => end_wait_for(cpu, notification, waiter),
        // Without bits there is nothing to tell the monitor: the guest must not go on behind its back.
        State::Halted if notification.is_set() => waiter.wake(cpu),
        // A vCPU in guest mode is left by the interrupt that brought us here; before each entry
        // it looks at the bits.
        _ => {}
    }
}

/// Gives the bits, if there are any, to `waiter`, a thread, which waits for them on this CPU.
#[inline(never)]
fn end_wait_for(cpu: &Cpu, notification: Ref<Notification>, waiter: Ref<Context>) {
    let bits = notification.take();
    if bits == 0 {
        return;
    }
    end_wait_by(cpu, waiter, |thread| {
        thread.with_frame(|frame| frame.set_result(Status::Success));
        thread.return_values(&call::Waited { bits });
    });
}

/// Lets go of `waiter`, of this CPU, which waits or is kicked.
pub fn release(cpu: &Cpu, waiter: Ref<Context>) {
    match waiter.state.get() {
        State::Waiting => end_wait(cpu, waiter, Status::Aborted),
        // When it arrives it comes here again.
        State::Moving => {}
        _ => forget(waiter),
    }
}

/// Ends a wait with `status`. On the waiter's CPU.
pub fn end_wait(cpu: &Cpu, context: Ref<Context>, status: Status) {
    end_wait_by(cpu, context, |thread| thread.with_frame(|frame| frame.set_result(status)));
}

/// The same, by telling the thread in its own way.
#[inline(always)]
fn end_wait_by(cpu: &Cpu, context: Ref<Context>, tell: impl FnOnce(Ref<Thread>)) {
    forget(context);
    cpu.timeouts.disarm(&context.timeout);
    if let Some(thread) = context.as_thread() {
        tell(thread);
    }
    context.wake(cpu);
}

/// From now on `context`, of this CPU, waits for no notification, and none kicks it.
#[inline(always)]
pub fn forget(context: Ref<Context>) {
    if let Some(notification) = context.notification.take() {
        notification.detach(context);
    }
}
