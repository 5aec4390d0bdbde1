//! Samples and what is said of them.

/// Samples per row.
pub const SAMPLES: usize = 512;
/// Runs before the samples that count, behind the very first.
pub const WARM_UP: usize = 16;

/// What the samples of a row say, in counter ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
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
pub fn summarise(samples: &mut [u64; SAMPLES], first: u64) -> Summary {
    samples.sort_unstable();
    Summary {
        min: samples[0],
        median: samples[SAMPLES / 2],
        p99: samples[SAMPLES * 99 / 100],
        max: samples[SAMPLES - 1],
        first,
    }
}
