//! The root task's program.
#![no_std]
#![no_main]

use abi::Selector;
use abi::boot::{ROOT_DOMAIN, ROOT_LOG, ROOT_SLOTS};
use core::cell::UnsafeCell;
use init::root::{Result, Root};
use init::system::Supervisor;
use rt::syscall::Deadline;

rt::root_task!(main);

/// A selector that is not used otherwise.
const LAST: Selector = Selector(ROOT_SLOTS - 1);

/// Bytes of the heap that are there before any RAM is; stacks have more.
const HEAP: usize = 256 << 10;

#[repr(align(4096))]
struct Heap(UnsafeCell<[u8; HEAP]>);

// SAFETY: only the allocator accesses it.
unsafe impl Sync for Heap {}

static MEMORY: Heap = Heap(UnsafeCell::new([0; HEAP]));

fn main(info: u64) -> ! {
    rt::log::init(ROOT_LOG, "init");
    // SAFETY: nothing else uses the static.
    let claimed = unsafe { rt::heap::claim(MEMORY.0.get() as u64, HEAP as u64) };
    assert!(claimed, "the heap is too small");
    // SAFETY: the entry code passes what the kernel passed, once.
    match unsafe { Root::new(info) }.and_then(with_stacks) {
        Ok(root) => Supervisor::new(root).run(),
        Err(failure) => fatal(format_args!("the system cannot be built: {failure}")),
    }
}

/// Gives the heap memory for its largest pieces, as many as the machine has CPUs.
fn with_stacks(mut root: Root) -> Result<Root> {
    let (address, size) = root.map_stacks()?;
    // SAFETY: mapped just now for this alone, and never unmapped.
    let claimed = unsafe { rt::heap::claim(address, size) };
    assert!(claimed, "{size} bytes are too few for a heap");
    Ok(root)
}

/// Says why the machine is of no use, in the words that the `bulkhead` command looks for, and stops.
fn fatal(cause: core::fmt::Arguments<'_>) -> ! {
    rt::log::line(ROOT_LOG, "bulkhead", format_args!("panic: {cause}"));
    // Nothing is ever signalled here. If it cannot be made, waiting fails and the loop spins, which
    // is as good.
    let _ = rt::syscall::create_notification(ROOT_DOMAIN, LAST);
    loop {
        let _ = rt::syscall::wait(LAST, Deadline::NEVER);
    }
}
