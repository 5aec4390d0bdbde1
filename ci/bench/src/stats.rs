//! Samples and what is said of them.

use abi::boot::ROOT_LOG;
use bench_guest::summary::WARM_UP;
pub use bench_guest::summary::{SAMPLES, Summary as Row, summarise};
use core::fmt::Display;
use rt::arch::counter;

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
