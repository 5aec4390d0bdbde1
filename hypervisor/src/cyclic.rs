//! The cyclic schedule of a CPU: who may run when, in a major frame that repeats.

use crate::cell::CpuCell;
use crate::sync::TicketMutex;
use abi::syscall::{MAX_WINDOWS, WINDOW_WORDS};
use abi::{PARTITIONS, Status};

#[derive(Clone, Copy)]
struct Window {
    start: u64,
    end: u64,
    partition: u8,
}

/// A major frame.
#[derive(Clone, Copy)]
pub struct Frame {
    /// In ticks; 0: everybody may run at all times.
    length: u64,
    windows: [Window; MAX_WINDOWS],
    count: usize,
}

impl Frame {
    const NONE: Frame = Frame {
        length: 0,
        windows: [Window { start: 0, end: 0, partition: 0 }; MAX_WINDOWS],
        count: 0,
    };

    /// A frame of `length` ticks with `words` / [`WINDOW_WORDS`] windows, of which `word` reads each word once.
    pub fn new(length: u64, words: usize, word: impl Fn(usize) -> u64) -> Result<Frame, Status> {
        let count = words / WINDOW_WORDS;
        if !words.is_multiple_of(WINDOW_WORDS)
            || count > MAX_WINDOWS
            || (count == 0) != (length == 0)
        {
            return Err(Status::BadArgument);
        }
        let mut frame = Frame { length, count, ..Frame::NONE };
        let mut free = 0;
        for (i, window) in frame.windows[..count].iter_mut().enumerate() {
            let [start, size, partition] = [0, 1, 2].map(|n| word(i * WINDOW_WORDS + n));
            let end = start.checked_add(size).filter(|&end| end <= length);
            let end = end.ok_or(Status::BadArgument)?;
            if start < free || size == 0 || partition >= PARTITIONS as u64 {
                return Err(Status::BadArgument);
            }
            *window = Window { start, end, partition: partition as u8 };
            free = end;
        }
        Ok(frame)
    }

    /// The partitions, one bit each, that may run at `offset` in the frame, and the offset at which this ends.
    fn at(&self, offset: u64) -> (u8, u64) {
        let windows = &self.windows[..self.count.min(MAX_WINDOWS)];
        match windows.iter().find(|window| offset < window.end) {
            Some(window) if window.start <= offset => (1 << window.partition, window.end),
            Some(window) => (0, window.start),
            None => (0, self.length),
        }
    }
}

/// The schedule of a CPU. But for what is proposed, only that CPU touches it.
pub struct Cyclic {
    frame: CpuCell<Frame>,
    /// When the present frame began.
    begun: CpuCell<u64>,
    /// When a window ends or begins, and [`Cyclic::advance`] is to be asked again; `u64::MAX`: never.
    pub next: CpuCell<u64>,
    proposed: TicketMutex<Option<Frame>>,
}

impl Cyclic {
    /// No schedule.
    pub const fn none() -> Cyclic {
        Cyclic {
            frame: CpuCell::new(Frame::NONE),
            begun: CpuCell::new(0),
            next: CpuCell::new(u64::MAX),
            proposed: TicketMutex::new(None),
        }
    }

    /// From any CPU: has `frame` repeated from the end of the present one on. The CPU looks at it when it is interrupted.
    pub fn propose(&self, frame: Frame) {
        *self.proposed.lock() = Some(frame);
    }

    /// Whether a schedule is proposed that need not wait for the end of another one's frame.
    pub fn may_begin(&self) -> bool {
        self.next.get() == u64::MAX && self.proposed.lock().is_some()
    }

    /// The partitions, one bit each, that may run from `now` to [`Cyclic::next`].
    pub fn advance(&self, now: u64) -> u8 {
        self.frame.with_mut(|frame| {
            let elapsed = now.saturating_sub(self.begun.get());
            if elapsed >= frame.length {
                // Since the end of the frame; without a schedule any moment is one.
                let since = if frame.length == 0 { 0 } else { elapsed - frame.length };
                if let Some(proposed) = self.proposed.lock().take() {
                    *frame = proposed;
                }
                // Whole frames may have passed since.
                self.begun.set(now - since.checked_rem(frame.length).unwrap_or(0));
            }
            if frame.length == 0 {
                self.next.set(u64::MAX);
                return u8::MAX;
            }
            let (open, end) = frame.at(now.saturating_sub(self.begun.get()));
            self.next.set(self.begun.get().saturating_add(end));
            open
        })
    }
}
