//! Overruns: who is told that a scheduling context has spent its budget and would go on.

use crate::cell::{CpuCell, Ref};
use crate::notification::{self, Notification};
use crate::ring::{Link, Linked};
use crate::sched::Sched;
use crate::space::Progress;
use crate::sync::TicketMutex;
use abi::Status;
use core::mem::offset_of;

/// A scheduling context's part.
pub struct Event {
    /// The notification and its bits; under the lock of `bind`.
    notification: CpuCell<Option<Ref<Notification>>>,
    bits: CpuCell<u64>,
    /// Place among those that are bound to the notification; under the same lock.
    link: Link,
}

impl Event {
    /// Nobody is told.
    pub const fn new() -> Event {
        Event {
            notification: CpuCell::new(None),
            bits: CpuCell::new(0),
            link: Link::new(),
        }
    }
}

impl Default for Event {
    fn default() -> Event {
        Event::new()
    }
}

/// Rings of scheduling contexts whose overruns a notification tells.
pub struct Told;

// SAFETY: what is bound is unbound before it ends.
unsafe impl Linked for Told {
    type Object = Sched;
    const LINK: usize = offset_of!(Sched, overrun.link);
}

static BINDINGS: TicketMutex<()> = TicketMutex::new(());

/// From now on `bits` of `notification` tell overruns of `sched`.
pub fn bind(sched: Ref<Sched>, notification: Ref<Notification>, bits: u64) -> Result<(), Status> {
    let _lock = BINDINGS.lock();
    let event = &sched.overrun;
    if event.notification.get().is_some() {
        return Err(Status::Busy);
    }
    notification.overruns.push(sched);
    event.bits.set(bits);
    event.notification.set(Some(notification));
    Ok(())
}

/// Nobody is told any more of `sched`, which is about to end.
pub fn unbind(sched: Ref<Sched>) {
    let _lock = BINDINGS.lock();
    sched.overrun.link.unlink();
    sched.overrun.notification.set(None);
}

/// Unbinds up to `most` scheduling contexts from `notification`, to which nobody binds any more.
pub fn unbind_some(notification: Ref<Notification>, most: usize) -> Progress {
    let _lock = BINDINGS.lock();
    for _ in 0..most {
        match notification.overruns.pop() {
            Some(sched) => sched.overrun.notification.set(None),
            None => return Progress::Done,
        }
    }
    Progress::Again
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
