//! Doubly linked rings of links that are embedded in objects: whatever leads to a link, taking it out takes the same
//! few steps, and so does moving all of them to another ring.

use crate::cell::{CpuCell, Ref};

/// A place in a ring. One CPU, or one lock, guards a ring with all links in it.
pub struct Link {
    next: CpuCell<Option<Ref<Link>>>,
    prev: CpuCell<Option<Ref<Link>>>,
}

impl Link {
    /// A link in no ring.
    pub const fn new() -> Link {
        Link {
            next: CpuCell::new(None),
            prev: CpuCell::new(None),
        }
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

/// A ring, by the place where it begins and ends.
pub struct Ring {
    end: Link,
}

impl Ring {
    /// An empty ring.
    pub const fn new() -> Ring {
        Ring { end: Link::new() }
    }

    /// The place between the last link and the first, which stays as long as a link is in the ring.
    fn end(&self) -> Ref<Link> {
        // SAFETY: a ring is part of an object or of a CPU, which do not move, and is empty when they end.
        let end = unsafe { Ref::from_address(&raw const self.end as u64) };
        if !self.end.is_linked() {
            join(end, end);
        }
        end
    }

    /// The link that was put in last.
    #[inline(never)]
    pub fn first(&self) -> Option<Ref<Link>> {
        let end = self.end();
        end.next.get().filter(|&first| first != end)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    /// Puts in `link`, which is in no ring.
    #[inline(never)]
    pub fn push(&self, link: Ref<Link>) {
        let end = self.end();
        let first = end.next.get().unwrap_or(end);
        join(link, first);
        join(end, link);
    }

    /// Takes the first link out.
    pub fn pop(&self) -> Option<Ref<Link>> {
        let first = self.first()?;
        first.unlink();
        Some(first)
    }

    /// Moves all links of `other` to the front of this ring.
    pub fn take_all(&self, other: &Ring) {
        let (end, others) = (self.end(), other.end());
        let (Some(first), Some(last)) = (other.first(), others.prev.get()) else {
            return;
        };
        let before = end.next.get().unwrap_or(end);
        join(last, before);
        join(end, first);
        join(others, others);
    }
}

impl Default for Ring {
    fn default() -> Ring {
        Ring::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links<const N: usize>() -> [Link; N] {
        [const { Link::new() }; N]
    }

    fn to(link: &Link) -> Ref<Link> {
        // SAFETY: the tests' links outlive their rings' use.
        unsafe { Ref::from_address(link as *const Link as u64) }
    }

    fn drain(ring: &Ring, links: &[Link]) -> Vec<usize> {
        let place = |found: Ref<Link>| links.iter().position(|link| to(link) == found);
        core::iter::from_fn(|| ring.pop())
            .filter_map(place)
            .collect()
    }

    #[test]
    fn links_leave_from_anywhere() {
        for leaves in 0..3 {
            let (ring, links) = (Ring::new(), links::<3>());
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
            let (ring, other, links) = (Ring::new(), Ring::new(), links::<5>());
            links[..here].iter().for_each(|link| ring.push(to(link)));
            links[here..here + there]
                .iter()
                .for_each(|link| other.push(to(link)));
            ring.take_all(&other);
            assert!(other.is_empty());
            let all = (here..here + there).rev().chain((0..here).rev());
            assert_eq!(drain(&ring, &links), all.collect::<Vec<_>>());
        }
    }
}
