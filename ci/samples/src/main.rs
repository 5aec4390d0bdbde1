//! The root task with the examples.
#![no_std]
#![no_main]

use abi::boot::BootInfo;
use core::cell::UnsafeCell;

rt::root_task!(main);

/// Bytes of the heap: for the bundle's directory.
const HEAP: usize = 64 << 10;

#[repr(align(4096))]
struct Heap(UnsafeCell<[u8; HEAP]>);

// SAFETY: only the allocator accesses it.
unsafe impl Sync for Heap {}

static MEMORY: Heap = Heap(UnsafeCell::new([0; HEAP]));

fn main(argument: u64) -> ! {
    // SAFETY: nothing else uses the static.
    let claimed = unsafe { rt::heap::claim(MEMORY.0.get() as u64, HEAP as u64) };
    assert!(claimed, "the heap is too small");
    // SAFETY: the kernel passes the address of the boot information, which it maps read-only.
    samples::driver::run(unsafe { &*(argument as *const BootInfo) })
}
