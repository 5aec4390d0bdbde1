//! Samples and what is said of them.

use abi::boot::ROOT_LOG;
use abi::operation::Operation;
use abi::{Status, Tag};
use bench_guest::summary::WARM_UP;
pub use bench_guest::summary::{SAMPLES, Summary as Row, summarise};
use core::fmt::Display;
use core::hint::black_box;
use rt::arch::{Registers, counter, system_call};
use rt::syscall::Result;

/// What reading the counter twice in a row costs: the least of many tries.
pub fn overhead() -> u64 {
    (0..64).map(|_| time(|| {}).0).min().unwrap_or(0)
}

/// The ticks of `action`, and how it ended.
#[inline(always)]
fn time<T>(action: impl FnOnce() -> T) -> (u64, T) {
    let start = counter();
    let end = action();
    let ticks = counter().wrapping_sub(start);
    // What is made of it is no part of the action.
    (ticks, black_box(end))
}

/// How what is measured ends.
pub trait Outcome {
    /// Whether it has failed. Asked outside of what is measured.
    fn check(self) -> Result;
}

impl Outcome for Result {
    fn check(self) -> Result {
        self
    }
}

/// The tag that a system call returns.
impl Outcome for Tag {
    fn check(self) -> Result {
        match self.status() {
            Status::Success => Ok(()),
            status => Err(status),
        }
    }
}

/// A row of what `sample` returns; `overhead` is subtracted from each.
#[inline(always)]
pub fn collect(overhead: u64, mut sample: impl FnMut() -> Result<u64>) -> Result<Row> {
    let first = sample()?.saturating_sub(overhead);
    for _ in 0..WARM_UP {
        sample()?;
    }
    let mut samples = [0; SAMPLES];
    for ticks in &mut samples {
        *ticks = sample()?.saturating_sub(overhead);
    }
    Ok(summarise(&mut samples, first))
}

/// Measures `action`.
#[inline(always)]
pub fn measure<T: Outcome>(action: impl FnMut() -> T) -> Result<Row> {
    measure_between(|| Ok(()), action, || Ok(()))
}

/// Measures a system call. Its status is looked at once, afterwards: to keep one would be an instruction.
#[inline(always)]
pub fn measure_call(mut call: impl FnMut() -> Tag) -> Result<Row> {
    let row = measure(|| {
        call();
        Ok(())
    })?;
    call().check()?;
    Ok(row)
}

/// Measures `action` alone, each time with `before` before it and `after` after it.
#[inline(always)]
pub fn measure_between<T: Outcome>(
    mut before: impl FnMut() -> Result,
    mut action: impl FnMut() -> T,
    mut after: impl FnMut() -> Result,
) -> Result<Row> {
    collect(overhead(), || {
        before()?;
        let (ticks, end) = time(&mut action);
        end.check()?;
        after()?;
        Ok(ticks)
    })
}

/// Makes the system call that `operation` says, with nothing around it.
#[inline(always)]
pub fn invoke<T: Operation>(operation: T) -> Tag {
    Tag(system_call(Registers::new(&operation)).tag)
}

/// Prints a row, or why it is missing.
pub fn report(name: impl Display, row: Result<Row>) {
    match row {
        Ok(row) => print(name, &row),
        Err(status) => unavailable(name, status.name()),
    }
}

/// Prints a row.
pub fn print(name: impl Display, row: &Row) {
    let Row { min, median, p99, max, first } = row;
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
