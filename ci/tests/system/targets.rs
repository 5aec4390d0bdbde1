//! The machines that tests run on. Each test runs on a few; one that no test names is a warning.

use std::collections::BTreeSet;

use ci::Target;
use configs::{Board, Gic};

/// Makes a test of each body for every machine that it is to run on: `body::machine`, where both are functions.
macro_rules! tests {
    ($($body:ident: $($target:ident),+;)+) => {$(
        mod $body {
            $(
                #[test]
                fn $target() {
                    super::$body(crate::targets::$target());
                }
            )+
        }
    )+};
}

macro_rules! targets {
    ($($name:ident: $target:expr;)+) => {
        $(
            pub fn $name() -> Target {
                $target
            }
        )+
        const ALL: &[Target] = &[$($target),+];
    };
}

targets! {
    x86: Target::x86(1);
    x86_2cpus: Target::x86(2);
    x86_4cpus: Target::x86(4);
    bochs: Target::bochs(1);
    bochs_2cpus: Target::bochs(2);
    bochs_4cpus: Target::bochs(4);
    a53_gic2: Target::arm64("cortex-a53", Gic::V2, 1);
    a53_gic2_4cpus: Target::arm64("cortex-a53", Gic::V2, 4);
    a53_gic3_2cpus: Target::arm64("cortex-a53", Gic::V3, 2);
    a72_gic2_2cpus: Target::arm64("cortex-a72", Gic::V2, 2);
    a72_gic3: Target::arm64("cortex-a72", Gic::V3, 1);
    a72_gic3_4cpus: Target::arm64("cortex-a72", Gic::V3, 4);
    max_gic2_2cpus: Target::arm64("max", Gic::V2, 2);
    max_gic3: Target::arm64("max", Gic::V3, 1);
    max_gic3_4cpus: Target::arm64("max", Gic::V3, 4);
}

/// Every model of CPU with every interrupt controller, and each of both with every number of CPUs.
#[test]
fn every_pair_of_arm_features_is_there() {
    const PAIRS: [(usize, usize); 3] = [(0, 1), (0, 2), (1, 2)];
    let mut pairs = BTreeSet::new();
    for target in ALL {
        if let Board::Virt { cpu, gic } = target.board {
            let features = [
                format!("a {cpu}"),
                format!("a GICv{}", gic.number()),
                format!("{} CPUs", target.cpus),
            ];
            for (i, j) in PAIRS {
                pairs.insert(format!("{} and {}", features[i], features[j]));
            }
        }
    }
    let models = ["cortex-a53", "cortex-a72", "max"].map(|cpu| format!("a {cpu}"));
    let gics = [2, 3].map(|version| format!("a GICv{version}"));
    let counts = [1, 2, 4].map(|count| format!("{count} CPUs"));
    let kinds: [&[String]; 3] = [&models, &gics, &counts];
    for (i, j) in PAIRS {
        for (one, other) in kinds[i].iter().flat_map(|a| kinds[j].iter().map(move |b| (a, b))) {
            let pair = format!("{one} and {other}");
            assert!(pairs.contains(&pair), "no machine has {pair}");
        }
    }
}
