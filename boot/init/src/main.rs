//! The root task's program.
#![no_std]
#![no_main]

use abi::boot::ROOT_LOG;
use core::cell::UnsafeCell;
use init::root::Root;
use init::system::Supervisor;
use rt::syscall::Deadline;

rt::root_task!(main);

/// Bytes of the heap.
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
    match unsafe { Root::new(info) } {
        Ok(root) => Supervisor::new(root).run(),
        Err(failure) => {
            log::error!("the system cannot be built: {failure}");
            let never = abi::Selector::NULL;
            loop {
                // There is nothing to wait for, and nothing to be done.
                let _ = rt::syscall::wait(never, Deadline::NEVER);
            }
        }
    }
}
