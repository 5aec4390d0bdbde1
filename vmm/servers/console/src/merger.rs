//! One line of output from several sources.
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes that a source may send without a line end while others wait.
pub const LONGEST_LINE: usize = 1024;

/// Where output comes from: a byte queue that can be looked into.
pub trait Source {
    /// Takes the next byte.
    fn next(&mut self) -> Option<u8>;
    /// Whether there is a byte.
    fn is_empty(&self) -> bool;
    /// Whether a whole line is there, or [`LONGEST_LINE`] bytes of one. Asked before each line of any source: it must not take
    /// long.
    fn has_line(&self) -> bool;
}

/// What distinguishes a source.
#[derive(Clone, Debug)]
pub struct Style {
    /// Written before each of its lines.
    pub prefix: String,
    /// Line feeds become carriage return and line feed.
    pub cooked: bool,
}

/// Merges sources by lines. A line that its source does not end is ended when another source has waited
/// for `patience` since its last byte, so a prompt shows at once and blocks nobody.
#[derive(Debug)]
pub struct Merger {
    styles: Vec<Style>,
    patience: u64,
    /// Who wrote last; next in turn is the one behind it.
    last: usize,
    /// Whether its line is not ended.
    open: bool,
    /// Bytes in that line.
    length: usize,
    /// When its last byte came.
    since: u64,
    /// Since when each source waits for its turn.
    waiting: Vec<Option<u64>>,
}

impl Merger {
    /// A merger for sources with these styles; `patience` in the unit of [`Merger::fill`]'s `now`.
    pub fn new(styles: Vec<Style>, patience: u64) -> Merger {
        let last = styles.len().saturating_sub(1);
        let waiting = styles.iter().map(|_| None).collect();
        Merger { styles, patience, last, open: false, length: 0, since: 0, waiting }
    }

    /// Appends output to `out` until that holds `limit` bytes or somewhat more, or nothing is to be
    /// written now. Returns the time at which to try again, if a source waits for another.
    pub fn fill<S: Source>(
        &mut self,
        sources: &mut [S],
        now: u64,
        out: &mut impl Extend<u8>,
        limit: usize,
    ) -> Option<u64> {
        let mut count = 0;
        while count < limit {
            if self.open {
                let cut = self.length >= LONGEST_LINE && self.prefixed();
                let waits = |merger: &Merger, sources: &[S]| {
                    sources.iter().enumerate().any(|(i, s)| i != merger.last && !s.is_empty())
                };
                if !(cut && waits(self, sources))
                    && let Some(byte) = sources[self.last].next()
                {
                    count += self.emit(byte, now, out);
                    continue;
                }
                if !waits(self, sources) {
                    return None;
                }
                let due = self.since.saturating_add(self.patience);
                if now < due && !cut {
                    return Some(due);
                }
                out.extend(*b"\r\n");
                count += 2;
                self.open = false;
            }
            let next = self.choose(sources, now)?;
            self.last = next;
            self.open = true;
            self.length = 0;
            self.since = now;
            let prefix = &self.styles[next].prefix;
            out.extend(prefix.bytes());
            count += prefix.len();
        }
        None
    }

    /// Who writes next: in turn, but whole lines first, unless a part of one waits for too long.
    fn choose<S: Source>(&mut self, sources: &[S], now: u64) -> Option<usize> {
        for (source, waiting) in sources.iter().zip(&mut self.waiting) {
            if !source.is_empty() {
                waiting.get_or_insert(now);
            }
        }
        let mut order = (1..=sources.len()).map(|i| (self.last + i) % sources.len());
        let late = |since: u64| now.saturating_sub(since) >= self.patience;
        let urgent =
            order.clone().find(|&i| sources[i].has_line() || self.waiting[i].is_some_and(late));
        let next = urgent.or_else(|| order.find(|&i| !sources[i].is_empty()))?;
        self.waiting[next] = None;
        Some(next)
    }

    /// Whether lines carry prefixes: only then is a reader prepared for lines that are cut.
    fn prefixed(&self) -> bool {
        self.styles.iter().any(|style| !style.prefix.is_empty())
    }

    fn emit(&mut self, byte: u8, now: u64, out: &mut impl Extend<u8>) -> usize {
        self.since = now;
        self.length += 1;
        self.open = byte != b'\n';
        let cooked = byte == b'\n' && self.styles[self.last].cooked;
        out.extend(cooked.then_some(b'\r'));
        out.extend([byte]);
        1 + usize::from(cooked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    impl Source for VecDeque<u8> {
        fn next(&mut self) -> Option<u8> {
            self.pop_front()
        }
        fn is_empty(&self) -> bool {
            VecDeque::is_empty(self)
        }
        fn has_line(&self) -> bool {
            self.contains(&b'\n')
        }
    }

    fn styles(prefixes: &[&str]) -> Vec<Style> {
        let style = |p: &&str| Style { prefix: (*p).into(), cooked: false };
        let log = Style { prefix: String::new(), cooked: true };
        prefixes.iter().map(style).chain([log]).collect()
    }

    fn fill(merger: &mut Merger, sources: &mut [VecDeque<u8>], now: u64) -> (String, Option<u64>) {
        let mut out = Vec::new();
        let due = merger.fill(sources, now, &mut out, 10_000);
        (String::from_utf8(out).unwrap(), due)
    }

    #[test]
    fn lines_stay_whole_and_prompts_show() {
        let mut merger = Merger::new(styles(&["[a] ", "[b] "]), 10);
        let mut sources: Vec<VecDeque<u8>> = vec![VecDeque::new(); 3];
        sources[0].extend(b"one\r\nlogin: ");
        sources[1].extend(b"two\r\n");
        sources[2].extend(b"log\n");
        let (text, due) = fill(&mut merger, &mut sources, 0);
        assert_eq!(text, "[a] one\r\n[b] two\r\nlog\r\n[a] login: ");
        assert_eq!(due, None);
        // Another one waits for the prompt, and then starts a line of its own.
        sources[1].extend(b"three\r\n");
        assert_eq!(fill(&mut merger, &mut sources, 5), (String::new(), Some(10)));
        assert_eq!(fill(&mut merger, &mut sources, 10).0, "\r\n[b] three\r\n");
        sources[0].extend(b"root\r\n");
        assert_eq!(fill(&mut merger, &mut sources, 11).0, "[a] root\r\n");
        // Endless lines are cut when others wait.
        sources[0].extend([b'x'; 500]);
        assert_eq!(fill(&mut merger, &mut sources, 12).0.len(), 504);
        sources[0].extend([b'x'; 2500]);
        sources[1].extend(b"four\r\n");
        let (text, _) = fill(&mut merger, &mut sources, 12);
        assert!(text.contains("x\r\n[b] four\r\n[a] xxx"));
        assert_eq!(text.matches('x').count(), 2500);
    }

    #[test]
    fn one_client_is_not_touched() {
        let mut merger = Merger::new(styles(&[""]), 10);
        let mut sources: Vec<VecDeque<u8>> = vec![VecDeque::new(); 2];
        sources[0].extend([b'x'; 3000]);
        sources[0].extend(b"\n# ");
        sources[1].extend(b"log\n");
        let (text, due) = fill(&mut merger, &mut sources, 0);
        assert!(text.ends_with("xx\nlog\r\n# ") && text.matches('x').count() == 3000, "{text}");
        assert_eq!(due, None);
    }
}
