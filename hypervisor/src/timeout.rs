//! Timeouts of one CPU, in order of their deadlines.

use crate::cell::CpuCell;
use crate::cell::Ref;
use core::ptr::NonNull;

/// What happens when a timeout expires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// A context's wait ends, or a vCPU's deadline has passed.
    Context,
    /// A scheduling context gets its budget back.
    Replenish,
}

type Link = Option<NonNull<Timeout>>;

/// A deadline, embedded in the object that it belongs to.
#[repr(C)]
pub struct Timeout {
    deadline: CpuCell<u64>,
    next: CpuCell<Link>,
    prev: CpuCell<Link>,
    armed: CpuCell<bool>,
    /// What happens when it passes.
    pub expiry: Expiry,
}

impl Timeout {
    /// A timeout that is not armed.
    pub const fn new(expiry: Expiry) -> Timeout {
        Timeout {
            deadline: CpuCell::new(0),
            next: CpuCell::new(None),
            prev: CpuCell::new(None),
            armed: CpuCell::new(false),
            expiry,
        }
    }

    /// Whether it is in a queue.
    pub fn is_armed(&self) -> bool {
        self.armed.get()
    }

    /// The deadline in counter ticks, meaningful while it is armed.
    pub fn deadline(&self) -> u64 {
        self.deadline.get()
    }
}

fn at(link: NonNull<Timeout>) -> Ref<Timeout> {
    // SAFETY: links point to timeouts in live objects: destruction disarms them first.
    unsafe { Ref::from_address(link.as_ptr() as u64) }
}

/// The queue of a CPU: a sorted list. Its length is the number of armed timeouts on the CPU (CAVEATS.md).
pub struct TimeoutQueue {
    head: CpuCell<Link>,
}

impl TimeoutQueue {
    /// An empty queue.
    pub const fn new() -> TimeoutQueue {
        TimeoutQueue {
            head: CpuCell::new(None),
        }
    }

    /// The earliest deadline, `u64::MAX` if there is none.
    pub fn earliest(&self) -> u64 {
        self.head.get().map_or(u64::MAX, |t| at(t).deadline.get())
    }

    /// Arms `timeout`, or moves it to a new deadline.
    pub fn arm(&self, timeout: &Timeout, deadline: u64) {
        self.disarm(timeout);
        let me = NonNull::from(timeout);
        let mut prev: Link = None;
        let mut next = self.head.get();
        while let Some(n) = next {
            if at(n).deadline.get() > deadline {
                break;
            }
            prev = next;
            next = at(n).next.get();
        }
        timeout.deadline.set(deadline);
        timeout.next.set(next);
        timeout.prev.set(prev);
        timeout.armed.set(true);
        match prev {
            Some(p) => at(p).next.set(Some(me)),
            None => self.head.set(Some(me)),
        }
        if let Some(n) = next {
            at(n).prev.set(Some(me));
        }
    }

    /// Takes `timeout` out, if it is in.
    pub fn disarm(&self, timeout: &Timeout) {
        if !timeout.armed.get() {
            return;
        }
        let (next, prev) = (timeout.next.get(), timeout.prev.get());
        match prev {
            Some(p) => at(p).next.set(next),
            None => self.head.set(next),
        }
        if let Some(n) = next {
            at(n).prev.set(prev);
        }
        timeout.armed.set(false);
    }

    /// Takes out the first timeout if its deadline is not after `now`.
    pub fn pop_expired(&self, now: u64) -> Option<Ref<Timeout>> {
        let first = at(self.head.get()?);
        if first.deadline.get() > now {
            return None;
        }
        self.disarm(&first);
        Some(first)
    }
}

impl Default for TimeoutQueue {
    fn default() -> TimeoutQueue {
        TimeoutQueue::new()
    }
}
