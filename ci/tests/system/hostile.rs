//! Hostile programs: the kernel stands, and what they took comes back.

use anyhow::ensure;
use bulkhead::artifacts::HOSTILE;
use bulkhead::machine::Kind;
use bulkhead::trial::Extra;
use ci::{Target, seconds};

/// Boots the hostile root task, which takes eight seconds of its machine, or two where these take longest.
fn the_kernel_survives_hostile_programs(on: Target) {
    let (settings, limit) = match on.kind {
        Kind::Bochs => ("seconds=2", seconds(300)),
        Kind::QemuX86 | Kind::QemuArm64 => ("seconds=8", seconds(60)),
    };
    on.tries(HOSTILE, &[Extra::Text("settings", settings)], |machine| {
        let cpus = on.cpus;
        machine.expect(&format!("hostile: begin: {cpus} CPUs"), limit / 2)?;
        let end = r"hostile: (done \d+ calls|FAILED.*)|bulkhead: (panic.*)";
        let end = machine.expect(end, limit)?;
        let calls = end.strip_prefix("done ").and_then(|e| e.strip_suffix(" calls"));
        let calls: u64 = calls.map_or(Ok(0), str::parse)?;
        ensure!(calls > 3000, "{end}");
        Ok(())
    });
}

/// On one CPU, with a clock that counts instructions, everything follows from the seed.
fn a_run_repeats_exactly(on: Target) {
    let mut ends = Vec::new();
    for seed in [7, 7, 8] {
        let text = format!("seed={seed} calls=30000 guests=0");
        on.tries_with(HOSTILE, &[Extra::Text("settings", &text)], "", true, |machine| {
            let end = r"hostile: (done [^\r\n]*|FAILED[^\r\n]*)\r?\n|bulkhead: (panic.*)";
            ends.push(machine.expect(end, seconds(120))?);
            Ok(())
        });
    }
    assert!(ends[0].starts_with("done "), "{ends:?}");
    assert_eq!(ends[0], ends[1]);
    assert_ne!(ends[0], ends[2]);
}

tests! {
    a_run_repeats_exactly: x86, a53_gic2;
    the_kernel_survives_hostile_programs:
        x86, x86_2cpus, bochs_2cpus, a53_gic2, a72_gic3, max_gic2_2cpus, max_gic3_4cpus;
}
