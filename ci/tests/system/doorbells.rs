//! Doorbells: a guest's write signals, and its monitor does not notice.

use bulkhead::artifacts::BENCHMARK;
use ci::{Target, seconds};

/// Boots the benchmark, whose guest writes to a doorbell some hundred times: to memory, under SVM to a port. A write that its
/// monitor is told ends it.
fn a_guest_rings_without_its_monitor(on: Target) {
    on.tries(BENCHMARK, BENCHMARK_FILES, |machine| {
        let cost = machine.expect(r"bench: exit\.doorbell (\S+)", seconds(60))?;
        cost.parse::<u64>()?;
        Ok(())
    });
}

tests! {
    a_guest_rings_without_its_monitor: x86, bochs, a53_gic2, max_gic3;
}
