//! Takes samples and keeps them where the monitor finds them.

use crate::{cpu, fail};
use bench_guest::results::Results;
use bench_guest::summary::{SAMPLES, WARM_UP};
use bench_guest::{Row, place};

/// Tries of reading the counter twice, of which the cheapest counts.
const TRIES: u32 = 64;

/// Measures rows.
pub struct Sampler {
    rows: u64,
    results: *mut Results,
}

impl Sampler {
    /// One that measures `rows`, and measures what reading the counter costs.
    pub fn new(rows: u64) -> Sampler {
        let results = place::RESULTS as *mut Results;
        let overhead = (0..TRIES).map(|_| cpu::overhead()).min().unwrap_or(0);
        // SAFETY: RAM of this guest that nothing else uses, aligned.
        unsafe { (&raw mut (*results).overhead).write_volatile(overhead) };
        Sampler { rows, results }
    }

    /// Whether a row is to be measured.
    pub fn wants(&self, row: Row) -> bool {
        self.rows & row.bit() != 0
    }

    /// Measures a row, if that is to be: `round` does it once and returns the ticks. `works` says after that whether it did what it
    /// should.
    pub fn row(&self, row: Row, mut round: impl FnMut() -> u32, works: impl FnOnce() -> bool) {
        if !self.wants(row) {
            return;
        }
        let results = self.results;
        let number = row as usize;
        // SAFETY: as in `new`; a row's number is below the number of rows.
        unsafe {
            let samples = &raw mut (*results).rows[number];
            (&raw mut (*results).current).write_volatile(number as u32);
            (&raw mut (*samples).first).write_volatile(round());
            for i in 0..WARM_UP + SAMPLES {
                let ticks = round();
                if let Some(sample) = i.checked_sub(WARM_UP) {
                    (&raw mut (*samples).samples[sample]).write_volatile(ticks);
                }
            }
            if !works() {
                fail();
            }
            (&raw mut (*samples).complete).write_volatile(1);
        }
    }
}
