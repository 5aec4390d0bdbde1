//! Scheduling contexts and the run queue of a CPU.
//!
//! A scheduling context has a home: the thread or vCPU that it was bound to. What runs on it is found by
//! following the home's chain of calls, so that time is donated along a call without any
//! queue being touched.

use crate::cell::{CpuCell, Ref};
use crate::context::{Context, State};
use crate::cpu::Cpu;
use crate::object::{Header, Object};
use crate::timeout::{Expiry, Timeout};
use abi::PRIORITIES;
use abi::cap::Kind;
use core::sync::atomic::{AtomicBool, Ordering};

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
            replenish: Timeout::new(Expiry::Replenish),
        }
    }

    /// Says whether it is bound; returns what was before.
    pub fn set_bound(&self, bound: bool) -> bool {
        self.bound.swap(bound, Ordering::AcqRel)
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

/// Follows the chain of calls from `home` to whoever is to run.
pub fn activation(home: Ref<Context>) -> Activation {
    let mut context = home;
    // A chain of calls has at most MAX_CALL_DEPTH links, and each link may be one of helping.
    for _ in 0..=2 * abi::MAX_CALL_DEPTH {
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

/// Puts `sched` where it belongs after it ran or was woken: the run queue, or, if its budget is
/// spent, to wait for the next period.
fn requeue(cpu: &Cpu, sched: Ref<Sched>, now: u64, front: bool) {
    if sched.left.get() != 0 {
        return cpu.run_queue.enqueue(sched, front);
    }
    if sched.budget == 0 {
        sched.left.set(cpu.time_slice);
        cpu.run_queue.enqueue(sched, false);
    } else if !sched.replenish.is_armed() {
        cpu.timeouts.arm(&sched.replenish, now.saturating_add(sched.period - sched.budget));
    }
}

/// The period of `sched` has begun anew.
pub fn replenished(cpu: &Cpu, sched: Ref<Sched>) {
    sched.left.set(sched.budget);
    if sched.home.get().is_some() {
        ready(cpu, sched);
    }
}

/// Makes `sched` compete for the CPU.
pub fn ready(cpu: &Cpu, sched: Ref<Sched>) {
    if cpu.sched.get() == Some(sched) || sched.replenish.is_armed() {
        return;
    }
    if sched.left.get() == 0 {
        sched.left.set(if sched.budget == 0 { cpu.time_slice } else { sched.budget });
    }
    cpu.run_queue.enqueue(sched, false);
    if cpu.sched.get().is_none_or(|running| running.priority < sched.priority) {
        cpu.reschedule.set(true);
    }
}

/// Takes `sched` away from the CPU, wherever it is.
pub fn remove(cpu: &Cpu, sched: Ref<Sched>) {
    cpu.run_queue.remove(sched);
    cpu.timeouts.disarm(&sched.replenish);
    if cpu.sched.get() == Some(sched) {
        cpu.sched.set(None);
        cpu.current.set(None);
        cpu.reschedule.set(true);
    }
}

/// Chooses what runs next: sets `cpu.sched` and `cpu.current`.
pub fn schedule(cpu: &Cpu) {
    let now = crate::arch::now();
    cpu.reschedule.set(false);
    if let Some(running) = cpu.sched.get() {
        settle(cpu, now);
        cpu.sched.set(None);
        if running.home.get().is_some_and(|home| matches!(activation(home), Activation::Run(_))) {
            // Who is pre-empted goes on first in its priority; who used its slice up goes last.
            requeue(cpu, running, now, !cpu.yielded.get());
        } else if let Some(home) = running.home.get() {
            block(home, running);
        }
    }
    cpu.yielded.set(false);
    cpu.current.set(None);
    // Each turn takes one scheduling context out of the queue for good.
    while let Some(sched) = cpu.run_queue.pop() {
        let Some(home) = sched.home.get() else { continue };
        match activation(home) {
            Activation::Run(context) => {
                cpu.sched.set(Some(sched));
                cpu.current.set(Some(context));
                cpu.slice_end.set(now.saturating_add(sched.left.get()));
                break;
            }
            Activation::Blocked(_) => block(home, sched),
        }
    }
    cpu.program_timer();
}

/// `sched` has nothing to run: whoever it waits for will wake it.
fn block(home: Ref<Context>, sched: Ref<Sched>) {
    if let Activation::Blocked(end) = activation(home) {
        end.add_waiter(sched);
    }
}

impl Sched {
    /// Links `sched` before `next` in a list of waiters; only for what is in no run queue.
    pub fn set_waiter_link(&self, next: Option<Ref<Sched>>) {
        self.next.set(next);
    }

    /// The next in the list of waiters.
    pub fn waiter_link(&self) -> Option<Ref<Sched>> {
        self.next.get()
    }
}
