//! The benchmark's root task.
#![no_std]
#![no_main]

use abi::Selector;
use abi::boot::{BootInfo, ROOT_FREE, ROOT_LOG};

rt::root_task!(main);

const BUNDLE: Selector = Selector(ROOT_FREE.0 - 1);
const NEVER: Selector = Selector(ROOT_FREE.0 - 2);

/// For the bundle's directory, and what decodes instructions.
static HEAP: trial::Heap<{ 512 << 10 }> = trial::Heap::zeroed();

fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "bench");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    HEAP.claim();
    let bundle = trial::open_bundle(info, BUNDLE);
    rt::log::line(ROOT_LOG, "bench", format_args!("begin"));
    if let Ok(bundle) = bundle {
        let head = bundle.head();
        // What other CPUs do counts, and nobody does anything there.
        if info.cpus == 1 {
            bench::ipc::run(head);
            bench::foreign::run();
            bench::exit::run(info, &bundle);
        }
        bench::throughput::run(info, head);
    }
    rt::log::line(ROOT_LOG, "bench", format_args!("end"));
    trial::rest(NEVER)
}
