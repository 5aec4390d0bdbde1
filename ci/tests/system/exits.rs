//! VM exits, as the benchmark's guest makes them.

use anyhow::{Result, ensure};
use bulkhead::artifacts::BENCHMARK;
use bulkhead::bench::Report;
use bulkhead::trial::BENCHMARK_FILES;
use ci::{Target, seconds};
use configs::Architecture;

/// What the guest does on each architecture, and on one alone.
const ROWS: [&str; 12] = [
    "exit.hypercall",
    "exit.doorbell",
    "exit.mmio_read",
    "exit.mmio_write",
    "exit.interrupt_controller",
    "exit.halt_wake",
    "exit.page_fault",
    "inject.signal_to_handler",
    "inject.ipi",
    "guest.syscall",
    "guest.context_switch",
    "guest.page_fault",
];
const X86_ROWS: [&str; 3] = ["exit.cpuid", "exit.port_read", "exit.msr"];
const ARM_ROWS: [&str; 2] = ["exit.id_register", "exit.system_register"];

/// Boots the benchmark, whose guest leaves guest mode in all the ways that its monitor answers, rings a doorbell without its monitor
/// (to memory, under SVM to a port), is woken and interrupted, and looks at what its device answers.
fn a_guest_makes_every_exit(on: Target) {
    on.tries(BENCHMARK, BENCHMARK_FILES, |machine| {
        // The last row.
        machine.expect(r"bench: guest\.page_fault [^\n]*\n", seconds(120))?;
        check(on, &Report::parse(&machine.transcript())?)
    });
}

fn check(on: Target, report: &Report) -> Result<()> {
    let own: &[&str] = match on.architecture() {
        Architecture::X86_64 => &X86_ROWS,
        Architecture::Arm64 => &ARM_ROWS,
    };
    for name in ROWS.iter().chain(own) {
        let row = report.rows.iter().find(|row| row.name == *name);
        ensure!(row.is_some_and(|row| row.min > 0), "{name} is missing: {:?}", report.unavailable);
    }
    Ok(())
}

tests! {
    a_guest_makes_every_exit: x86, bochs, a53_gic2, max_gic3;
}
