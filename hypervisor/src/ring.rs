//! Doubly linked rings of links that are embedded in objects: whatever leads to a link, taking it out takes the same
//! few steps, and so does moving all of them to another ring.

use crate::cell::{CpuCell, Ref};
use core::marker::PhantomData;

/// A place in a ring. One CPU, or one lock, guards a ring with all links in it.
pub struct Link {
    next: CpuCell<Option<Ref<Link>>>,
    prev: CpuCell<Option<Ref<Link>>>,
}

impl Link {
    /// A link in no ring.
    pub const fn new() -> Link {
        Link { next: CpuCell::new(None), prev: CpuCell::new(None) }
    }

    /// Whether it is in a ring.
    pub fn is_linked(&self) -> bool {
        self.next.get().is_some()
    }

    /// Takes it out of its ring, if it is in one.
    #[inline(never)]
    pub fn unlink(&self) {
        if let (Some(next), Some(prev)) = (self.next.take(), self.prev.take()) {
            join(prev, next);
        }
    }
}

impl Default for Link {
    fn default() -> Link {
        Link::new()
    }
}

fn join(prev: Ref<Link>, next: Ref<Link>) {
    prev.next.set(Some(next));
    next.prev.set(Some(prev));
}

/// What is on the rings of one kind, and by which of its links.
///
/// # Safety
/// An `Object` has a [`Link`] at `LINK`, which is put into rings of this kind only, and leaves them before the object ends.
pub unsafe trait Linked {
    /// What is on them.
    type Object;
    /// Offset of the link in it.
    const LINK: usize;
}

/// A ring of objects, by the place where it begins and ends.
pub struct Ring<L: Linked> {
    end: Link,
    of: PhantomData<fn() -> L>,
}

impl<L: Linked> Ring<L> {
    /// An empty ring.
    pub const fn new() -> Ring<L> {
        Ring { end: Link::new(), of: PhantomData }
    }

    /// The object that was put in last.
    pub fn first(&self) -> Option<Ref<L::Object>> {
        self.end.first().map(Self::object)
    }

    /// The object that was put in first.
    pub fn last(&self) -> Option<Ref<L::Object>> {
        self.end.last().map(Self::object)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.end.first().is_none()
    }

    /// Puts in `object`, whose link is in no ring.
    pub fn push(&self, object: Ref<L::Object>) {
        // SAFETY: by the word of `Linked`, its link is there.
        self.end.push(unsafe { Ref::from_address(object.address() + L::LINK as u64) });
    }

    /// Takes the first object out.
    pub fn pop(&self) -> Option<Ref<L::Object>> {
        let first = self.end.first()?;
        first.unlink();
        Some(Self::object(first))
    }

    /// Moves all objects of `other` to the front of this ring.
    pub fn take_all(&self, other: &Ring<L>) {
        self.end.take_all(&other.end);
    }

    /// The ring as at first. What was on it is gone.
    #[cfg(test)]
    pub fn reset(&self) {
        self.end.next.set(None);
        self.end.prev.set(None);
    }

    /// What brings the ring back to its present state, once what is on it is as it is now.
    #[cfg(test)]
    pub fn save(&self) -> impl Fn(&Ring<L>) + use<L> {
        let (next, prev) = (self.end.next.get(), self.end.prev.get());
        move |ring| {
            ring.end.next.set(next);
            ring.end.prev.set(prev);
        }
    }

    fn object(link: Ref<Link>) -> Ref<L::Object> {
        // SAFETY: by the word of `Linked`, the rings of this kind have links of live objects only.
        unsafe { Ref::from_address(link.address() - L::LINK as u64) }
    }
}

impl<L: Linked> Default for Ring<L> {
    fn default() -> Ring<L> {
        Ring::new()
    }
}

/// What rings do, by the link between the last and the first of their own: it is linked as soon as something is put in.
impl Link {
    fn here(&self) -> Ref<Link> {
        // SAFETY: a ring is part of an object or of a CPU, which do not move, and is empty when they end.
        unsafe { Ref::from_address(&raw const *self as u64) }
    }

    #[inline(always)]
    fn first(&self) -> Option<Ref<Link>> {
        self.next.get().filter(|&first| first != self.here())
    }

    fn last(&self) -> Option<Ref<Link>> {
        self.prev.get().filter(|&last| last != self.here())
    }

    #[inline(never)]
    fn push(&self, link: Ref<Link>) {
        let first = self.first().unwrap_or(self.here());
        join(link, first);
        join(self.here(), link);
    }

    #[inline(never)]
    fn take_all(&self, other: &Link) {
        let (Some(first), Some(last)) = (other.first(), other.last()) else {
            return;
        };
        join(last, self.first().unwrap_or(self.here()));
        join(self.here(), first);
        join(other.here(), other.here());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links<const N: usize>() -> [Link; N] {
        [const { Link::new() }; N]
    }

    struct Links;

    // SAFETY: the tests' links outlive their rings' use.
    unsafe impl Linked for Links {
        type Object = Link;
        const LINK: usize = 0;
    }

    fn to(link: &Link) -> Ref<Link> {
        // SAFETY: the tests' links outlive their rings' use.
        unsafe { Ref::from_address(link as *const Link as u64) }
    }

    fn drain(ring: &Ring<Links>, links: &[Link]) -> Vec<usize> {
        let place = |found: Ref<Link>| links.iter().position(|link| to(link) == found);
        core::iter::from_fn(|| ring.pop()).filter_map(place).collect()
    }

    #[test]
    fn links_leave_from_anywhere() {
        for leaves in 0..3 {
            let (ring, links) = (Ring::<Links>::new(), links::<3>());
            links.iter().for_each(|link| ring.push(to(link)));
            links[leaves].unlink();
            links[leaves].unlink();
            assert!(!links[leaves].is_linked());
            let rest: Vec<usize> = (0..3).rev().filter(|&i| i != leaves).collect();
            assert_eq!(drain(&ring, &links), rest);
            assert!(ring.is_empty());
        }
    }

    #[test]
    fn all_links_move_at_once() {
        for (here, there) in [(0, 0), (0, 3), (2, 0), (2, 1), (2, 3)] {
            let (ring, other, links) = (Ring::<Links>::new(), Ring::new(), links::<5>());
            links[..here].iter().for_each(|link| ring.push(to(link)));
            links[here..here + there].iter().for_each(|link| other.push(to(link)));
            ring.take_all(&other);
            assert!(other.is_empty());
            let all = (here..here + there).rev().chain((0..here).rev());
            assert_eq!(drain(&ring, &links), all.collect::<Vec<_>>());
        }
    }
}
