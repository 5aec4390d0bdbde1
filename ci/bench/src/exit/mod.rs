//! VM exits: the benchmark's guest (`bench-guest`) under the least monitor that can answer it.
//!
//! | module | content |
//! | --- | --- |
//! | `plan` | where things lie |
//! | `compartment` | what the root task makes: the monitor's domain and space, the vCPUs, who signals |
//! | `monitor` | the monitor, as far as it is common |
//! | `arch` | the answers to exits |
//!
//! vCPU and monitor are of one domain, which is not that of the root task: a vCPU's state page is mapped into a space that its own
//! domain pays for (`CreateVcpu`). The monitor's space is a copy of the root task's at the same addresses, with data of its own.
//!
//! Each kind of exit has a portal that saves what its answer needs. Instructions that access the device are decoded as the
//! monitor of systems does it, and by its code; so are the interrupt controllers.
//!
//! Interrupts come from a thread of the root task that signals the vCPU's kick. The guest's counter is the machine's (offset 0), so
//! that what that thread reads just before can be compared.

mod arch;
mod compartment;
mod monitor;
mod plan;

use crate::place::Place;
use crate::stats;
use abi::boot::{BootInfo, ROOT_LOG};
use abi::bundle::Head;
use bench_guest::arch::ROWS;
use bench_guest::{Arguments, Row, place as guest, results};
use compartment::{DEVICE_KICK, EVENTS, RUNG};
use plan::{Event, RAM, RAM_SIZE};
use rt::shared::SharedMemory;
use rt::syscall::{self, Deadline, Result};

/// The guest's name in the bundle.
const GUEST: &str = "bench-guest";

/// Seconds that all may take.
const PATIENCE: u64 = 120;

/// How the guest ended.
enum End {
    /// It has measured everything.
    Complete,
    /// It has failed, in a row if that is known.
    Failed(Option<Row>),
    /// It made an exit that the monitor does not know.
    Unknown,
    /// It did not end.
    Late,
}

/// Measures and prints everything here.
pub fn run(place: &mut Place<'_>) {
    let info = place.info;
    let unavailable = |why: &str| {
        for row in ROWS {
            stats::unavailable(row.name(), why);
        }
    };
    let Some(arguments) = arch::arguments(info) else {
        return unavailable("this machine has no virtualisation");
    };
    let bundle = match trial::open_bundle(info, place.selector()) {
        Ok(bundle) => bundle,
        Err(status) => return unavailable(status.name()),
    };
    let Ok((_, image)) = bundle.file(GUEST) else {
        return unavailable("the bundle lacks the guest");
    };
    let arguments =
        Arguments { rows: ROWS.iter().fold(0, |rows, row| rows | row.bit()), ..arguments };
    match measure(info, bundle.head(), image, &arguments) {
        Ok(end) => {
            print(&end);
            compartment::end();
        }
        Err(status) => unavailable(status.name()),
    }
}

fn measure(info: &BootInfo, head: &Head, image: &[u8], arguments: &Arguments) -> Result<End> {
    compartment::build(info, head, image, arguments)?;
    compartment::start()?;
    let late = Deadline::after(info.counter_hz.saturating_mul(PATIENCE));
    loop {
        let Ok(events) = syscall::wait(EVENTS, late) else {
            return Ok(End::Late);
        };
        let has = |event: Event| events & event.bit() != 0;
        if has(Event::Unknown) {
            return Ok(End::Unknown);
        }
        if has(Event::Failed) {
            return Ok(End::Failed(results::current(read)));
        }
        if has(Event::Ended) {
            return Ok(End::Complete);
        }
        if has(Event::Interrupt) {
            interrupt()?;
        }
    }
}

/// Sends the guest an interrupt while it runs, and waits again, as a device server does.
fn interrupt() -> Result {
    // It is in guest mode by then.
    compartment::pause();
    let stamp = (guest::STAMP - guest::RAM.start) as usize;
    let memory = ram();
    let _ = memory.write_u64(stamp, rt::arch::counter());
    syscall::signal(DEVICE_KICK)
}

/// The guest's RAM.
fn ram() -> SharedMemory {
    // SAFETY: mapped for the guest alone by now.
    unsafe { SharedMemory::new(RAM as usize, RAM_SIZE as usize) }
}

fn read(offset: u64) -> u32 {
    ram().read_u32(offset as usize).unwrap_or(0)
}

/// Prints the rows, and why some are not there.
fn print(end: &End) {
    let rung = syscall::wait(RUNG, Deadline::POLL).is_ok();
    for row in ROWS {
        let summary = results::summary(*row, read);
        match (summary, end) {
            (Some(_), _) if *row == Row::Doorbell && !rung => {
                stats::unavailable(row.name(), "the doorbell did not ring");
            }
            (Some(summary), _) => stats::print(row.name(), &summary),
            (None, End::Complete) => stats::unavailable(row.name(), "the guest did not measure it"),
            (None, End::Failed(Some(failed))) if failed == row => {
                stats::unavailable(row.name(), "the guest failed");
            }
            (None, End::Failed(_)) => stats::unavailable(row.name(), "the guest failed before"),
            (None, End::Unknown) => {
                stats::unavailable(row.name(), "the guest made an unknown exit");
            }
            (None, End::Late) => stats::unavailable(row.name(), "the guest did not end"),
        }
    }
    if let End::Unknown = end {
        let page = monitor::report_page();
        let word = |i: usize| page.read_u64(i * 8).unwrap_or(0);
        rt::log::line(
            ROOT_LOG,
            "bench",
            format_args!(
                "vCPU page {:#x}: exit {:#x} {:#x} {:#x} {:#x}",
                word(0),
                word(1),
                word(2),
                word(3),
                word(4)
            ),
        );
    }
}
