//! What runs in the compartments. Nothing there is writable but their own memory: no static of this program is.

use crate::place::{self, Contents, Role, Start, common, table};
use crate::probe::Probe;
use abi::PAGE_SIZE;
use linux_abi::server::{End, Resources, Server};
use pager::{CLIENTS, PAGES, Pager, Policy};
use rt::handler;
use rt::ipc::Utcb;
use rt::shared::SharedMemory;
use rt::syscall::{self, Deadline, Time};

/// What a part tells the driver, by number of the word.
pub mod report {
    /// Linux: how the program ended; [`super::EXITED`] or [`super::FAILED`], 0 if it did not start.
    pub const END: usize = 0;
    /// Linux: its exit code.
    pub const CODE: usize = 1;
    /// Linux: the system calls that it made.
    pub const CALLS: usize = 2;
    /// Linux: pages of the server's quota in use before the program began, and after its end.
    pub const BEFORE: usize = 3;
    /// As above.
    pub const AFTER: usize = 4;
    /// Probe: rounds that went well.
    pub const ROUNDS: usize = 0;
    /// Client: words that were not as expected.
    pub const WRONG: usize = 0;
    /// Pager: page faults after which client 0 went on; two words for each client.
    pub const SERVED: usize = 0;
    /// Pager: exceptions after which client 0 did not.
    pub const REFUSED: usize = 1;
}

/// The Linux program has exited.
pub const EXITED: u64 = 1;
/// It was ended by an exception.
pub const FAILED: u64 = 2;

/// Priority of what compartments start.
const PRIORITY: u8 = 10;

/// A compartment's memory, as its thread tells the driver of it.
struct Report(SharedMemory);

impl Report {
    fn set(&self, word: usize, value: u64) {
        // The words that are set are those of [`report`], which are there.
        let _ = self.0.write_u64(word * 8, value);
    }
}

/// Wakes the driver.
fn signal() {
    // It is the driver's own; if it is gone, nobody is there to be told.
    let _ = syscall::signal(table::DONE);
}

/// Does nothing for ever.
fn rest() -> ! {
    loop {
        let _ = syscall::wait(table::REST, Deadline::NEVER);
    }
}

fn memory(address: u64, size: u64) -> SharedMemory {
    // SAFETY: the driver maps these ranges in the spaces of those that use them, which hold no Rust object there.
    unsafe { SharedMemory::new(address as usize, size as usize) }
}

/// Called by the entry code.
pub(crate) extern "C" fn main(start: &Start) -> ! {
    // SAFETY: the kernel maps the UTCB there; this is the only handle.
    let utcb = unsafe { Utcb::new(place::UTCB) };
    let report = Report(memory(place::AREA_ADDRESS, place::REPORT as u64 * 8));
    let arguments = &start.arguments;
    match start.role {
        Role::Linux => linux(utcb, report, arguments),
        Role::Probe => probe(utcb, report, arguments[0]),
        Role::DemandZero => page(utcb, report, Policy::DemandZero, arguments),
        Role::CopyOnWrite => page(utcb, report, Policy::CopyOnWrite, arguments),
        Role::Waits => silence(utcb, rest),
        Role::Spins => silence(utcb, || {
            loop {
                core::hint::spin_loop();
            }
        }),
        Role::Client => client(report, arguments),
    }
}

fn linux(utcb: Utcb, report: Report, arguments: &[u64; 7]) -> ! {
    let [size, cpu, fails, ..] = *arguments;
    let file = memory(place::FILE_ADDRESS, size);
    // SAFETY: mapped read-only for ever from the bundle, which nobody writes to.
    let file = unsafe { core::slice::from_raw_parts(file.address() as *const u8, file.size()) };
    let used = || syscall::quota(table::DOMAIN).map_or(0, |quota| quota.used);
    report.set(report::BEFORE, used());
    let resources = Resources {
        domain: table::DOMAIN,
        thread: table::THREAD,
        cpu: cpu as u32,
        memory: table::POOL,
        frames: memory(place::POOL_ADDRESS, place::POOL),
        log: table::LOG,
        selectors: table::FREE,
        time_source: table::TIME,
        time: Time { priority: PRIORITY, ..Time::default() },
    };
    let arguments: &[&str] = match fails {
        0 => &["linux-hello"],
        _ => &["linux-hello", "crash"],
    };
    let server = match Server::start(resources, file, arguments) {
        Ok(server) => server,
        Err(cause) => {
            rt::log::line(
                table::LOG,
                "samples",
                format_args!("the Linux program does not start: {cause:?}"),
            );
            signal();
            rest()
        }
    };
    handler::serve_for_ever(utcb, server, |server, message| {
        let Some(end) = server.serve(message) else {
            return;
        };
        match end {
            End::Exit(code) => {
                report.set(report::CODE, code as u64);
                report.set(report::END, EXITED);
            }
            End::Exception(_) => report.set(report::END, FAILED),
        }
        report.set(report::CALLS, server.calls());
        if server.destroy().is_ok() {
            report.set(report::AFTER, used());
        }
        signal();
    })
}

fn probe(utcb: Utcb, report: Report, rounds: u64) -> ! {
    signal();
    handler::serve_for_ever(utcb, Probe::new(), |probe, message| {
        let good = probe.serve(message);
        report.set(report::ROUNDS, probe.rounds());
        if !good {
            signal();
        } else if probe.rounds() == rounds {
            rt::exception::stop(message.words);
            signal();
        }
    })
}

fn page(utcb: Utcb, report: Report, policy: Policy, limits: &[u64; 7]) -> ! {
    let limits: [usize; CLIENTS] = core::array::from_fn(|i| limits[i] as usize);
    let frames = place::POOL as usize / PAGE_SIZE;
    let resources = pager::Resources {
        memory: table::POOL,
        frames: memory(place::POOL_ADDRESS, place::POOL),
        spaces: table::SPACES,
        mappings: table::FREE,
        address: place::PAGED,
    };
    let server = pager::Server::new(Pager::new(policy, frames, limits), resources);
    signal();
    handler::serve_for_ever(utcb, server, |server, message| {
        let Some((client, account)) = server.serve(message) else {
            return;
        };
        report.set(2 * client + report::SERVED, account.served);
        report.set(2 * client + report::REFUSED, account.refused);
        if account.refused != 0 {
            signal();
        }
    })
}

/// Says that it is there; then that it was asked, and never answers.
fn silence(utcb: Utcb, hang: fn() -> !) -> ! {
    signal();
    handler::serve_for_ever(utcb, (), |_, _| {
        signal();
        hang()
    })
}

/// Reads the first and the last word of each page, writes to every other page, and reads again.
fn client(report: Report, arguments: &[u64; 7]) -> ! {
    let [contents, pages, number, ..] = *arguments;
    let pages = (pages as usize).min(PAGES);
    let memory = memory(place::PAGED, (PAGES * PAGE_SIZE) as u64);
    let word = |page: usize, last: bool| page * PAGE_SIZE + if last { PAGE_SIZE - 8 } else { 0 };
    let written = |page: usize| number << 32 | page as u64;
    let found = |page| {
        if contents == Contents::Common as u64 { common(page) } else { 0 }
    };
    let mut wrong = 0;
    let mut expect = |at: usize, value: u64| wrong += u64::from(memory.read_u64(at) != Ok(value));
    for page in 0..pages {
        expect(word(page, false), found(page));
        expect(word(page, true), 0);
    }
    for page in (0..pages).step_by(2) {
        let _ = memory.write_u64(word(page, true), written(page));
    }
    for page in 0..pages {
        let last = if page % 2 == 0 { written(page) } else { 0 };
        expect(word(page, false), found(page));
        expect(word(page, true), last);
    }
    report.set(report::WRONG, wrong);
    signal();
    rest()
}
