//! Cyclic schedules of CPUs.

use super::{Caller, Model};
use abi::syscall::{MAX_WINDOWS, WINDOW_WORDS};
use abi::{Rights, Status};

/// A major frame: its length, and windows with start, end and partition. Nothing: no schedule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Frame {
    length: u64,
    windows: Vec<(u64, u64, u8)>,
}

/// The schedule of a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cyclic {
    frame: Frame,
    /// When the present frame began.
    begun: u64,
    /// What comes after it.
    proposed: Option<Frame>,
    /// What [`Cyclic::advance`] has seen last.
    seen: u64,
}

impl Frame {
    /// From the words of a UTCB.
    fn new(length: u64, words: &[u64]) -> Result<Frame, Status> {
        let mut windows = Vec::new();
        let mut last = 0;
        for window in words.chunks(WINDOW_WORDS) {
            let &[start, size, partition] = window else {
                return Err(Status::BadArgument);
            };
            let end = start.checked_add(size).ok_or(Status::BadArgument)?;
            if start < last || size == 0 || end > length || partition > 7 {
                return Err(Status::BadArgument);
            }
            windows.push((start, end, partition as u8));
            last = end;
        }
        if windows.len() > MAX_WINDOWS || windows.is_empty() != (length == 0) {
            return Err(Status::BadArgument);
        }
        Ok(Frame { length, windows })
    }
}

impl Cyclic {
    pub fn is_on(&self) -> bool {
        self.frame.length != 0
    }

    /// At the end of a frame the next one begins, and without a schedule at once.
    pub(super) fn advance(&mut self, now: u64) {
        self.seen = now;
        if !self.is_on() {
            self.begun = now;
        }
        let end = self.begun + self.frame.length;
        if now < end {
            return;
        }
        self.begun = end;
        if let Some(frame) = self.proposed.take() {
            self.frame = frame;
        }
        if self.is_on() {
            self.begun += (now - end) / self.frame.length * self.frame.length;
        }
    }

    /// Whether a partition may run at `now`.
    pub(super) fn is_open(&self, now: u64, partition: u8) -> bool {
        let at = now - self.begun;
        let mut windows = self.frame.windows.iter();
        !self.is_on()
            || windows.any(|&(start, end, of)| (start..end).contains(&at) && of == partition)
    }

    /// Whether a window has begun or ended that was not noticed.
    pub(super) fn is_due(&self, now: u64) -> bool {
        let frame = self.frame.length;
        let edges = self.frame.windows.iter().flat_map(|w| [w.0, w.1]);
        let mut edges = edges.chain([frame]).map(|edge| self.begun + edge);
        self.is_on() && edges.any(|edge| self.seen < edge && edge <= now)
    }

    /// All times counted from `now`.
    pub(super) fn since(&mut self, now: u64) {
        self.begun = if self.is_on() { now - self.begun } else { 0 };
        self.seen = 0;
    }
}

impl Model {
    pub(super) fn set_schedule(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let cpu = self.check_cpu(args[1])?;
        let words = match by.thread {
            // The fixture's has none.
            None => &[][..],
            Some(id) => {
                let thread = self.thread(id);
                let count = thread.frame.tag().utcb_words();
                thread.shared.words.get(..count).ok_or(Status::BadArgument)?
            }
        };
        let frame = Frame::new(args[2], words)?;
        let limit = self.limit(by.domain, args[0], cpu, Rights::CONTROL)?;
        if limit >> 8 != 0 {
            return Err(Status::Denied);
        }
        self.cpus[cpu as usize].cyclic.proposed = Some(frame);
        Ok(())
    }

    /// `cpu` is interrupted: it begins a schedule, if it has none.
    pub(super) fn begin_schedule(&mut self, cpu: u32) {
        let now = self.now;
        let cyclic = &mut self.cpus[cpu as usize].cyclic;
        if !cyclic.is_on() && cyclic.proposed.is_some() {
            cyclic.advance(now);
        }
    }
}
