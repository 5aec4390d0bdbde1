//! The path of a row: what its instructions are for, how much of the kernel's code they touch, and which of them are dear.

mod dear;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use super::trace::{Frame, Instruction, Kernel, Trace};
use configs::Architecture;
use dear::dear;

/// Bytes of a cache line.
const LINE: u64 = 64;

/// What an instruction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Who measures: a user program's stub of the system call, or a guest.
    Stub,
    /// The way into the kernel, to what is asked for.
    Entry,
    /// Capabilities, checks, and what is told.
    Message,
    /// The operation, on the general path.
    General,
    /// Registers go to memory.
    Save,
    /// Another space, another context; the way to user mode.
    Switch,
    /// The user program that answers.
    Handler,
    /// Its answer.
    Reply,
    /// Registers come from memory.
    Load,
    /// The way into guest mode.
    Enter,
}

impl Stage {
    /// All, in the order of a path.
    pub const ALL: [Stage; 10] = [
        Stage::Stub,
        Stage::Entry,
        Stage::Message,
        Stage::General,
        Stage::Save,
        Stage::Switch,
        Stage::Handler,
        Stage::Reply,
        Stage::Load,
        Stage::Enter,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Stage::Stub => "stub, guest",
            Stage::Entry => "entry",
            Stage::Message => "message",
            Stage::General => "general path",
            Stage::Save => "state save",
            Stage::Switch => "switch",
            Stage::Handler => "handler",
            Stage::Reply => "reply",
            Stage::Load => "state load",
            Stage::Enter => "guest entry",
        })
    }
}

/// What a function is for, before a handler has run and after that.
struct Rule {
    /// End of the file's name; empty for symbols of assembly.
    file: &'static str,
    /// End of the function's name.
    function: &'static str,
    before: Stage,
    after: Stage,
}

const fn rule(file: &'static str, function: &'static str, before: Stage, after: Stage) -> Rule {
    Rule { file, function, before, after }
}

/// The kernel's functions. The first rule that holds for one of the functions that an instruction belongs to decides.
/// Labels `stage_NAME_...` in assembly come before all.
const RULES: &[Rule] = &[
    rule("vcpu.rs", "save", Stage::Save, Stage::Save),
    rule("vcpu.rs", "leave", Stage::Save, Stage::Save),
    rule("vcpu.rs", "load", Stage::Load, Stage::Load),
    rule("aarch64/vcpu.rs", "enter", Stage::Enter, Stage::Enter),
    rule("", "guest_exit", Stage::Save, Stage::Save),
    rule("", "svm_resume", Stage::Save, Stage::Enter),
    rule("", "vmx_left", Stage::Save, Stage::Save),
    rule("", "vmx_tell", Stage::Save, Stage::Save),
    rule("", "vmx_load_rip", Stage::Load, Stage::Load),
    rule("", "vmx_resume", Stage::Enter, Stage::Enter),
    rule("", "svm::enter", Stage::Enter, Stage::Enter),
    rule("", "vmx::enter", Stage::Enter, Stage::Enter),
    rule("", "guest_again", Stage::Enter, Stage::Enter),
    rule("", "exits::tell", Stage::Message, Stage::Message),
    rule("", "exits::tell_write", Stage::Message, Stage::Message),
    rule("traps.rs", "ring", Stage::Message, Stage::Message),
    rule("", "tell_groups", Stage::Save, Stage::Save),
    rule("", "tell_now", Stage::Switch, Stage::Switch),
    rule("", "exits::reply", Stage::Reply, Stage::Reply),
    rule("", "deliver", Stage::Switch, Stage::Switch),
    rule("traps.rs", "deliver", Stage::Switch, Stage::Switch),
    rule("mod.rs", "prepare_thread", Stage::Switch, Stage::Switch),
    rule("vcpu.rs", "call_monitor", Stage::Message, Stage::Message),
    rule("vcpu.rs", "left", Stage::Message, Stage::Message),
    rule("ipc.rs", "reply_to_vcpu", Stage::Reply, Stage::Reply),
    rule("traps.rs", "vcpu_reply", Stage::Reply, Stage::Reply),
    rule("traps.rs", "guest_left", Stage::Entry, Stage::Entry),
    rule("vcpu.rs", "run", Stage::Entry, Stage::Enter),
];

/// Symbols of assembly from which on a way leads into guest mode.
const INTO_GUEST: [&str; 2] = ["svm_resume", "guest_again"];

/// Labels in assembly, and what the instructions behind them are for.
const LABELS: &[(&str, Stage)] = &[
    ("stage_entry_", Stage::Entry),
    ("stage_message_", Stage::Message),
    ("stage_save_", Stage::Save),
    ("stage_switch_", Stage::Switch),
    ("stage_reply_", Stage::Reply),
    ("stage_load_", Stage::Load),
];

/// The stage of the kernel's instruction with these frames.
fn stage(frames: &[Frame], is_answered: bool) -> Stage {
    let symbol = frames.last().map_or("", |frame| frame.function.as_str());
    let label = LABELS.iter().find(|(label, _)| symbol.starts_with(label));
    if let Some((_, stage)) = label {
        return *stage;
    }
    let holds = |rule: &&Rule| {
        frames.iter().any(|frame| {
            let rest = frame.function.strip_suffix(rule.function);
            let is_whole = rest.is_some_and(|rest| rest.is_empty() || rest.ends_with("::"));
            is_whole
                && frame.file.ends_with(rule.file)
                && frame.file.is_empty() == rule.file.is_empty()
        })
    };
    let is_assembly = frames.iter().all(|frame| frame.file.is_empty());
    match (RULES.iter().find(holds), is_answered) {
        (Some(rule), false) => rule.before,
        (Some(rule), true) => rule.after,
        (None, _) if !is_assembly => Stage::General,
        (None, false) => Stage::Entry,
        (None, true) => Stage::Reply,
    }
}

/// What is known of a row's path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The row.
    pub name: String,
    /// Instructions of all kinds, without those that read the counter.
    pub instructions: u64,
    /// Instructions of the kernel.
    pub kernel: u64,
    /// Bytes of the kernel's code in all cache lines that it is executed from.
    pub code: u64,
    /// Privileged instructions, and serialising ones; some are both.
    pub privileged: u64,
    /// As above.
    pub serialising: u64,
    /// How often each of these is executed, and each that goes from user mode to the kernel or moves vector registers.
    pub dear: BTreeMap<String, u64>,
    /// Instructions of each stage.
    pub stages: BTreeMap<Stage, u64>,
    /// The same in order, with the functions of the kernel: where the next stage or function begins, and how many of it.
    pub parts: Vec<(Stage, String, u64)>,
}

impl Path {
    /// Looks at a trace.
    pub fn of(trace: &Trace, median: u64, kernel: &Kernel, architecture: Architecture) -> Path {
        let mut path = Path { name: trace.name.clone(), instructions: median, ..Path::default() };
        let mut lines = BTreeSet::new();
        let is_kernel = |address: u64| kernel.range.contains(&address);
        // After its last instruction, only who measures comes.
        let last = trace.instructions.iter().rposition(|i| is_kernel(i.address));
        let mut is_answered = false;
        // The last one reads the counter, on Arm after a barrier; before the first that counts, the value was kept.
        let is_own = |i: &&Instruction| i.text != "isb";
        let before = trace.instructions.split_last().map_or(&[][..], |(_, rest)| rest);
        let end = before.len() - usize::from(!before.last().iter().all(is_own));
        let start = end.saturating_sub(median as usize);
        for (at, instruction) in trace.instructions.iter().enumerate().take(end).skip(start) {
            let frames = match is_kernel(instruction.address) {
                true => kernel.frames(instruction.address),
                false => Vec::new(),
            };
            let stage = if is_kernel(instruction.address) {
                let end = instruction.address + instruction.size.max(1) - 1;
                lines.extend([instruction.address / LINE, end / LINE]);
                path.kernel += 1;
                // Without a handler, what comes from here on leads into the guest.
                let into_guest = |name| kernel.begins(instruction.address, name);
                is_answered |= INTO_GUEST.into_iter().any(into_guest);
                stage(&frames, is_answered)
            } else if path.kernel != 0 && Some(at) < last {
                is_answered = true;
                Stage::Handler
            } else {
                Stage::Stub
            };
            *path.stages.entry(stage).or_default() += 1;
            path.note_part(stage, &frames);
            // What others than the kernel execute counts only if it leads into it.
            if let Some((name, why)) = dear(architecture, &instruction.text)
                && (is_kernel(instruction.address) || why.is_plain())
            {
                path.privileged += u64::from(why.is_privileged);
                path.serialising += u64::from(why.is_serialising);
                *path.dear.entry(name).or_default() += 1;
            }
        }
        path.code = lines.len() as u64 * LINE;
        path
    }

    /// What is dear in it, as text.
    pub fn dear(&self) -> String {
        let each = self.dear.iter().map(|(name, count)| format!("{count} {name}"));
        each.collect::<Vec<_>>().join(", ")
    }

    /// Counts an instruction with these frames.
    fn note_part(&mut self, stage: Stage, frames: &[Frame]) {
        // The outermost that is more than the kernel's loop: what was inlined into it says most.
        let named = frames.iter().rev().find(|frame| !frame.file.is_empty());
        let function = named.or(frames.last()).map_or(String::new(), |frame| {
            let name = frame.function.strip_prefix("hypervisor::").unwrap_or(&frame.function);
            match LABELS.iter().any(|(label, _)| name.starts_with(label)) {
                true => "fastpath".into(),
                false => name.to_owned(),
            }
        });
        match self.parts.last_mut() {
            Some((last, name, count)) if (*last, &*name) == (stage, &function) => *count += 1,
            _ => self.parts.push((stage, function, 1)),
        }
    }
}

/// Paths as text: one table of what they are, one of their stages.
pub fn text(paths: &[Path]) -> String {
    let mut out = format!(
        "\n{:<36}{:>9}{:>9}{:>12}{:>12}{:>13}\n",
        "path", "all", "kernel", "bytes of it", "privileged", "serialising"
    );
    for path in paths {
        let Path { name, instructions, kernel, code, privileged, serialising, .. } = path;
        let _ = writeln!(
            out,
            "{name:<36}{instructions:>9}{kernel:>9}{code:>12}{privileged:>12}{serialising:>13}"
        );
    }
    let _ = write!(out, "\n{:<36}", "instructions by stage");
    for stage in Stage::ALL {
        let _ = write!(out, "{stage:>13}");
    }
    out.push('\n');
    for path in paths {
        let _ = write!(out, "{:<36}", path.name);
        for stage in Stage::ALL {
            let count = path.stages.get(&stage).map_or("-".into(), u64::to_string);
            let _ = write!(out, "{count:>13}");
        }
        out.push('\n');
    }
    out.push('\n');
    for path in paths {
        let _ = writeln!(out, "{}: {}", path.name, path.dear());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(all: &[(&str, &str)]) -> Vec<Frame> {
        all.iter()
            .map(|(function, file)| Frame {
                function: function.to_string(),
                file: file.to_string(),
            })
            .collect()
    }

    #[test]
    fn the_innermost_meaning_of_a_function_counts() {
        let saved = frames(&[
            ("hypervisor::arch::x::vcpu::save", "arch/x/vcpu.rs"),
            ("hypervisor::vcpu::call_monitor", "vcpu.rs"),
            ("hypervisor::vcpu::run", ""),
        ]);
        assert_eq!(stage(&saved, false), Stage::Save);
        assert_eq!(stage(&saved[1..], false), Stage::Message);
        let resumed = frames(&[("svm_resume", "")]);
        assert_eq!(stage(&resumed, false), Stage::Save);
        assert_eq!(stage(&resumed, true), Stage::Enter);
        // Of the same name, and something else.
        let other =
            frames(&[("core::sync::atomic::load", "sync/atomic.rs"), ("unsave", "vcpu.rs")]);
        assert_eq!(stage(&other, false), Stage::General);
        let assembly = frames(&[("entry", "")]);
        assert_eq!(stage(&assembly, false), Stage::Entry);
        assert_eq!(stage(&assembly, true), Stage::Reply);
        let label = frames(&[("stage_switch_call", "")]);
        assert_eq!(stage(&label, true), Stage::Switch);
    }
}
