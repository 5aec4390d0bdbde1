//! What the guest leaves in its memory.

use crate::summary::{SAMPLES, Summary, summarise};
use crate::{Row, place};
use core::mem::offset_of;

/// Number of rows.
const ROWS: usize = Row::ALL.len();

/// The results, at [`place::RESULTS`].
#[repr(C)]
pub struct Results {
    /// Ticks of the counter that pass between two reads in a row: part of each sample.
    pub overhead: u32,
    /// The row that is being measured: the one that fails with [`crate::Request::Failed`].
    pub current: u32,
    /// The rows.
    pub rows: [Samples; ROWS],
}

/// What was measured of a row, in ticks of the counter.
#[repr(C)]
pub struct Samples {
    /// 1 when the row is complete, else 0.
    pub complete: u32,
    /// The very first, with nothing warm.
    pub first: u32,
    /// Those after the warm-up.
    pub samples: [u32; SAMPLES],
}

const _: () = assert!(place::RESULTS + size_of::<Results>() as u64 <= place::RAM.end);

/// What was measured of a row, the cost of reading the counter subtracted; `None` if it is not complete. `read` gives the 32 bits at
/// an offset in the guest's RAM.
pub fn summary(row: Row, read: impl Fn(u64) -> u32) -> Option<Summary> {
    let results = place::RESULTS - place::RAM.start;
    let at =
        results + offset_of!(Results, rows) as u64 + (row as usize * size_of::<Samples>()) as u64;
    let overhead = read(results + offset_of!(Results, overhead) as u64);
    let net = |offset: usize| u64::from(read(at + offset as u64).saturating_sub(overhead));
    (read(at + offset_of!(Samples, complete) as u64) == 1).then(|| {
        let mut samples =
            core::array::from_fn(|i| net(offset_of!(Samples, samples) + i * size_of::<u32>()));
        summarise(&mut samples, net(offset_of!(Samples, first)))
    })
}

/// The row that was measured last, by the same `read`.
pub fn current(read: impl Fn(u64) -> u32) -> Option<Row> {
    let results = place::RESULTS - place::RAM.start;
    let row = read(results + offset_of!(Results, current) as u64);
    Row::ALL.get(row as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of the guest's RAM: zero but for the results of `row`.
    fn memory(row: Row, complete: u32) -> impl Fn(u64) -> u32 + Copy {
        let results = place::RESULTS - place::RAM.start;
        let at = offset_of!(Results, rows) + row as usize * size_of::<Samples>();
        let samples = results + at as u64;
        let last = samples + size_of::<Samples>() as u64;
        move |offset| match offset {
            _ if offset == results => 2,
            _ if offset == results + 4 => row as u32,
            _ if offset == samples => complete,
            _ if offset == samples + 4 => 30,
            // One sample takes longer than the others.
            _ if offset == samples + 8 => 52,
            _ if (samples..last).contains(&offset) => 12,
            _ => 0,
        }
    }

    #[test]
    fn summaries_are_of_their_rows() {
        let read = memory(Row::Msr, 1);
        let expected = Summary { min: 10, median: 10, p99: 10, max: 50, first: 28 };
        assert_eq!(summary(Row::Msr, read), Some(expected));
        assert_eq!(current(read), Some(Row::Msr));
        assert_eq!(summary(Row::Cpuid, read), None);
        assert_eq!(summary(Row::Msr, memory(Row::Msr, 0)), None);
    }
}
