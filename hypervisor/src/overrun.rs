//! Overruns: who is told that a scheduling context has spent its budget and would go on.

use crate::binding::Target;
use crate::cell::Ref;
use crate::notification;
use crate::sched::Sched;
use abi::Status;

/// From now on overruns of `sched` signal `target`.
pub fn bind(sched: Ref<Sched>, target: Target) -> Result<(), Status> {
    let mut overrun = sched.overrun.lock();
    if overrun.is_some() {
        return Err(Status::Busy);
    }
    *overrun = Some(target);
    Ok(())
}

/// Nobody is told any more of `sched`.
pub fn unbind(sched: Ref<Sched>) {
    *sched.overrun.lock() = None;
}

/// On its CPU: `sched` would run, but has spent its budget, which was not told yet in this period.
pub fn tell(sched: Ref<Sched>) {
    sched.overrun_told.set(true);
    let target = *sched.overrun.lock();
    if let Some(target) = target {
        notification::signal_later(target.notification, target.bits);
    }
}
