//! Scheduling contexts and the run queue of a CPU.
//!
//! A scheduling context has a home: the thread or vCPU that it was bound to. What runs on it is found by
//! following the home's chain of calls, so that time is donated along a call without any
//! queue being touched.

use crate::binding::Target;
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu::Cpu;
use crate::object::Header;
use crate::overrun;
use crate::ring::{Link, Linked};
use crate::space::Progress;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::timeout::{Expiry, Timeout};
use abi::cap::TimeLimit;
use abi::{PARTITIONS, PRIORITIES};
use core::mem::offset_of;

/// A scheduling context.
#[repr(C, align(64))]
pub struct Sched {
    /// Common part.
    pub header: Header,
    /// The CPU whose time it is.
    pub cpu: AtomicU32,
    /// Priority, 0 to 127.
    pub priority: u8,
    /// Partition of the cyclic schedule.
    pub partition: u8,
    /// Whether it is in the run queue.
    queued: CpuCell<bool>,
    /// Whether its overrun was told in this period.
    pub overrun_told: CpuCell<bool>,
    /// Whether it is bound.
    pub bound: AtomicBool,
    /// Ticks per period; 0: no limit.
    pub budget: u64,
    /// Period in ticks.
    pub period: u64,
    /// Ticks left of the budget or the time slice.
    left: CpuCell<u64>,
    /// Bound to.
    pub home: CpuCell<Option<Ref<Context>>>,
    /// Link in the run queue; in its CPU's inbox while it is to be started, under the inbox's lock.
    pub next: CpuCell<Option<Ref<Sched>>>,
    prev: CpuCell<Option<Ref<Sched>>>,
    /// Place among the waiters of the blocked context that its chain of calls ends at, or among those released.
    pub waiting: Link,
    /// The end of the period, while the budget is spent.
    pub replenish: Timeout,
    /// What happens when it would go on with its budget spent.
    pub overrun: TicketMutex<Option<Target>>,
}

/// Rings of scheduling contexts that wait, or wait no more.
pub struct Waiting;

// SAFETY: what ends is taken out of the ring that it is in before (`unbind`).
unsafe impl Linked for Waiting {
    type Object = Sched;
    const LINK: usize = offset_of!(Sched, waiting);
}

impl Sched {
    /// A scheduling context that is bound to nothing, with the priority and partition of `limit`.
    pub fn new(header: Header, cpu: u32, limit: TimeLimit, budget: u64, period: u64) -> Sched {
        Sched {
            header,
            cpu: AtomicU32::new(cpu),
            priority: limit.priority,
            partition: limit.partition,
            queued: CpuCell::new(false),
            overrun_told: CpuCell::new(false),
            bound: AtomicBool::new(false),
            budget,
            period,
            left: CpuCell::new(0),
            home: CpuCell::new(None),
            next: CpuCell::new(None),
            prev: CpuCell::new(None),
            waiting: Link::new(),
            replenish: Timeout::new(Expiry::Replenish),
            overrun: TicketMutex::new(None),
        }
    }

    /// The CPU whose time it is.
    pub fn cpu(&self) -> u32 {
        self.cpu.load(Ordering::Acquire)
    }

    /// What time must allow for it.
    pub fn limit(&self) -> TimeLimit {
        TimeLimit { priority: self.priority, partition: self.partition }
    }
}

/// Ready scheduling contexts of one partition, by priority, first in first out: rings.
struct RunQueue {
    occupied: CpuCell<u128>,
    heads: [CpuCell<Option<Ref<Sched>>>; PRIORITIES],
}

impl RunQueue {
    const fn empty() -> RunQueue {
        RunQueue { occupied: CpuCell::new(0), heads: [const { CpuCell::new(None) }; PRIORITIES] }
    }

    /// The highest priority that has somebody ready.
    #[inline]
    fn top(&self) -> Option<u32> {
        self.occupied.get().checked_ilog2()
    }

    fn enqueue(&self, sched: Ref<Sched>, front: bool) {
        let p = sched.priority as usize % PRIORITIES;
        let Some(head) = self.heads[p].get() else {
            sched.next.set(Some(sched));
            sched.prev.set(Some(sched));
            self.heads[p].set(Some(sched));
            return self.occupied.set(self.occupied.get() | 1 << p);
        };
        let tail = head.prev.get().unwrap_or(head);
        sched.next.set(Some(head));
        sched.prev.set(Some(tail));
        tail.next.set(Some(sched));
        head.prev.set(Some(sched));
        if front {
            self.heads[p].set(Some(sched));
        }
    }

    fn remove(&self, sched: Ref<Sched>) {
        let p = sched.priority as usize % PRIORITIES;
        match (sched.next.take(), sched.prev.take()) {
            (Some(next), Some(prev)) if next != sched => {
                prev.next.set(Some(next));
                next.prev.set(Some(prev));
                if self.heads[p].get() == Some(sched) {
                    self.heads[p].set(Some(next));
                }
            }
            _ => {
                self.heads[p].set(None);
                self.occupied.set(self.occupied.get() & !(1 << p));
            }
        }
    }
}

/// Ready scheduling contexts of one CPU.
pub struct RunQueues {
    partitions: [RunQueue; PARTITIONS],
    /// Partitions, one bit each, that somebody is ready in.
    occupied: CpuCell<u8>,
    /// Partitions that may run.
    open: CpuCell<u8>,
    /// The partition that goes first among equals.
    turn: CpuCell<u8>,
    /// Somebody looked, and nobody was ready who is as important as what runs; since then neither was anybody added nor
    /// another one chosen.
    settled: CpuCell<bool>,
}

const _: () = assert!(PARTITIONS == u8::BITS as usize);

/// Where the run queues say that nobody is ready who is as important as what runs, for the fast path.
pub const SETTLED: usize = offset_of!(RunQueues, settled);

impl RunQueues {
    /// Empty queues, of which all may run.
    pub const fn empty() -> RunQueues {
        RunQueues {
            partitions: [const { RunQueue::empty() }; PARTITIONS],
            occupied: CpuCell::new(0),
            open: CpuCell::new(u8::MAX),
            turn: CpuCell::new(0),
            settled: CpuCell::new(false),
        }
    }

    /// Lets those partitions run whose bits are set, and no other.
    pub fn set_open(&self, partitions: u8) {
        self.settled.set(false);
        self.open.set(partitions);
    }

    /// Partitions that may run and that somebody is ready in.
    fn runnable(&self) -> u8 {
        self.occupied.get() & self.open.get()
    }

    /// Whether somebody is ready who may run and is at least as important as `running`.
    #[inline]
    pub fn contend(&self, running: Option<Ref<Sched>>) -> bool {
        if self.settled.get() {
            return false;
        }
        let contend =
            self.runnable() != 0 && self.top() >= running.map(|sched| sched.priority.into());
        self.settled.set(!contend);
        contend
    }

    /// The highest priority of who is ready and may run.
    #[cold]
    fn top(&self) -> Option<u32> {
        self.best().map(|(top, _)| top)
    }

    /// The same, and whose it is; among partitions of equals that whose turn it is.
    #[inline(always)]
    fn best(&self) -> Option<(u32, &RunQueue)> {
        let turn = u32::from(self.turn.get());
        let mut left = self.runnable().rotate_right(turn);
        let mut best: Option<(u32, &RunQueue)> = None;
        while left != 0 {
            let queue = &self.partitions[(left.trailing_zeros() + turn) as usize % PARTITIONS];
            left &= left - 1;
            if let Some(top) = queue.top()
                && best.is_none_or(|(highest, _)| highest < top)
            {
                best = Some((top, queue));
            }
        }
        best
    }

    fn is_open(&self, sched: Ref<Sched>) -> bool {
        self.open.get() & bit(sched) != 0
    }

    fn queue(&self, sched: Ref<Sched>) -> &RunQueue {
        &self.partitions[sched.partition as usize % PARTITIONS]
    }

    /// Appends `sched`, or with `front` puts it first. Nothing happens if it is queued.
    fn enqueue(&self, sched: Ref<Sched>, front: bool) {
        if !sched.queued.replace(true) {
            self.settled.set(false);
            self.queue(sched).enqueue(sched, front);
            self.occupied.set(self.occupied.get() | bit(sched));
        }
    }

    /// Takes `sched` out, if it is in.
    fn remove(&self, sched: Ref<Sched>) {
        if sched.queued.replace(false) {
            self.queue(sched).remove(sched);
            if self.queue(sched).top().is_none() {
                self.occupied.set(self.occupied.get() & !bit(sched));
            }
        }
    }

    /// Takes the first one of the highest priority of the partitions that may run.
    fn pop(&self) -> Option<Ref<Sched>> {
        self.settled.set(false);
        let (top, queue) = self.best()?;
        let first = queue.heads[top as usize % PRIORITIES].get()?;
        self.remove(first);
        Some(first)
    }
}

/// The partition of `sched`.
fn bit(sched: Ref<Sched>) -> u8 {
    1 << (sched.partition as usize % PARTITIONS)
}

/// What a scheduling context would run now.
pub enum Activation {
    /// This context.
    Run(Ref<Context>),
    /// Nothing: the end of the chain waits.
    Blocked(Ref<Context>),
}

/// Scheduling contexts that are looked at in one turn of the scheduler: each may lead along a chain of the greatest length.
const BATCH: usize = 8;

/// Links of a chain that are followed at once. Calls nest to [`abi::MAX_CALL_DEPTH`]; of links of helping there can be
/// more, and what is further away is then not helped.
pub const LONGEST_CHAIN: usize = 2 * abi::MAX_CALL_DEPTH;

/// Follows the chain of calls from `home` to whoever is to run.
pub fn activation(home: Ref<Context>) -> Activation {
    let mut context = home;
    for _ in 0..=LONGEST_CHAIN {
        match (context.state.get(), context.callee.get()) {
            (State::Ready, _) => return Activation::Run(context),
            (State::InCall, Some(callee)) => context = callee.context(),
            (State::Helping, Some(handler)) if handler.is_busy() => {
                // It was called again meanwhile, by who did not know that it is helped.
                handler.context.reply_path.set(ReplyPath::General);
                context = handler.context();
            }
            (State::Helping, _) => {
                context.stop_helping();
                return Activation::Run(context);
            }
            _ => return Activation::Blocked(context),
        }
    }
    Activation::Blocked(context)
}

/// Charges the running scheduling context for the time since it was last charged.
fn settle(cpu: &Cpu, now: u64) {
    if let Some(sched) = cpu.sched.get() {
        sched.left.set(cpu.slice_end.get().saturating_sub(now));
    }
}

/// Puts `sched` where it belongs after it ran: the run queue, or, if its budget is spent, to wait for the next
/// period.
#[inline(always)]
fn requeue(cpu: &Cpu, sched: Ref<Sched>, now: u64, front: bool) {
    let front = front && sched.left.get() != 0;
    if sched.budget == 0 && !front {
        sched.left.set(cpu.time_slice);
    } else if sched.left.get() == 0 {
        cpu.timeouts.arm(&sched.replenish, now.saturating_add(sched.period - sched.budget));
        return is_spent(sched);
    }
    cpu.run_queues.enqueue(sched, front);
    // Who goes last passes the turn on to the next partition.
    cpu.run_queues.turn.set(sched.partition + u8::from(!front));
}

/// The budget of `sched`, which is in no queue, is spent: tells that, or waits until who runs on it would go on.
fn is_spent(sched: Ref<Sched>) {
    if sched.overrun_told.get() {
        return;
    }
    match sched.home.get().map(activation) {
        Some(Activation::Run(_)) => overrun::tell(sched),
        // It may want to go on before the next period.
        Some(Activation::Blocked(end)) => end.add_waiter(sched),
        None => {}
    }
}

/// The period of `sched` has begun anew.
pub fn replenished(cpu: &Cpu, sched: Ref<Sched>) {
    sched.left.set(sched.budget);
    sched.overrun_told.set(false);
    // While its start is on the way here, another CPU has said what its home is, and its link is the inbox's.
    if sched.home.get().is_some_and(|home| home.sched.get() == Some(sched)) {
        ready(cpu, sched);
    }
}

/// Makes `sched` compete for the CPU, unless it does already or has spent its budget.
pub fn ready(cpu: &Cpu, sched: Ref<Sched>) {
    if cpu.sched.get() == Some(sched) || sched.waiting.is_linked() {
        return;
    }
    if sched.replenish.is_armed() {
        return is_spent(sched);
    }
    if sched.left.get() == 0 {
        sched.left.set(if sched.budget == 0 { cpu.time_slice } else { sched.budget });
    }
    cpu.run_queues.enqueue(sched, false);
    let loses = |running: Ref<Sched>| running.priority < sched.priority;
    if cpu.run_queues.is_open(sched) && cpu.sched.get().is_none_or(loses) {
        cpu.reschedule.set(true);
    }
}

/// Takes `sched` off the CPU and out of what it is queued in, but for the end of its period.
fn withdraw(cpu: &Cpu, sched: Ref<Sched>) {
    if cpu.sched.get() == Some(sched) {
        let now = crate::arch::now();
        settle(cpu, now);
        cpu.sched.set(None);
        cpu.current.set(None);
        cpu.reschedule.set(true);
        if sched.left.get() == 0 {
            requeue(cpu, sched, now, true);
        }
    }
    cpu.run_queues.remove(sched);
    sched.waiting.unlink();
}

/// Takes `sched` away from what it was bound to. What it used of its budget stays used.
pub fn unbind(cpu: &Cpu, sched: Ref<Sched>) {
    sched.home.set(None);
    withdraw(cpu, sched);
    sched.bound.store(false, Ordering::Release);
}

/// Takes `sched`, which goes to another CPU with its home, away from this one; if its budget is spent, when it comes back.
pub fn leave(cpu: &Cpu, sched: Ref<Sched>) -> Option<u64> {
    withdraw(cpu, sched);
    cpu.timeouts.disarm(&sched.replenish)
}

/// Lets everybody compete again whose chain of calls passes through `context`, which is about to end.
pub fn release_chain(cpu: &Cpu, context: Ref<Context>) {
    // Nobody waits further away than `activation` goes.
    context.chain().take(LONGEST_CHAIN + 1).for_each(|link| link.release_waiters(cpu));
}

/// Chooses what runs next: sets `cpu.sched` and `cpu.current`. With `Again` the choice is not made yet: interrupts are
/// to be taken, and the rest is to be looked at.
#[inline(never)]
pub fn schedule(cpu: &Cpu) -> Progress {
    let mut looks = BATCH;
    // First: who waits no more comes before an equal who gives up its turn now.
    while let Some(sched) = cpu.released.pop() {
        ready(cpu, sched);
        looks -= 1;
        if looks == 0 {
            return Progress::Again;
        }
    }
    let now = cpu.choice_since.replace(u64::MAX).min(crate::arch::now());
    if let Some(running) = cpu.sched.get() {
        settle(cpu, now);
        cpu.sched.set(None);
        // Who is pre-empted goes on first in its priority; who used its slice up goes last. Whether it can go on
        // at all is found out below; who blocks with its budget spent must not have a new one when it wakes.
        requeue(cpu, running, now, !cpu.yielded.get());
    }
    cpu.yielded.set(false);
    cpu.current.set(None);
    let mut progress = Progress::Again;
    for _ in 0..looks {
        // Each turn takes one out of the queue for good.
        let Some(sched) = cpu.run_queues.pop() else {
            progress = Progress::Done;
            break;
        };
        let Some(home) = sched.home.get() else {
            continue;
        };
        match activation(home) {
            Activation::Run(context) => {
                // If it is a handler that has time of its own, who called it must not go on with that after the reply.
                home.reply_path.set(ReplyPath::General);
                cpu.sched.set(Some(sched));
                cpu.current.set(Some(context));
                cpu.slice_end.set(now.saturating_add(sched.left.get()));
                progress = Progress::Done;
                break;
            }
            // Whoever it waits for will wake it.
            Activation::Blocked(end) => end.add_waiter(sched),
        }
    }
    if progress == Progress::Again {
        // Whoever is chosen in the end pays for the search.
        cpu.choice_since.set(now);
    }
    cpu.reschedule.set(progress == Progress::Again);
    cpu.program_timer();
    progress
}
