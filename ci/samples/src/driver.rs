//! The root task: makes the compartments, waits for them, and looks what they have done.

use crate::compartment::{Compartment, MEMORY, Workshop};
use crate::place::{Contents, Role, Start, common, table};
use crate::roles::{EXITED, FAILED, report};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG};
use abi::{PAGE_SIZE, Rights, Selector, Status};
use alloc::format;
use alloc::string::String;
use core::fmt;
use image::bundle::Bundle;
use pager::PAGES;
use rt::syscall::{self, Deadline};

const DONE: Selector = ROOT_FREE;
const BUNDLE: Selector = ROOT_FREE.offset(1);
const MEMORIES: Selector = ROOT_FREE.offset(2);
const ECHO: Selector = ROOT_FREE.offset(4);
const ECHO_PORTAL: Selector = ROOT_FREE.offset(5);

const ECHO_UTCB: u64 = 0x5000_0000;

/// The Linux program's name in the bundle.
const FILE: &str = "linux-hello";

/// Kernel memory of a compartment, in pages; of one that runs others.
const QUOTA: u64 = 24;
const LARGE_QUOTA: u64 = 80;
/// Priorities of who serves and of who uses.
const SERVER: u8 = 20;
const CLIENT: u8 = 10;
/// Rounds of the probe.
const ROUNDS: u64 = 1000;

/// Why the driver gives up.
struct Failure(String);

type Result<T = ()> = core::result::Result<T, Failure>;

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure(status.name().into())
    }
}

fn check(good: bool, what: impl FnOnce() -> String) -> Result {
    if good { Ok(()) } else { Err(Failure(what())) }
}

fn say(text: fmt::Arguments<'_>) {
    rt::log::line(ROOT_LOG, "samples", text);
}

struct Driver {
    workshop: Workshop,
    bundle: Bundle<'static>,
    /// Bits of the notification that nobody has waited for yet.
    signals: u64,
}

fn set_up(info: &BootInfo) -> Result<Driver> {
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    let bundle = trial::open_bundle(info, BUNDLE)?;
    let workshop = Workshop { memory: trial::ram(info, MEMORY)?, done: DONE, head: *bundle.head() };
    workshop.open(MEMORIES)?;
    trial::create_thread(ECHO, ECHO_UTCB, trial::echo, 0)?;
    syscall::create_portal(ROOT_DOMAIN, ECHO_PORTAL, ECHO, 1, 0)?;
    Ok(Driver { workshop, bundle, signals: 0 })
}

impl Driver {
    /// Waits until a compartment has signalled.
    fn await_signal(&mut self, from: &Compartment) -> Result {
        let bit = 1 << from.number;
        while self.signals & bit == 0 {
            self.signals |= syscall::wait(DONE, Deadline::NEVER)?;
        }
        self.signals &= !bit;
        Ok(())
    }

    /// Does one part; afterwards the kernel must have all its memory back.
    fn part(&mut self, name: &str, part: fn(&mut Driver) -> Result<String>) -> Result {
        let before = syscall::quota(ROOT_DOMAIN)?;
        let result = part(self).map_err(|Failure(cause)| Failure(format!("{name}: {cause}")))?;
        let after = syscall::quota(ROOT_DOMAIN)?;
        check(before == after, || format!("{name}: {before:?} before, {after:?} after"))?;
        say(format_args!("{name}: {result}"));
        Ok(())
    }

    /// A Linux program, its calls answered by a server that holds nothing but memory for it and the log. Returns what the
    /// server reports.
    fn run_linux(&mut self, fails: bool) -> Result<[u64; 3]> {
        let (file, _) = self.bundle.file(FILE).map_err(|error| Failure(format!("{error}")))?;
        let (offset, size) = (file.offset, file.size);
        let server = self.workshop.make(0, LARGE_QUOTA)?;
        self.workshop.give_pool(&server)?;
        server.give_time(CLIENT)?;
        server.map_file(offset, size)?;
        server
            .prepare(Start { role: Role::Linux, arguments: [size, 0, fails.into(), 0, 0, 0, 0] })?;
        server.start(SERVER)?;
        self.await_signal(&server)?;
        let [before, after] = [report::BEFORE, report::AFTER].map(|word| server.report(word));
        check(before == after && before != 0, || {
            format!("{before} pages were in use before the program ran, {after} after its end")
        })?;
        let told = [report::END, report::CODE, report::CALLS].map(|word| server.report(word));
        server.destroy()?;
        Ok(told)
    }

    /// A Linux program that does what it should.
    fn linux(&mut self) -> Result<String> {
        let [end, code, calls] = self.run_linux(false)?;
        let good = end == EXITED && code == linux_hello::SUCCESS as u64;
        check(good, || format!("end {end}, code {code}"))?;
        Ok(format!("exit code {code} after {calls} system calls"))
    }

    /// A Linux program that fails.
    fn failing_linux(&mut self) -> Result<String> {
        let [end, _, calls] = self.run_linux(true)?;
        check(end == FAILED, || format!("end {end}"))?;
        Ok(format!("ended by an exception after {calls} system call"))
    }

    /// A foreign thread that holds much and can use nothing.
    fn registers(&mut self) -> Result<String> {
        let handler = self.workshop.make(0, QUOTA)?;
        let thread = self.workshop.make(1, QUOTA)?;
        handler.prepare(Start { role: Role::Probe, arguments: [ROUNDS, 0, 0, 0, 0, 0, 0] })?;
        handler.start(SERVER)?;
        self.await_signal(&handler)?;
        thread.prepare_foreign()?;
        handler.handle(&thread, 0)?;
        syscall::delegate(ECHO_PORTAL, thread.domain(), table::ECHO, Rights::CALL)?;
        // It runs when the driver waits.
        thread.start(CLIENT)?;
        let before = syscall::quota(thread.domain())?;
        self.await_signal(&handler)?;
        let rounds = handler.report(report::ROUNDS);
        check(rounds == ROUNDS, || format!("other registers than expected in round {rounds}"))?;
        let after = syscall::quota(thread.domain())?;
        check(before == after, || format!("{before:?}, then {after:?}"))?;
        let signalled = syscall::wait(thread.notification(), Deadline::POLL);
        check(signalled == Err(Status::Timeout), || format!("its notification: {signalled:?}"))?;
        check(self.signals & 1 << thread.number == 0, || "it has signalled the driver".into())?;
        thread.destroy()?;
        handler.destroy()?;
        Ok(format!("{rounds} system calls arrived as they were made"))
    }

    /// A pager that serves, with memory to give, and limits for its clients.
    fn pager(&mut self, number: u64, role: Role, limits: [u64; 2]) -> Result<Compartment> {
        let pager = self.workshop.make(number, QUOTA)?;
        self.workshop.give_pool(&pager)?;
        pager.prepare(Start { role, arguments: [limits[0], limits[1], 0, 0, 0, 0, 0] })?;
        pager.start(SERVER)?;
        self.await_signal(&pager)?;
        Ok(pager)
    }

    /// A client that runs, of a pager that calls it `identity`.
    fn client(
        &mut self,
        number: u64,
        (pager, identity): (&Compartment, u32),
        contents: Contents,
    ) -> Result<Compartment> {
        let client = self.workshop.make(number, QUOTA)?;
        client.prepare(Start {
            role: Role::Client,
            arguments: [contents as u64, PAGES as u64, number, 0, 0, 0, 0],
        })?;
        pager.give_space(&client, identity)?;
        pager.handle(&client, identity)?;
        client.start(CLIENT)?;
        Ok(client)
    }

    /// Waits for a client; it must have found what it should.
    fn finish(&mut self, client: &Compartment) -> Result {
        self.await_signal(client)?;
        let wrong = client.report(report::WRONG);
        check(wrong == 0, || format!("client {} found {wrong} wrong words", client.number))
    }

    /// Empty pages on demand; a client may have as many as its limit says.
    fn demand_zero(&mut self) -> Result<String> {
        let pages = PAGES as u64;
        let limit = pages / 2;
        let pager = self.pager(0, Role::DemandZero, [pages, limit])?;
        // What lies in the pager's memory is not what its clients find.
        fill(&pager)?;
        let client = self.client(1, (&pager, 0), Contents::Empty)?;
        self.finish(&client)?;
        let faults = pager.report(report::SERVED);
        check(faults == pages, || format!("{faults} page faults"))?;
        let greedy = self.client(2, (&pager, 1), Contents::Empty)?;
        self.await_signal(&pager)?;
        let served = pager.report(2 + report::SERVED);
        let refused = pager.report(2 + report::REFUSED);
        check((served, refused) == (limit, 1), || {
            format!("a client with {limit} pages got {served}, and {refused} refusals")
        })?;
        for compartment in [client, greedy, pager] {
            compartment.destroy()?;
        }
        Ok(format!("{faults} page faults, a limit of {limit} held"))
    }

    /// Two clients that see the same pages, until they write to them.
    fn copy_on_write(&mut self) -> Result<String> {
        let pages = PAGES as u64;
        let copies = pages / 2;
        let pager = self.pager(0, Role::CopyOnWrite, [copies; 2])?;
        fill(&pager)?;
        let mut clients = [None, None];
        for (i, client) in (0..).zip(&mut clients) {
            let started = self.client(1 + u64::from(i), (&pager, i), Contents::Common)?;
            *client = Some(started);
        }
        for (i, client) in clients.iter().flatten().enumerate() {
            self.finish(client)?;
            let faults = pager.report(2 * i + report::SERVED);
            check(faults == pages + copies, || format!("{faults} page faults"))?;
        }
        let kept = (0..PAGES).all(|page| {
            let word = |at| pager.pool().read_u64(page * PAGE_SIZE + at);
            word(0) == Ok(common(page)) && word(PAGE_SIZE - 8) == Ok(0)
        });
        check(kept, || "the common pages were changed".into())?;
        for client in clients.into_iter().flatten() {
            client.destroy()?;
        }
        pager.destroy()?;
        Ok(format!("{} page faults of each client", pages + copies))
    }

    /// A pager that never answers: nobody but its client waits, and that can be ended.
    fn silence(&mut self) -> Result<String> {
        for role in [Role::Waits, Role::Spins] {
            let silent = self.pager(0, role, [0; 2])?;
            let before = syscall::quota(ROOT_DOMAIN)?;
            let victim = self.client(1, (&silent, 0), Contents::Empty)?;
            // It was asked, and does not answer.
            self.await_signal(&silent)?;
            let pager = self.pager(2, Role::DemandZero, [PAGES as u64, 0])?;
            let client = self.client(3, (&pager, 0), Contents::Empty)?;
            self.finish(&client)?;
            client.destroy()?;
            pager.destroy()?;
            check(self.signals & 1 << victim.number == 0, || {
                format!("{role:?}: the client went on")
            })?;
            victim.destroy()?;
            // What the pager holds of it, it has paid for itself.
            let after = syscall::quota(ROOT_DOMAIN)?;
            check(before == after, || {
                format!("{role:?}: {before:?}, {after:?} after the client's end")
            })?;
            silent.destroy()?;
        }
        Ok("its client waited alone".into())
    }
}

/// Fills the first pages that a pager has with what [`common`] says.
fn fill(pager: &Compartment) -> Result {
    let pool = pager.pool();
    for page in 0..PAGES {
        let at = page * PAGE_SIZE;
        let filled = pool.zero(at, PAGE_SIZE).and_then(|()| pool.write_u64(at, common(page)));
        check(filled.is_ok(), || "the pool is too small".into())?;
    }
    Ok(())
}

fn all(info: &BootInfo) -> Result {
    let mut driver = set_up(info)?;
    driver.part("linux", Driver::linux)?;
    driver.part("a failing linux", Driver::failing_linux)?;
    driver.part("registers", Driver::registers)?;
    driver.part("demand zero", Driver::demand_zero)?;
    driver.part("copy on write", Driver::copy_on_write)?;
    driver.part("a silent pager", Driver::silence)
}

/// Does all parts, and waits for ever.
pub fn run(info: &BootInfo) -> ! {
    match all(info) {
        Ok(()) => say(format_args!("done")),
        Err(Failure(cause)) => say(format_args!("FAILED {cause}")),
    }
    // The tool that started the emulator ends it when it reads that.
    loop {
        let _ = syscall::wait(DONE, Deadline::NEVER);
    }
}
