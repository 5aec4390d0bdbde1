//! Scheduling contexts and the run queue of a CPU.
//!
//! A scheduling context has a home: the thread or vCPU that it was bound to. What runs on it is found by
//! following the home's chain of calls, so that time is donated along a call without any
//! queue being touched.

use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu::Cpu;
use crate::object::{Header, Object};
use crate::ring::Link;
use crate::space::Progress;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::timeout::{Expiry, Timeout};
use abi::PRIORITIES;
use abi::cap::Kind;

/// A scheduling context.
#[repr(C, align(64))]
pub struct Sched {
    /// Common part.
    pub header: Header,
    /// The CPU whose time it is.
    pub cpu: u32,
    /// Priority, 0 to 127.
    pub priority: u8,
    /// Whether it is in the run queue.
    queued: CpuCell<bool>,
    /// Ticks per period; 0: no limit.
    pub budget: u64,
    /// Period in ticks.
    pub period: u64,
    /// Ticks left of the budget or the time slice.
    left: CpuCell<u64>,
    bound: AtomicBool,
    /// Link in its CPU's inbox while it is to be started; under the inbox's lock.
    pub start_next: CpuCell<Option<Ref<Sched>>>,
    /// Bound to.
    pub home: CpuCell<Option<Ref<Context>>>,
    next: CpuCell<Option<Ref<Sched>>>,
    prev: CpuCell<Option<Ref<Sched>>>,
    /// Place among the waiters of the blocked context that its chain of calls ends at, or among those released.
    pub waiting: Link,
    /// The end of the period, while the budget is spent.
    pub replenish: Timeout,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for Sched {
    const KIND: Kind = Kind::Sched;
}

impl Sched {
    /// A scheduling context that is bound to nothing.
    pub fn new(header: Header, cpu: u32, priority: u8, budget: u64, period: u64) -> Sched {
        Sched {
            header,
            cpu,
            priority,
            queued: CpuCell::new(false),
            budget,
            period,
            left: CpuCell::new(0),
            bound: AtomicBool::new(false),
            start_next: CpuCell::new(None),
            home: CpuCell::new(None),
            next: CpuCell::new(None),
            prev: CpuCell::new(None),
            waiting: Link::new(),
            replenish: Timeout::new(Expiry::Replenish),
        }
    }

    /// Says whether it is bound; returns what was before.
    pub fn set_bound(&self, bound: bool) -> bool {
        self.bound.swap(bound, Ordering::AcqRel)
    }

    /// The scheduling context that `link` is the `waiting` field of.
    fn of_waiting(link: Ref<Link>) -> Ref<Sched> {
        let offset = core::mem::offset_of!(Sched, waiting) as u64;
        // SAFETY: rings of waiters hold such fields of live objects only.
        unsafe { Ref::from_address(link.address() - offset) }
    }

    /// The scheduling context that `timeout` is in.
    ///
    /// # Safety
    /// `timeout` is the `replenish` field of a live `Sched`.
    pub unsafe fn of_timeout(timeout: Ref<Timeout>) -> Ref<Sched> {
        let offset = core::mem::offset_of!(Sched, replenish) as u64;
        // SAFETY: by the caller's word, the object starts that far before its field.
        unsafe { Ref::from_address(timeout.address() - offset) }
    }
}

/// Ready scheduling contexts of one CPU, by priority, first in first out.
pub struct RunQueue {
    occupied: CpuCell<u128>,
    heads: [CpuCell<Option<Ref<Sched>>>; PRIORITIES],
    tails: [CpuCell<Option<Ref<Sched>>>; PRIORITIES],
}

impl RunQueue {
    /// An empty queue.
    pub const fn new() -> RunQueue {
        RunQueue {
            occupied: CpuCell::new(0),
            heads: [const { CpuCell::new(None) }; PRIORITIES],
            tails: [const { CpuCell::new(None) }; PRIORITIES],
        }
    }

    /// The highest priority that has somebody ready.
    #[inline]
    pub fn top(&self) -> Option<u8> {
        match self.occupied.get() {
            0 => None,
            bits => Some((127 - bits.leading_zeros()) as u8),
        }
    }

    /// Appends `sched`, or with `front` puts it first. Nothing happens if it is queued.
    pub fn enqueue(&self, sched: Ref<Sched>, front: bool) {
        if sched.queued.get() {
            return;
        }
        let p = sched.priority as usize % PRIORITIES;
        sched.queued.set(true);
        sched.next.set(None);
        sched.prev.set(None);
        match (self.heads[p].get(), self.tails[p].get()) {
            (Some(head), _) if front => {
                sched.next.set(Some(head));
                head.prev.set(Some(sched));
                self.heads[p].set(Some(sched));
            }
            (_, Some(tail)) => {
                sched.prev.set(Some(tail));
                tail.next.set(Some(sched));
                self.tails[p].set(Some(sched));
            }
            _ => {
                self.heads[p].set(Some(sched));
                self.tails[p].set(Some(sched));
            }
        }
        self.occupied.set(self.occupied.get() | 1 << p);
    }

    /// Takes `sched` out, if it is in.
    pub fn remove(&self, sched: Ref<Sched>) {
        if !sched.queued.get() {
            return;
        }
        let p = sched.priority as usize % PRIORITIES;
        sched.queued.set(false);
        match sched.prev.get() {
            Some(prev) => prev.next.set(sched.next.get()),
            None => self.heads[p].set(sched.next.get()),
        }
        match sched.next.get() {
            Some(next) => next.prev.set(sched.prev.get()),
            None => self.tails[p].set(sched.prev.get()),
        }
        if self.heads[p].get().is_none() {
            self.occupied.set(self.occupied.get() & !(1 << p));
        }
    }

    fn pop(&self) -> Option<Ref<Sched>> {
        let first = self.heads[self.top()? as usize].get()?;
        self.remove(first);
        Some(first)
    }
}

impl Default for RunQueue {
    fn default() -> RunQueue {
        RunQueue::new()
    }
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
        match context.state.get() {
            State::Ready => return Activation::Run(context),
            State::InCall => match context.callee.get() {
                Some(callee) => context = callee.context(),
                None => return Activation::Blocked(context),
            },
            State::Helping => match context.callee.get() {
                Some(handler) if handler.is_busy() => context = handler.context(),
                _ => {
                    context.stop_helping();
                    return Activation::Run(context);
                }
            },
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
fn requeue(cpu: &Cpu, sched: Ref<Sched>, now: u64, front: bool) {
    if sched.budget == 0 && (sched.left.get() == 0 || !front) {
        sched.left.set(cpu.time_slice);
        cpu.run_queue.enqueue(sched, false);
    } else if sched.left.get() == 0 {
        cpu.timeouts.arm(
            &sched.replenish,
            now.saturating_add(sched.period - sched.budget),
        );
    } else {
        cpu.run_queue.enqueue(sched, front);
    }
}

/// The period of `sched` has begun anew.
pub fn replenished(cpu: &Cpu, sched: Ref<Sched>) {
    sched.left.set(sched.budget);
    if sched.home.get().is_some() {
        ready(cpu, sched);
    }
}

/// Makes `sched` compete for the CPU, unless it does already or has spent its budget.
pub fn ready(cpu: &Cpu, sched: Ref<Sched>) {
    let waits = sched.replenish.is_armed() || sched.waiting.is_linked();
    if cpu.sched.get() == Some(sched) || waits {
        return;
    }
    if sched.left.get() == 0 {
        sched.left.set(if sched.budget == 0 {
            cpu.time_slice
        } else {
            sched.budget
        });
    }
    cpu.run_queue.enqueue(sched, false);
    if cpu
        .sched
        .get()
        .is_none_or(|running| running.priority < sched.priority)
    {
        cpu.reschedule.set(true);
    }
}

/// Takes `sched` away from what it was bound to. What it used of its budget stays used.
pub fn unbind(cpu: &Cpu, sched: Ref<Sched>) {
    sched.home.set(None);
    cpu.run_queue.remove(sched);
    sched.waiting.unlink();
    if cpu.sched.get() == Some(sched) {
        let now = crate::arch::now();
        settle(cpu, now);
        cpu.sched.set(None);
        cpu.current.set(None);
        cpu.reschedule.set(true);
        if sched.left.get() == 0 {
            requeue(cpu, sched, now, true);
            cpu.run_queue.remove(sched);
        }
    }
    sched.set_bound(false);
}

/// Takes `sched`, which is about to end, away from the CPU, wherever it is.
pub fn remove(cpu: &Cpu, sched: Ref<Sched>) {
    unbind(cpu, sched);
    cpu.timeouts.disarm(&sched.replenish);
}

/// Lets everybody compete again whose chain of calls passes through `context`, which is about to end.
pub fn release_chain(cpu: &Cpu, context: Ref<Context>) {
    let mut link = Some(context);
    // Nobody waits further away than `activation` goes.
    for _ in 0..=LONGEST_CHAIN {
        let Some(context) = link else { return };
        context.release_waiters(cpu, None);
        link = context.callee.get().map(|callee| callee.context());
    }
}

/// Chooses what runs next: sets `cpu.sched` and `cpu.current`. With `Again` the choice is not made yet: interrupts are
/// to be taken, and the rest is to be looked at.
pub fn schedule(cpu: &Cpu) -> Progress {
    let mut looks = BATCH;
    // First: who waits no more comes before an equal who gives up its turn now.
    while let Some(link) = cpu.released.pop() {
        ready(cpu, Sched::of_waiting(link));
        looks -= 1;
        if looks == 0 {
            return Progress::Again;
        }
    }
    let now = crate::arch::now();
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
        let Some(sched) = cpu.run_queue.pop() else {
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
    cpu.reschedule.set(progress == Progress::Again);
    cpu.program_timer();
    progress
}

impl Ref<Sched> {
    /// Its link among those that wait.
    pub fn waiting_link(self) -> Ref<Link> {
        let offset = core::mem::offset_of!(Sched, waiting) as u64;
        // SAFETY: it is there; what waits no more before it ends.
        unsafe { Ref::from_address(self.address() + offset) }
    }
}
