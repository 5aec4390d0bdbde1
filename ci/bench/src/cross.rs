//! To another CPU and back.

use crate::peer::{PRIORITY, Peer};
use crate::place::Place;
use crate::stats::{self, Row};
use crate::throughput::Line;
use abi::Selector;
use abi::boot::ROOT_DOMAIN;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::ipc::Utcb;
use rt::syscall::{self, Cpu, Deadline, Result};

/// The other CPU.
const OTHER: Cpu = 1;

/// What is written here and answered there, and the answer.
static ASKED: Line = Line(AtomicU64::new(0));
static ANSWERED: Line = Line(AtomicU64::new(0));

type Measure = fn(&mut Place) -> Result<Row>;

/// Measures and prints everything here, unless the CPUs run `in_turns`.
pub fn run(place: &mut Place, in_turns: bool) {
    let rows: [(&str, Measure); 2] =
        [("notification.cross_cpu", notification), ("shared_memory.cross_cpu", shared_memory)];
    for (name, measure) in rows {
        if in_turns {
            stats::unavailable(name, "the emulator runs the CPUs in turns");
        } else {
            stats::report(name, measure(place));
        }
    }
}

/// A signal to a thread that waits, which signals back; each CPU is idle meanwhile.
fn notification(place: &mut Place) -> Result<Row> {
    let there = place.selectors(2);
    let here = there.offset(1);
    syscall::create_notification(ROOT_DOMAIN, there)?;
    syscall::create_notification(ROOT_DOMAIN, here)?;
    Peer::new(place, OTHER, PRIORITY).beside(signal_back, there.0.into(), || {
        stats::measure(|| {
            syscall::signal(there)?;
            syscall::wait(here, Deadline::NEVER).map(|_| ())
        })
    })
}

fn signal_back(there: u64, _: Utcb) {
    let there = Selector(there as u32);
    while syscall::wait(there, Deadline::NEVER).is_ok() {
        let _ = syscall::signal(there.offset(1));
    }
}

/// A number that the other CPU looks for, and copies to where this one looks.
fn shared_memory(place: &mut Place) -> Result<Row> {
    let mut number = 0;
    Peer::new(place, OTHER, PRIORITY).beside(copy, 0, || {
        stats::measure(|| {
            number += 1;
            ASKED.0.store(number, Ordering::Release);
            while ANSWERED.0.load(Ordering::Acquire) != number {}
            Ok(())
        })
    })
}

fn copy(_: u64, _: Utcb) {
    loop {
        let number = ASKED.0.load(Ordering::Acquire);
        ANSWERED.0.store(number, Ordering::Release);
    }
}
