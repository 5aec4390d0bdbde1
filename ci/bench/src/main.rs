//! The benchmark's root task.
#![no_std]
#![no_main]

use abi::boot::{BootInfo, ROOT_BUNDLE, ROOT_LOG, ROOT_SPACE};
use abi::bundle::{HEAD_SIZE, Head};
use abi::{Rights, Selector};
use rt::syscall::{self, Deadline, MapParameters};

rt::root_task!(main);

const HEAD_ADDRESS: u64 = 0x6000_0000;
const HEAD_MAPPING: Selector = Selector(abi::boot::ROOT_FREE.0 - 1);

fn main(argument: u64) -> ! {
    rt::log::init(ROOT_LOG, "bench");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    let info = unsafe { &*(argument as *const BootInfo) };
    let unit = Rights::READ;
    let p = MapParameters {
        offset: 0,
        address: HEAD_ADDRESS,
        size: 4096,
        rights: unit,
    };
    let head = syscall::map(ROOT_BUNDLE, ROOT_SPACE, HEAD_MAPPING, &p)
        .ok()
        .and_then(|()| {
            // SAFETY: just mapped, read-only, and nobody writes to the bundle's head.
            let bytes =
                unsafe { core::slice::from_raw_parts(HEAD_ADDRESS as *const u8, HEAD_SIZE) };
            Head::decode(bytes, info.bundle_size).ok()
        });
    rt::log::line(ROOT_LOG, "bench", format_args!("begin"));
    if let Some(head) = head {
        bench::ipc::run(&head);
        bench::foreign::run();
        bench::exit::run(info);
    }
    rt::log::line(ROOT_LOG, "bench", format_args!("end"));
    rest()
}

/// The machine's registers for this are not known here: the tool that started the emulator ends it when it
/// reads `end`.
fn rest() -> ! {
    const NEVER: Selector = Selector(abi::boot::ROOT_FREE.0 - 2);
    let _ = syscall::create_notification(abi::boot::ROOT_DOMAIN, NEVER);
    loop {
        let _ = syscall::wait(NEVER, Deadline::NEVER);
    }
}
