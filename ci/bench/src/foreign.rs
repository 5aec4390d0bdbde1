//! A system call of a foreign thread, which a handler in another domain answers.

use crate::arch;
use crate::place::Place;
use crate::server::Compartment;
use crate::stats::{self, Row};
use abi::boot::{ROOT_DOMAIN, ROOT_SPACE};
use abi::syscall::ThreadFlags;
use abi::{Badge, Rights, Selector};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::{Registers, system_call};
use rt::syscall::{self, Deadline, Result, ThreadParameters};
use trial::Stack;

/// The handler's selector of the notification that says the end.
pub(crate) const HANDLERS_DONE: Selector = Selector(1);

static STACK: Stack = Stack::zeroed();

/// The row that the foreign thread has measured: it cannot print it.
static ROW: [AtomicU64; 5] = [const { AtomicU64::new(0) }; 5];

/// What the foreign thread does. Its end is an exception.
pub(crate) extern "C" fn measure() {
    let row = stats::measure(|| {
        system_call(Registers::default());
        Ok(())
    });
    let Ok(Row { min, median, p99, max, first }) = row else {
        return;
    };
    for (word, value) in ROW.iter().zip([min, median, p99, max, first]) {
        word.store(value, Ordering::Relaxed);
    }
}

/// Measures and prints everything here.
pub fn run(place: &mut Place) {
    stats::report("syscall.foreign", start(place));
}

/// Has a foreign thread measure, and waits for its end.
fn start(place: &mut Place) -> Result<Row> {
    let (done, thread) = (place.selector(), place.selector());
    let badge = Badge(1);
    let handler = Compartment::create(place)?;
    syscall::create_notification(ROOT_DOMAIN, done)?;
    syscall::delegate_notification(done, handler.domain, HANDLERS_DONE, Rights::SIGNAL, badge)?;
    let parameters = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: ROOT_SPACE,
        cpu: 0,
        utcb: place.utcb_address(),
        ip: arch::foreign as *const () as u64,
        sp: STACK.top(),
        exceptions: handler.server(place, arch::answer, 0)?,
        flags: ThreadFlags::FOREIGN,
    };
    syscall::create_thread(ROOT_DOMAIN, thread, &parameters)?;
    trial::start(place.selector(), thread)?;
    syscall::wait(done, Deadline::NEVER)?;
    let [min, median, p99, max, first] = core::array::from_fn(|i| ROW[i].load(Ordering::Relaxed));
    Ok(Row { min, median, p99, max, first })
}
