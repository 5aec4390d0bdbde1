//! Samples and what is said of them.

use abi::boot::ROOT_LOG;
use core::fmt::Display;
use rt::arch::counter;

/// Samples per row.
pub const SAMPLES: usize = 512;
/// Runs before the samples that count.
const WARM_UP: usize = 16;

/// What the samples of a row say, in counter ticks.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Least.
    pub min: u64,
    /// The middle one.
    pub median: u64,
    /// The one that 99 of 100 do not exceed.
    pub p99: u64,
    /// Most.
    pub max: u64,
    /// The very first, with nothing warm.
    pub first: u64,
}

/// Sorts the samples and summarises them.
pub fn summarise(samples: &mut [u64; SAMPLES], first: u64) -> Row {
    samples.sort_unstable();
    Row {
        min: samples[0],
        median: samples[SAMPLES / 2],
        p99: samples[SAMPLES * 99 / 100],
        max: samples[SAMPLES - 1],
        first,
    }
}

/// What reading the counter twice in a row costs: the least of many tries.
pub fn overhead() -> u64 {
    (0..64).map(|_| time(|| {})).min().unwrap_or(0)
}

#[inline(always)]
fn time(mut action: impl FnMut()) -> u64 {
    let start = counter();
    action();
    counter().wrapping_sub(start)
}

/// Measures `action`.
#[inline(always)]
pub fn measure(mut action: impl FnMut()) -> Row {
    let overhead = overhead();
    let first = time(&mut action).saturating_sub(overhead);
    for _ in 0..WARM_UP {
        action();
    }
    let mut samples = [0; SAMPLES];
    for sample in &mut samples {
        *sample = time(&mut action).saturating_sub(overhead);
    }
    summarise(&mut samples, first)
}

/// Prints a row.
pub fn print(name: impl Display, row: &Row) {
    let Row {
        min,
        median,
        p99,
        max,
        first,
    } = row;
    rt::log::line(
        ROOT_LOG,
        "bench",
        format_args!("{name} {min} {median} {p99} {max} {SAMPLES} {first}"),
    );
}

/// Says why a row is missing.
pub fn unavailable(name: impl Display, why: &str) {
    rt::log::line(ROOT_LOG, "bench", format_args!("{name} unavailable: {why}"));
}
