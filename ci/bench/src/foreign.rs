//! A system call of a foreign thread, which a handler in another domain answers.

use crate::arch;
use crate::ipc::{OTHER_DOMAIN, OTHER_SPACE};
use crate::stats::{self, Row};
use abi::boot::{ROOT_DOMAIN, ROOT_SPACE};
use abi::syscall::ThreadFlags;
use abi::{Badge, Rights, Selector};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::{Registers, system_call};
use rt::syscall::{self, Deadline, Result, ThreadParameters};

const FREE: u32 = abi::boot::ROOT_FREE.0 + 32;
const HANDLER: Selector = Selector(FREE);
const PORTAL: Selector = Selector(FREE + 1);
const THREAD: Selector = Selector(FREE + 2);
const SCHED: Selector = Selector(FREE + 3);
const DONE: Selector = Selector(FREE + 4);
/// The handler's selector of the same notification.
pub(crate) const HANDLERS_DONE: Selector = Selector(1);

const UTCB: u64 = 0x5000_4000;
const HANDLER_UTCB: u64 = 0x5000_5000;

#[repr(C, align(16))]
struct Stack([u8; 16384]);
static mut STACK: Stack = Stack([0; 16384]);

/// The row that the foreign thread has measured: it cannot print it.
static ROW: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// What the foreign thread does. Its end is an exception.
pub(crate) extern "C" fn measure() {
    let Row {
        min,
        median,
        p99,
        max,
        first,
    } = stats::measure(|| {
        system_call(Registers::default());
    });
    for (word, value) in ROW.iter().zip([min, median, p99, max, first]) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Measures and prints everything here. After [`crate::ipc::run`], whose other domain it uses.
pub fn run() {
    match start() {
        Ok(()) => {
            let [min, median, p99, max, first] =
                core::array::from_fn(|i| ROW[i].load(Ordering::Relaxed));
            let row = Row {
                min,
                median,
                p99,
                max,
                first,
            };
            stats::print("syscall.foreign", &row);
        }
        Err(status) => stats::unavailable("syscall.foreign", status.name()),
    }
}

/// Has a foreign thread measure, and waits for its end.
fn start() -> Result {
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    let badge = Badge(1);
    syscall::delegate_notification(DONE, OTHER_DOMAIN, HANDLERS_DONE, Rights::SIGNAL, badge)?;
    let handler = ThreadParameters {
        domain: OTHER_DOMAIN,
        space: OTHER_SPACE,
        cpu: 0,
        utcb: HANDLER_UTCB,
        ip: arch::answer as *const () as u64,
        sp: 0x1000,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(OTHER_DOMAIN, HANDLER, &handler)?;
    syscall::create_portal(ROOT_DOMAIN, PORTAL, HANDLER, 0, 0)?;
    let thread = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: ROOT_SPACE,
        cpu: 0,
        utcb: UTCB,
        ip: arch::foreign as *const () as u64,
        sp: &raw const STACK as u64 + size_of::<Stack>() as u64,
        exceptions: PORTAL,
        flags: ThreadFlags::FOREIGN,
    };
    syscall::create_thread(ROOT_DOMAIN, THREAD, &thread)?;
    trial::start(SCHED, THREAD)?;
    syscall::wait(DONE, Deadline::NEVER).map(|_| ())
}
