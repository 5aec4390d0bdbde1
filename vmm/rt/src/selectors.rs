//! Free selectors of the program's capability table.
use abi::Selector;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

/// Hands out selectors, each once. Programs are static: selectors are not reused.
#[derive(Debug)]
pub struct Selectors {
    next: AtomicU32,
    end: u32,
}

impl Selectors {
    /// The selectors of `range`.
    pub const fn new(range: Range<u32>) -> Selectors {
        Selectors { next: AtomicU32::new(range.start), end: range.end }
    }

    /// The first of `count` consecutive selectors, if there are as many.
    pub fn take(&self, count: u32) -> Option<Selector> {
        let step = |next: u32| next.checked_add(count).filter(|&next| next <= self.end);
        self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok().map(Selector)
    }

    /// One selector. Panics when there is none: the table's size is part of the program's design.
    pub fn one(&self) -> Selector {
        self.several(1)
    }

    /// The first of `count` consecutive selectors. Panics as [`Selectors::one`].
    pub fn several(&self, count: u32) -> Selector {
        match self.take(count) {
            Some(selector) => selector,
            None => panic!("the capability table of {} slots is full", self.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_each_once_and_stops_at_the_end() {
        let selectors = Selectors::new(10..14);
        assert_eq!(selectors.take(3), Some(Selector(10)));
        assert_eq!(selectors.take(2), None);
        assert_eq!(selectors.take(u32::MAX), None);
        assert_eq!(selectors.take(1), Some(Selector(13)));
        assert_eq!(selectors.take(1), None);
    }
}
