//! Overruns: who is told that a scheduling context has spent its budget and would go on.

use crate::cell::{CpuCell, Ref};
use crate::notification::{self, Notification};
use crate::sched::Sched;
use crate::space::Progress;
use crate::sync::TicketMutex;
use abi::Status;

/// A scheduling context's part.
pub struct Event {
    /// The notification and its bits; under the lock of `bind`.
    notification: CpuCell<Option<Ref<Notification>>>,
    bits: CpuCell<u64>,
    /// List of the scheduling contexts that are bound to the notification; under the same lock.
    next: CpuCell<Option<Ref<Sched>>>,
    prev: CpuCell<Option<Ref<Sched>>>,
}

impl Event {
    /// Nobody is told.
    pub const fn new() -> Event {
        Event {
            notification: CpuCell::new(None),
            bits: CpuCell::new(0),
            next: CpuCell::new(None),
            prev: CpuCell::new(None),
        }
    }
}

impl Default for Event {
    fn default() -> Event {
        Event::new()
    }
}

static BINDINGS: TicketMutex<()> = TicketMutex::new(());

/// From now on `bits` of `notification` tell overruns of `sched`.
pub fn bind(sched: Ref<Sched>, notification: Ref<Notification>, bits: u64) -> Result<(), Status> {
    let _lock = BINDINGS.lock();
    let event = &sched.overrun;
    if event.notification.get().is_some() {
        return Err(Status::Busy);
    }
    let first = notification.overruns.get();
    event.next.set(first);
    if let Some(first) = first {
        first.overrun.prev.set(Some(sched));
    }
    notification.overruns.set(Some(sched));
    event.bits.set(bits);
    event.notification.set(Some(notification));
    Ok(())
}

/// Nobody is told any more of `sched`, which is about to end.
pub fn unbind(sched: Ref<Sched>) {
    let _lock = BINDINGS.lock();
    unlink(sched);
}

/// Unbinds up to `most` scheduling contexts from `notification`, to which nobody binds any more.
pub fn unbind_some(notification: Ref<Notification>, most: usize) -> Progress {
    let _lock = BINDINGS.lock();
    for _ in 0..most {
        match notification.overruns.get() {
            Some(sched) => unlink(sched),
            None => return Progress::Done,
        }
    }
    Progress::Again
}

/// With the lock held: takes `sched` off the list that it is on, if it is on one.
fn unlink(sched: Ref<Sched>) {
    let event = &sched.overrun;
    let Some(notification) = event.notification.take() else {
        return;
    };
    let (next, prev) = (event.next.take(), event.prev.take());
    match prev {
        Some(prev) => prev.overrun.next.set(next),
        None => notification.overruns.set(next),
    }
    if let Some(next) = next {
        next.overrun.prev.set(prev);
    }
}

/// On its CPU: `sched` would run, but has spent its budget, which was not told yet in this period.
pub fn tell(sched: Ref<Sched>) {
    sched.overrun_told.set(true);
    let event = &sched.overrun;
    let _lock = BINDINGS.lock();
    if let Some(notification) = event.notification.get() {
        notification::signal_later(notification, event.bits.get());
    }
}
