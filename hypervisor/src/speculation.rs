//! What CPUs do ahead of time that can be observed, and what is done about it: each architecture has a table.

use crate::log;
use abi::text::Text;

/// What an [`Item`] of the table finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<M> {
    /// The CPU says, or is known, not to be affected.
    NotAffected,
    /// It is affected; how and with which measures that is mitigated.
    Mitigated(&'static str, M),
    /// It is affected, and remains so: why.
    Open(&'static str),
}

/// A way in which CPUs of type `C` leak, against which there are measures `M`: its name, and whether a CPU is affected and
/// what can be done.
pub struct Item<C, M>(pub &'static str, pub fn(&C) -> Verdict<M>);

/// Goes through `table` for `cpu`: the measures to take; none, if mitigations are off (`mitigate`). Says in the log what
/// it found, if it is to.
pub fn choose<C, M: bitflags::Flags>(
    table: &[Item<C, M>],
    cpu: &C,
    mitigate: bool,
    report: bool,
) -> M {
    let mut measures = M::empty();
    for Item(name, decide) in table {
        let (how, detail) = match decide(cpu) {
            Verdict::NotAffected => ("not affected", ""),
            Verdict::Mitigated(how, taken) if mitigate => {
                measures = measures.union(taken);
                ("mitigated by ", how)
            }
            Verdict::Mitigated(..) => ("AFFECTED", ""),
            Verdict::Open(why) => ("AFFECTED: ", why),
        };
        if report {
            log::info!("{}: {}{}", Text(name), Text(how), Text(detail));
        }
    }
    if report && !mitigate {
        log::warning!("mitigations=off: nothing is done about speculation");
    }
    measures
}

/// The README has a row for each item.
#[cfg(test)]
pub fn check_readme<C, M>(table: &[Item<C, M>]) {
    let text = include_str!("../README.md");
    for Item(name, _) in table {
        assert!(text.contains(&format!("\n| {name} |")), "{name}");
    }
}
