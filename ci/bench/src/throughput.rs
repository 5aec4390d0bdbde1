//! What independent pairs of client and server cost when every CPU of the machine has one.
//!
//! Each client makes its operations in a loop, and so long until all clients have their samples: no CPU is ever idle, and
//! during one turn of a client's loop each of the others has one turn too. For that, an emulator that runs the CPUs in turns
//! of a million instructions is told to go on with the next one in the middle of each operation ([`arch::give_way`]).
//!
//! What a tick of the machine's counter is, is found out first, by two loops of which one is a known number of instructions
//! longer: one instruction of any CPU, if they run in turns, or one of each, if they go on side by side. Either gives the
//! instructions of one operation.

use crate::peer::FOR_EVER;
use crate::stats::{self, SAMPLES};
use crate::{LOOP_BEGINS, LOOP_ENDS, arch};
use abi::boot::{BootInfo, MAX_CPUS, ROOT_DOMAIN, ROOT_SPACE, ROOT_TIME};
use abi::bundle::Head;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{Badge, Op, Rights, Selector, Status, Tag};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::{Registers, call_portal, counter};
use rt::syscall::{self, Deadline, MapParameters, Result, ThreadParameters, Time};
use trial::map_code;

/// Selectors of the root domain: of what is there once, and of each pair.
const FREE: u32 = abi::boot::ROOT_FREE.0 + 128;
const DONE: Selector = Selector(FREE);
const HERE: Selector = Selector(FREE + 1);
const PAIRS: u32 = FREE + 64;
const PER_PAIR: u32 = 32;

/// Selectors of a client's domain.
const SAME: Selector = Selector(1);
const OTHER: Selector = Selector(2);
const BELL: Selector = Selector(3);
const CLIENTS_DONE: Selector = Selector(4);

const CLIENT_UTCB: u64 = 0x5000_0000;
const SERVER_UTCB: u64 = 0x5000_1000;
/// Where a client finds what all of them share, and what is its own.
const SHARED: u64 = 0x5001_0000;
const OWN: u64 = LOOP_BEGINS;
const OWN_SIZE: u64 = 0x1_0000;
const SHARED_SIZE: u64 = size_of::<Shared>() as u64;
/// Where the root task finds the same: first the page that is shared, then the pages of each client.
const WINDOW: u64 = 0x5200_0000;
/// Behind the guest's memory ([`crate::exit`]).
const OFFSET: u64 = 0x10_0000;
/// The stack pointer of threads that use none.
const NO_STACK: u64 = 0x1000;

/// Operations of a sample.
const BATCH: u64 = 16;
/// Batches before those that count: the very first one, and some to warm up.
const UNCOUNTED: usize = 5;
const BATCHES: usize = UNCOUNTED + SAMPLES;
/// The instructions by which the second loop is longer than the first.
pub(crate) const KNOWN: u64 = 128;
/// The difference that was measured between the two may be wrong by one part in so many.
const PRECISION: u64 = 50;

/// The loops: two that say what the counter counts, then one for each row.
const LOOPS: usize = 2 + ROWS.len();
const ROWS: [&str; 4] = ["ipc.same_domain", "ipc.other_domain", "ipc.utcb_words", "signal_wait"];
/// Words in the UTCB of a call that takes the general path.
const WORDS: u16 = 4;

/// A number in cache lines of its own: two, as processors fetch pairs of them.
#[repr(C, align(128))]
pub(crate) struct Line(pub AtomicU64);

/// What the clients share. While they measure, each writes to a line of its own, and nobody reads it.
#[repr(C, align(4096))]
struct Shared {
    /// How often a client came to where all wait for each other.
    met: Line,
    /// Operations of each client.
    turns: [Line; MAX_CPUS],
}

/// A client's part of the memory; its stack is behind it.
#[repr(C)]
struct Own {
    /// [`LOOP_BEGINS`].
    begins: AtomicU64,
    /// [`LOOP_ENDS`].
    ends: AtomicU64,
    /// The number of its CPU, and of all that take part.
    me: usize,
    count: usize,
    /// Status of the first operation that failed.
    status: u64,
    loops: [Loop; LOOPS],
}

#[repr(C)]
struct Loop {
    /// What the client that made the fewest operations meanwhile made of them, this one not counted.
    others: u64,
    /// Ticks of each batch.
    batches: [u64; BATCHES],
}

const _: () = {
    assert!(size_of::<Own>() as u64 + 0x4000 <= OWN_SIZE);
    assert!(offset_of!(Own, begins) == 0 && offset_of!(Own, ends) as u64 == LOOP_ENDS - OWN);
};

/// A client at work.
struct Client {
    shared: &'static Shared,
    begins: &'static AtomicU64,
    ends: &'static AtomicU64,
    me: usize,
    count: usize,
    /// Where `met` is when all have come to the next meeting.
    all_met: u64,
}

/// What each client does. It has none of the program's data but what is constant.
pub(crate) extern "C" fn client() -> ! {
    // SAFETY: both are mapped and filled before the thread starts, and stay. What is shared is atomic; the other part is
    // this client's, until the root task looks at it after the end.
    let (shared, own) = unsafe { (&*(SHARED as *const Shared), &mut *(OWN as *mut Own)) };
    let (me, count) = (own.me, own.count);
    let mut client = Client { shared, begins: &own.begins, ends: &own.ends, me, count, all_met: 0 };
    own.status = first_failure();
    let [empty, known, same, other, words, signal] = &mut own.loops;
    client.measure(empty, arch::give_way);
    client.measure(known, || {
        arch::known();
        arch::give_way();
    });
    client.measure(same, || {
        call(SAME, 0);
    });
    client.measure(other, || {
        call(OTHER, 0);
    });
    client.measure(words, || {
        call(SAME, WORDS);
    });
    client.measure(signal, || {
        let _ = syscall::signal(BELL);
        arch::give_way();
        let _ = syscall::wait(BELL, Deadline::NEVER);
    });
    if me == 0 {
        let _ = syscall::signal(CLIENTS_DONE);
    }
    loop {
        let _ = syscall::wait(BELL, Deadline::NEVER);
    }
}

/// Calls a portal whose handler gives way, with `words` words in the UTCB.
#[inline(always)]
fn call(portal: Selector, words: u16) -> u64 {
    call_portal(Registers {
        tag: Tag::new(Op::Call, words).0,
        first: portal.0 as u64,
        ..Registers::default()
    })
    .tag
}

/// Tries each operation; the status of the first one that fails.
fn first_failure() -> u64 {
    let calls = [(SAME, 0), (OTHER, 0), (SAME, WORDS)].map(|(portal, words)| {
        let tag = Tag(call(portal, words));
        tag.status()
    });
    let bell = syscall::signal(BELL).and_then(|()| syscall::wait(BELL, Deadline::POLL));
    let bell = bell.err().unwrap_or(Status::Success);
    let mut all = calls.into_iter().chain([bell]);
    let failed = all.find(|&status| status != Status::Success);
    failed.unwrap_or(Status::Success) as u64
}

impl Client {
    /// Waits until all clients have come here; does `meanwhile` as long as they have not.
    #[inline(always)]
    fn meet(&mut self, meanwhile: impl Fn()) {
        self.all_met += self.count as u64;
        self.shared.met.0.fetch_add(1, Ordering::AcqRel);
        while self.shared.met.0.load(Ordering::Acquire) < self.all_met {
            meanwhile();
        }
    }

    /// Operations of each client up to now.
    fn turns(&self) -> [u64; MAX_CPUS] {
        core::array::from_fn(|cpu| self.shared.turns[cpu].0.load(Ordering::Relaxed))
    }

    /// Runs a loop of `operation`, at the same time as the other clients.
    #[inline(always)]
    fn measure(&mut self, result: &mut Loop, operation: impl Fn()) {
        self.meet(arch::give_way);
        let before = self.turns();
        let turns = &self.shared.turns[self.me].0;
        let mut done = before[self.me];
        self.begins.store(1, Ordering::Relaxed);
        for ticks in &mut result.batches[..batches(self.count)] {
            let start = counter();
            for _ in 0..BATCH {
                operation();
                done += 1;
                turns.store(done, Ordering::Relaxed);
            }
            *ticks = counter().wrapping_sub(start);
        }
        self.ends.store(1, Ordering::Relaxed);
        let after = self.turns();
        let others = (0..self.count).filter(|&cpu| cpu != self.me);
        let least = others.map(|cpu| after[cpu] - before[cpu]).min();
        result.others = least.unwrap_or(after[self.me] - before[self.me]);
        // Who measures yet is not alone.
        self.meet(operation);
    }
}

/// Batches that each of `count` clients runs: together they have all samples.
fn batches(count: usize) -> usize {
    UNCOUNTED + SAMPLES.div_ceil(count)
}

/// Measures and prints everything here; what a tick is, if it is known.
pub fn run(info: &BootInfo, head: &Head) -> Option<Ticks> {
    let count = info.cpus as usize;
    let reason = match measure(info, head) {
        Ok(()) => match Ticks::find(count) {
            Ok(ticks) => {
                report(count, &ticks);
                return Some(ticks);
            }
            Err(reason) => reason,
        },
        Err(status) => status.name(),
    };
    for row in ROWS {
        stats::unavailable(format_args!("throughput.{row}.cpus{count}"), reason);
    }
    None
}

/// Has a pair on each CPU measure, and waits for their end.
fn measure(info: &BootInfo, head: &Head) -> Result {
    let count = info.cpus;
    let size = SHARED_SIZE + count as u64 * OWN_SIZE;
    let memory = trial::ram(info, OFFSET + size)?;
    let here = MapParameters { offset: OFFSET, address: WINDOW, size, rights: Rights::RW };
    syscall::map(memory, ROOT_SPACE, HERE, &here)?;
    // SAFETY: just mapped, and nobody else's yet.
    unsafe {
        (WINDOW as *mut Shared).write(Shared {
            met: Line(AtomicU64::new(0)),
            turns: [const { Line(AtomicU64::new(0)) }; MAX_CPUS],
        });
    }
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    for cpu in 0..count {
        // SAFETY: as above.
        unsafe {
            let own = own(cpu as usize);
            (&raw mut (*own).me).write(cpu as usize);
            (&raw mut (*own).count).write(count as usize);
        }
        Pair { cpu }.create(head, memory)?;
    }
    for cpu in 0..count {
        Pair { cpu }.start()?;
    }
    syscall::wait(DONE, Deadline::NEVER)?;
    for cpu in 0..count as usize {
        // SAFETY: mapped; the clients have ended their work.
        match Status::from_code(unsafe { (*own(cpu)).status } as u8) {
            Status::Success => {}
            status => return Err(status),
        }
    }
    Ok(())
}

/// The root task's view of what is client `cpu`'s.
fn own(cpu: usize) -> *mut Own {
    (WINDOW + SHARED_SIZE + cpu as u64 * OWN_SIZE) as *mut Own
}

/// A client on a CPU with its two servers, which share no object, domain or space with those of another CPU.
struct Pair {
    cpu: u32,
}

impl Pair {
    /// A selector of the root domain.
    fn selector(&self, number: u32) -> Selector {
        Selector(PAIRS + self.cpu * PER_PAIR + number)
    }

    fn client_domain(&self) -> Selector {
        self.selector(0)
    }

    fn client(&self) -> Selector {
        self.selector(1)
    }

    fn create(&self, head: &Head, memory: Selector) -> Result {
        let (domain, space) = (self.client_domain(), self.selector(2));
        let (other_domain, other_space) = (self.selector(3), self.selector(4));
        for (domain, space, code) in [(domain, space, 16), (other_domain, other_space, 24)] {
            syscall::create_domain(ROOT_DOMAIN, domain, 64, 64)?;
            syscall::create_space(domain, space, SpaceKind::Host)?;
            map_code(head, space, self.selector(code))?;
        }
        let map = |selector, offset, address, size| {
            let p = MapParameters { offset: OFFSET + offset, address, size, rights: Rights::RW };
            syscall::map(memory, space, self.selector(selector), &p)
        };
        map(5, 0, SHARED, SHARED_SIZE)?;
        let mine = SHARED_SIZE + self.cpu as u64 * OWN_SIZE;
        map(6, mine, OWN, OWN_SIZE)?;
        let client = arch::client as *const () as u64;
        let server = arch::server as *const () as u64;
        let top = OWN + OWN_SIZE;
        self.thread(self.client(), (domain, space), CLIENT_UTCB, client, top)?;
        for (number, owner, dst) in
            [(7, (domain, space), SAME), (8, (other_domain, other_space), OTHER)]
        {
            let (thread, portal) = (self.selector(number), self.selector(number + 2));
            self.thread(thread, owner, SERVER_UTCB, server, NO_STACK)?;
            syscall::create_portal(owner.0, portal, thread, 1, 0)?;
            syscall::delegate(portal, domain, dst, Rights::CALL)?;
        }
        let bell = self.selector(11);
        let badge = Badge(1);
        syscall::create_notification(domain, bell)?;
        let rights = Rights::SIGNAL | Rights::WAIT;
        syscall::delegate_notification(bell, domain, BELL, rights, badge)?;
        syscall::delegate_notification(DONE, domain, CLIENTS_DONE, Rights::SIGNAL, badge)
    }

    fn thread(
        &self,
        thread: Selector,
        (domain, space): (Selector, Selector),
        utcb: u64,
        ip: u64,
        sp: u64,
    ) -> Result {
        let p = ThreadParameters {
            domain,
            space,
            cpu: self.cpu,
            utcb,
            ip,
            sp,
            exceptions: Selector::NULL,
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(domain, thread, &p)
    }

    fn start(&self) -> Result {
        let time = Time { priority: 10, budget: FOR_EVER, period: FOR_EVER };
        let sched = self.selector(12);
        syscall::create_sched(self.client_domain(), sched, ROOT_TIME, self.cpu, time)?;
        syscall::bind_sched(sched, self.client())
    }
}

/// What a tick is.
pub struct Ticks {
    /// Of a batch of nothing.
    empty: u64,
    /// For an instruction of all clients.
    each: u64,
}

impl Ticks {
    /// By the two loops of which the difference is known; or why the counter does not count instructions.
    fn find(count: usize) -> core::result::Result<Ticks, &'static str> {
        let [empty, known] = [0, 1].map(|number| {
            let mut samples = samples(count, number);
            stats::summarise(&mut samples, 0).median
        });
        let instructions = BATCH * KNOWN;
        let difference = known.saturating_sub(empty);
        let each = (difference + instructions / 2) / instructions;
        let off = difference.abs_diff(each * instructions);
        if (each != 1 && each != count as u64) || off > instructions / PRECISION {
            return Err("the counter does not count instructions");
        }
        Ok(Ticks { empty, each })
    }

    /// Whether it is an instruction of any CPU: they run in turns.
    pub fn is_of_any_cpu(&self) -> bool {
        self.each > 1
    }

    /// Instructions of one operation of a batch that took so many.
    fn instructions(&self, ticks: u64) -> u64 {
        let all = BATCH * self.each;
        (ticks.saturating_sub(self.empty) + all / 2) / all
    }
}

/// The batches that count of one loop, of all clients.
fn samples(count: usize, number: usize) -> [u64; SAMPLES] {
    core::array::from_fn(|i| {
        // SAFETY: mapped; the clients have ended their work.
        unsafe {
            (&raw const (*own(i % count)).loops[number].batches[UNCOUNTED + i / count]).read()
        }
    })
}

/// Prints the rows.
fn report(count: usize, ticks: &Ticks) {
    let operations = batches(count) as u64 * BATCH;
    for (row, number) in ROWS.iter().zip(2..) {
        let name = format_args!("throughput.{row}.cpus{count}");
        let mut all = samples(count, number).map(|sample| ticks.instructions(sample));
        // SAFETY: as above.
        let of = |cpu| unsafe { &(*own(cpu)).loops[number] };
        let first = ticks.instructions(of(0).batches[0]);
        // Each client's turns come one by one with those of the others.
        if (0..count).any(|cpu| of(cpu).others < operations - operations / 10) {
            stats::unavailable(name, "the pairs did not run side by side");
        } else {
            stats::print(name, &stats::summarise(&mut all, first));
        }
    }
}
