//! Start of a program, and its end by panic.

use core::sync::atomic::{AtomicBool, Ordering};

/// Names the main function of a program: `fn(Program)`. When it returns, the program exits with success.
#[macro_export]
macro_rules! program {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn bulkhead_main(_argument: u64) -> ! {
            // SAFETY: called once by the entry code.
            let program = unsafe { $crate::start::start() };
            let main: fn($crate::program::Program) = $main;
            main(program);
            $crate::protocol::supervisor::exit(0)
        }
    };
}

/// Names the main function of the root task: `fn(u64) -> !`, with the address of the boot information.
#[macro_export]
macro_rules! root_task {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn bulkhead_main(argument: u64) -> ! {
            $crate::start::without_supervisor();
            let main: fn(u64) -> ! = $main;
            main(argument)
        }
    };
}

/// Sets up heap and log, and decodes the environment, which the root task put at
/// [`crate::layout::ENVIRONMENT_ADDRESS`].
///
/// # Safety
/// Called once, on the first thread.
#[cfg(target_os = "none")]
pub unsafe fn start() -> crate::program::Program {
    use crate::env::{Environment, HEADER_SIZE, Header, MAGIC};
    use crate::layout;
    use alloc::boxed::Box;
    let argument = layout::ENVIRONMENT_ADDRESS;
    // SAFETY: the root task mapped the pages read-only, and nobody changes them.
    let header = unsafe { *(argument as *const Header) };
    assert!(header.magic == MAGIC, "no environment");
    // SAFETY: the root task mapped the heap for this purpose alone.
    let claimed = unsafe { crate::heap::claim(header.heap_address, header.heap_size) };
    assert!(claimed, "the heap is too small");
    // SAFETY: as for the header; the length is the root task's.
    let bytes = unsafe {
        let body = (argument as *const u8).add(HEADER_SIZE);
        core::slice::from_raw_parts(body, header.length as usize)
    };
    let environment = match Environment::from_bytes(bytes) {
        Ok(environment) => environment,
        Err(error) => panic!("the environment: {error:?}"),
    };
    let name: &'static str = Box::leak(environment.name.clone().into_boxed_str());
    crate::log::init(layout::LOG, name);
    // SAFETY: the caller's promise: once.
    unsafe { crate::program::Program::new(environment) }
}

/// Whether this program is the root task, which nobody supervises.
static IS_ROOT: AtomicBool = AtomicBool::new(false);

/// This program is the root task.
pub fn without_supervisor() {
    IS_ROOT.store(true, Ordering::Relaxed);
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    if !PANICKING.swap(true, Ordering::Relaxed) {
        end(info);
    }
    crate::arch::crash()
}

/// Says where and why the program panics, and has the supervisor end it. Without the root task the system is of no use: it
/// says so in the words that the `bulkhead` command looks for.
#[cfg(target_os = "none")]
fn end(info: &core::panic::PanicInfo<'_>) {
    use crate::log::{current, line};
    use crate::protocol::supervisor;
    let message = info.message();
    let (file, number) = info.location().map_or(("", 0), |at| (at.file(), at.line()));
    if IS_ROOT.load(Ordering::Relaxed) {
        let name = current().map_or("the root task", |(_, name)| name);
        let text = format_args!("panic: {name} at {file}:{number}: {message}");
        return line(abi::boot::ROOT_LOG, "bulkhead", text);
    }
    let (log, name) = current().unwrap_or((crate::layout::LOG, "program"));
    let text = format_args!("panic at {file}:{number}: {message}");
    line(log, name, text);
    supervisor::exit(supervisor::PANICKED)
}
