//! Stacks, and threads with scheduling contexts of their own.
use crate::arch;
use crate::handler::Entry;
use crate::ipc::Utcb;
use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use alloc::boxed::Box;

/// Memory for a thread's stack, taken from the heap for ever.
#[derive(Debug)]
pub struct Stack {
    top: u64,
}

impl Stack {
    /// A stack of `size` bytes, rounded up to a multiple of 16.
    pub fn allocate(size: usize) -> Stack {
        let size = size.max(1024).next_multiple_of(16);
        let Ok(layout) = Layout::from_size_align(size, 16) else {
            panic!("a stack of {size} bytes");
        };
        // SAFETY: the layout's size is not zero.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            handle_alloc_error(layout);
        }
        Stack { top: base as u64 + size as u64 }
    }

    /// Puts `value` at the top and returns the stack pointer that points to it.
    pub(crate) fn start_with(self, value: u64) -> u64 {
        let sp = self.top - 16;
        // SAFETY: the stack is larger than 16 bytes and belongs to nobody else.
        unsafe { (sp as *mut u64).write(value) };
        sp
    }
}

/// What a new thread runs.
pub struct Start {
    function: fn(u64, Utcb),
    argument: u64,
    utcb: Utcb,
}

/// Prepares a thread that runs `function(argument, its UTCB)` once it has a scheduling context.
/// `utcb` is an unused page address. When the function returns the thread ends with an exception.
pub fn prepare(stack: Stack, utcb: u64, function: fn(u64, Utcb), argument: u64) -> Entry {
    // SAFETY: the kernel maps the UTCB there when the thread is created; only the thread has the handle.
    let handle = unsafe { Utcb::new(utcb) };
    let start = Box::into_raw(Box::new(Start { function, argument, utcb: handle }));
    let sp = stack.start_with(start as u64);
    Entry { ip: arch::thread_entry as *const () as u64, sp, utcb }
}

/// Called by the entry code.
///
/// # Safety
/// `start` comes from [`prepare`] and is used once.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) unsafe extern "C" fn run(start: *mut Start) -> ! {
    // SAFETY: the caller's promise.
    let start = unsafe { Box::from_raw(start) };
    let Start { function, argument, utcb } = *start;
    function(argument, utcb);
    arch::crash()
}
