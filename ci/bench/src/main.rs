//! The benchmark's root task.
#![no_std]
#![no_main]

use abi::Selector;
use abi::boot::{BootInfo, ROOT_FREE, ROOT_LOG};
use bench::peer::{PRIORITY, Peer};
use bench::place::Place;
use rt::ipc::Utcb;

rt::root_task!(main);

const NEVER: Selector = Selector(ROOT_FREE.0 - 1);
const HEAD: Selector = Selector(ROOT_FREE.0 - 2);
const EXCEPTIONS: Selector = Selector(ROOT_FREE.0 - 3);
const THREAD: Selector = Selector(ROOT_FREE.0 - 4);
const SCHED: Selector = Selector(ROOT_FREE.0 - 5);
const ENDED: Selector = Selector(ROOT_FREE.0 - 6);
const UTCB: u64 = 0x5700_0000;

/// For the bundle's directory, stacks, and what decodes instructions.
static HEAP: trial::Heap<{ 640 << 10 }> = trial::Heap::zeroed();

/// Starts the thread that measures: others can be more important than that one.
fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "bench");
    HEAP.claim();
    let thread = Peer {
        thread: THREAD,
        sched: SCHED,
        utcb: UTCB,
        stack: 48 << 10,
        cpu: 0,
        priority: PRIORITY,
        exceptions: EXCEPTIONS,
    };
    if let Err(status) = thread.start(measure, argument) {
        log::error!("no thread: {}", status.name());
    }
    trial::rest(NEVER)
}

/// Measures everything; `argument` is that of [`main`].
fn measure(argument: u64, utcb: Utcb) {
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    rt::log::line(ROOT_LOG, "bench", format_args!("begin"));
    let head = trial::map_head(info, HEAD);
    match head.and_then(|head| Place::new(info, head, utcb, EXCEPTIONS)) {
        Ok(mut place) => measure_at(&mut place),
        Err(status) => log::error!("no place: {}", status.name()),
    }
    rt::log::line(ROOT_LOG, "bench", format_args!("end"));
    trial::rest(ENDED)
}

/// Measures everything that can be measured on a machine with so many CPUs.
fn measure_at(place: &mut Place) {
    // What other CPUs do counts, and nobody does anything there.
    if place.info.cpus == 1 {
        bench::ipc::run(place);
        bench::signals::run(place);
        bench::memory::run(place);
        bench::creation::run(place);
        bench::foreign::run(place);
        bench::exit::run(place);
    }
    let ticks = bench::throughput::run(place.info, &place.head);
    if place.info.cpus == 2 {
        bench::cross::run(place, ticks.is_some_and(|ticks| ticks.is_of_any_cpu()));
    }
}
