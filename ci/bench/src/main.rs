//! The benchmark's root task.
#![no_std]
#![no_main]

use abi::Selector;
use abi::boot::{BootInfo, ROOT_FREE, ROOT_LOG};

rt::root_task!(main);

const HEAD: Selector = Selector(ROOT_FREE.0 - 1);
const NEVER: Selector = Selector(ROOT_FREE.0 - 2);

fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "bench");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    let head = trial::map_head(info, HEAD);
    rt::log::line(ROOT_LOG, "bench", format_args!("begin"));
    if let Ok(head) = head {
        // What other CPUs do counts, and nobody does anything there.
        if info.cpus == 1 {
            bench::ipc::run(&head);
            bench::foreign::run();
            bench::exit::run(info);
        }
        bench::throughput::run(info, &head);
    }
    rt::log::line(ROOT_LOG, "bench", format_args!("end"));
    trial::rest(NEVER)
}
