//! Saying a thing once.

/// Numbers that were reported already, so that a guest cannot flood the log. Holds `N`; what comes after
/// that is not reported at all.
#[derive(Debug)]
pub struct Reported<const N: usize> {
    seen: [u32; N],
    count: usize,
}

impl<const N: usize> Reported<N> {
    /// Nothing reported yet.
    pub const fn new() -> Self {
        Reported { seen: [0; N], count: 0 }
    }

    /// Whether `number` should be reported now.
    pub fn first(&mut self, number: u32) -> bool {
        if self.count == N || self.seen[..self.count].contains(&number) {
            return false;
        }
        self.seen[self.count] = number;
        self.count += 1;
        true
    }
}

impl<const N: usize> Default for Reported<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_once_and_then_nothing_more() {
        let mut reported = Reported::<2>::new();
        assert_eq!([5, 5, 6, 7, 5].map(|n| reported.first(n)), [true, false, true, false, false]);
    }
}
