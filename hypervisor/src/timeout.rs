//! Timeouts of one CPU, by their deadlines.
//!
//! They form a leftist heap: a binary tree in which no timeout comes before its parent, and in which the way to the
//! right is nowhere longer than any other way out of the tree. With n timeouts it takes at most log₂(n + 1) steps,
//! and so do arming, disarming and taking the first, but for a constant factor, whatever came before.

use crate::cell::{CpuCell, Ref};
use core::ptr;

/// What happens when a timeout expires.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expiry {
    /// A context's wait ends, or a vCPU's deadline has passed.
    Context,
    /// A scheduling context gets its budget back.
    Replenish,
}

type Link = Option<Ref<Timeout>>;

/// A deadline, embedded in the object that it belongs to, which disarms it before it ends.
#[repr(C)]
pub struct Timeout {
    deadline: CpuCell<u64>,
    parent: CpuCell<Link>,
    left: CpuCell<Link>,
    right: CpuCell<Link>,
    /// Timeouts on the way to the right, this one included; 0: not armed.
    rank: CpuCell<u8>,
    /// What happens when it passes.
    pub expiry: Expiry,
}

impl Timeout {
    /// A timeout that is not armed.
    pub const fn new(expiry: Expiry) -> Timeout {
        Timeout {
            deadline: CpuCell::new(0),
            parent: CpuCell::new(None),
            left: CpuCell::new(None),
            right: CpuCell::new(None),
            rank: CpuCell::new(0),
            expiry,
        }
    }

    /// Whether it is in a queue.
    pub fn is_armed(&self) -> bool {
        self.rank.get() != 0
    }

    /// Puts the longer way to the left and counts the other; whether the rank is another than before.
    fn balance(&self) -> bool {
        let (left, right) = (self.left.get(), self.right.get());
        let shorter = if rank(left) < rank(right) {
            self.left.set(right);
            self.right.set(left);
            rank(left)
        } else {
            rank(right)
        };
        let before = self.rank.get();
        self.rank.set(shorter + 1);
        before != shorter + 1
    }
}

fn rank(link: Link) -> u8 {
    link.map_or(0, |timeout| timeout.rank.get())
}

/// Makes one heap of two, whose roots have no parents. Equal deadlines: those of `first` stay in front.
fn merge(first: Link, second: Link) -> Link {
    let (mut first, mut second) = (first, second);
    let mut last: Link = None;
    // Down both ways to the right, which become one.
    loop {
        let (next, end) = match (first, second) {
            (Some(a), Some(b)) if b.deadline.get() < a.deadline.get() => {
                second = b.right.get();
                (b, false)
            }
            (Some(a), Some(_)) => {
                first = a.right.get();
                (a, false)
            }
            (Some(rest), None) | (None, Some(rest)) => (rest, true),
            (None, None) => return None,
        };
        next.parent.set(last);
        if let Some(last) = last {
            last.right.set(Some(next));
        }
        last = Some(next);
        if end {
            break;
        }
    }
    // And up.
    let mut root = last;
    while let Some(timeout) = root.and_then(|root| root.parent.get()) {
        timeout.balance();
        root = Some(timeout);
    }
    root
}

impl Ref<Timeout> {
    /// The object that this timeout is in.
    ///
    /// # Safety
    /// It is a `T`, and has the timeout at `offset`.
    pub unsafe fn owner<T>(self, offset: usize) -> Ref<T> {
        // SAFETY: by the caller's word, the object starts that far before its field.
        unsafe { Ref::from_address(self.address() - offset as u64) }
    }
}

/// The timeouts of a CPU.
pub struct TimeoutQueue {
    root: CpuCell<Link>,
}

impl TimeoutQueue {
    /// An empty queue.
    pub const fn empty() -> TimeoutQueue {
        TimeoutQueue { root: CpuCell::new(None) }
    }

    /// The earliest deadline, `u64::MAX` if there is none.
    pub fn earliest(&self) -> u64 {
        self.root.get().map_or(u64::MAX, |t| t.deadline.get())
    }

    /// Arms `timeout`, or moves it to a new deadline.
    pub fn arm(&self, timeout: &Timeout, deadline: u64) {
        self.disarm(timeout);
        timeout.deadline.set(deadline);
        timeout.rank.set(1);
        // SAFETY: its object disarms it before it ends.
        let timeout = unsafe { Ref::from_address(&raw const *timeout as u64) };
        self.root.set(merge(self.root.get(), Some(timeout)));
    }

    /// Takes `timeout` out, if it is in; returns the deadline in counter ticks then.
    pub fn disarm(&self, timeout: &Timeout) -> Option<u64> {
        if !timeout.is_armed() {
            return None;
        }
        timeout.rank.set(0);
        let (left, right) = (timeout.left.take(), timeout.right.take());
        for child in [left, right].into_iter().flatten() {
            child.parent.set(None);
        }
        let rest = merge(left, right);
        let mut above = timeout.parent.take();
        if let Some(rest) = rest {
            rest.parent.set(above);
        }
        match above {
            None => self.root.set(rest),
            Some(parent) if parent.left.get().is_some_and(|left| ptr::eq(&*left, timeout)) => {
                parent.left.set(rest);
            }
            Some(parent) => parent.right.set(rest),
        }
        // Each rank that changes on the way up is one more than the one below, so there are few.
        while let Some(timeout) = above.filter(|timeout| timeout.balance()) {
            above = timeout.parent.get();
        }
        Some(timeout.deadline.get())
    }

    /// Takes out the first timeout if its deadline is not after `now`.
    pub fn pop_expired(&self, now: u64) -> Option<Ref<Timeout>> {
        let first = self.root.get().filter(|t| t.deadline.get() <= now)?;
        self.disarm(&first);
        Some(first)
    }

    /// How many timeouts are armed, once their order and the lengths of all ways have been looked at.
    #[cfg(test)]
    pub fn check(&self) -> usize {
        fn count(link: Link, parent: Link) -> usize {
            let Some(timeout) = link else { return 0 };
            let (left, right) = (timeout.left.get(), timeout.right.get());
            assert!(timeout.parent.get() == parent);
            assert!(parent.is_none_or(|parent| parent.deadline.get() <= timeout.deadline.get()));
            assert!(rank(left) >= rank(right));
            assert_eq!(timeout.rank.get(), rank(right) + 1);
            let all = 1 + count(left, link) + count(right, link);
            assert!(1 << timeout.rank.get() <= all + 1);
            all
        }
        count(self.root.get(), None)
    }
}
