//! Notifications, turns, and the way of an interrupt to a thread.

use crate::peer::{PRIORITY, Peer};
use crate::place::Place;
use crate::stats::{self, Row, invoke};
use abi::boot::ROOT_DOMAIN;
use abi::{Selector, Status, call};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::counter;
use rt::ipc::Utcb;
use rt::syscall::{self, Deadline, Result};

/// Ticks from a thread's wait to its timeout: the other thread runs by then.
const DELAY: u64 = 20_000;

/// When the thread that an interrupt stops was seen last.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// What measures a row, with a notification of its own.
type Measure = fn(&mut Place, Selector) -> Result<Row>;

/// Measures and prints everything here.
pub fn run(place: &mut Place) {
    let rows: [(&str, Measure); 6] = [
        ("signal.no_waiter", no_waiter),
        ("signal.waiter", waiter),
        ("wait.pending", pending),
        ("yield.alone", |_, _| yields()),
        ("yield.other", other),
        ("interrupt.to_thread", interrupt),
    ];
    for (name, measure) in rows {
        let bell = place.selector();
        let row = syscall::create_notification(ROOT_DOMAIN, bell);
        stats::report(name, row.and_then(|()| measure(place, bell)));
    }
}

fn signal(bell: Selector) -> call::Signal {
    call::Signal { notification: bell.into() }
}

fn wait(bell: Selector, deadline: Deadline) -> call::Wait {
    call::Wait { notification: bell.into(), deadline: deadline.0 }
}

fn no_waiter(_: &mut Place, bell: Selector) -> Result<Row> {
    stats::measure_call(|| invoke(signal(bell)))
}

/// The waiter is more important: it runs and waits again before the signal returns.
fn waiter(place: &mut Place, bell: Selector) -> Result<Row> {
    let peer = Peer::new(place, 0, PRIORITY + 1);
    peer.beside(wait_always, bell.0.into(), || no_waiter(place, bell))
}

fn wait_always(bell: u64, _: Utcb) {
    loop {
        invoke(wait(Selector(bell as u32), Deadline::NEVER));
    }
}

fn pending(_: &mut Place, bell: Selector) -> Result<Row> {
    stats::measure_between(
        || syscall::signal(bell),
        || invoke(wait(bell, Deadline::NEVER)),
        || Ok(()),
    )
}

fn yields() -> Result<Row> {
    stats::measure_call(|| invoke(call::Yield {}))
}

/// To a thread of the same priority, which does nothing else than to give the turn back.
fn other(place: &mut Place, _: Selector) -> Result<Row> {
    Peer::new(place, 0, PRIORITY).beside(yield_always, 0, yields)
}

fn yield_always(_: u64, _: Utcb) {
    loop {
        invoke(call::Yield {});
    }
}

/// From the last instruction of a less important thread to the first one of this thread after its system call, whose
/// timeout the timer's interrupt is.
fn interrupt(place: &mut Place, bell: Selector) -> Result<Row> {
    Peer::new(place, 0, PRIORITY - 1).beside(look_at_the_clock, 0, || {
        stats::collect(stats::overhead(), || {
            let waited = invoke(wait(bell, Deadline::after(DELAY)));
            let now = counter();
            match waited.status() {
                Status::Timeout => Ok(now - SEEN.load(Ordering::Relaxed)),
                status => Err(status),
            }
        })
    })
}

fn look_at_the_clock(_: u64, _: Utcb) {
    loop {
        SEEN.store(counter(), Ordering::Relaxed);
    }
}
