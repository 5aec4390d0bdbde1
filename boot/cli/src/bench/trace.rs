//! What a machine executes for each row: the plugin's intervals, and the rows that they belong to.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use configs::Architecture;
use object::{Object, ObjectSegment, ObjectSymbol};

use super::measure::Way;
use super::path;
use super::report::{Report, Row};
use crate::artifacts::Artifacts;
use crate::machine::{Kind, bochs, qemu};
use crate::toolchain::host_cargo;
use crate::{child, progress, workspace};

/// Most instructions of an interval that are not the row's own: those that read the counter, and one that is begun twice as it
/// faults.
const OVERHEAD: u64 = 6;

/// An instruction that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Where it is.
    pub address: u64,
    /// Its bytes.
    pub size: u64,
    /// What it is, in QEMU's words; wrong for those of x86 guests.
    pub text: String,
}

/// The instructions of a row, from one look at the counter to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The row.
    pub name: String,
    /// In the order of their execution.
    pub instructions: Vec<Instruction>,
}

/// The file of the kernel, for who wants to know where an address is.
pub struct Kernel {
    loader: addr2line::Loader,
    /// Its symbols by address.
    symbols: Vec<(u64, String)>,
    /// The addresses that it is linked to.
    pub range: Range<u64>,
}

/// A function that an instruction belongs to; several, if they are inlined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name, with that of its module where the symbol has it.
    pub function: String,
    /// The file that it is in, from the sources' folder on; empty for assembly.
    pub file: String,
}

impl Kernel {
    /// Reads the ELF file of a kernel.
    pub fn read(file: &Path) -> Result<Kernel> {
        let wrong = || format!("{} cannot be read", file.display());
        let bytes = std::fs::read(file).with_context(wrong)?;
        let elf = object::File::parse(&*bytes).with_context(wrong)?;
        let ends = elf.segments().map(|s| (s.address(), s.address() + s.size()));
        let (starts, ends): (Vec<u64>, Vec<u64>) = ends.unzip();
        let range = match (starts.iter().min(), ends.iter().max()) {
            (Some(&start), Some(&end)) => start..end,
            _ => bail!("{} has nothing in it", file.display()),
        };
        let named = elf.symbols().filter_map(|symbol| {
            let name = symbol.name().ok()?;
            // Those with a dollar say what is code and what is data, on Arm.
            let is_place = !name.is_empty() && !name.starts_with('$') && !symbol.is_undefined();
            is_place.then(|| (symbol.address(), addr2line::demangle_auto(name.into(), None).into()))
        });
        let mut symbols: Vec<(u64, String)> = named.collect();
        symbols.sort();
        let loader = addr2line::Loader::new(file)
            .map_err(|error| anyhow::anyhow!("{}: {error}", file.display()))?;
        Ok(Kernel { loader, symbols, range })
    }

    /// Where the symbol of this name is.
    pub fn address(&self, name: &str) -> Option<u64> {
        let mut symbols = self.symbols.iter();
        let (address, _) = symbols.find(|(_, symbol)| symbol == name)?;
        Some(*address)
    }

    /// The symbol that `address` is behind.
    pub fn symbol(&self, address: u64) -> Option<&str> {
        let after = self.symbols.partition_point(|(start, _)| *start <= address);
        let (_, name) = self.symbols.get(after.checked_sub(1)?)?;
        Some(name)
    }

    /// Whether a symbol of this name begins at `address`.
    pub fn begins(&self, address: u64, name: &str) -> bool {
        let at = self.symbols.partition_point(|(start, _)| *start < address);
        let here = self.symbols[at..].iter().take_while(|(start, _)| *start == address);
        here.into_iter().any(|(_, symbol)| symbol.ends_with(name))
    }

    /// The functions that the instruction at `address` belongs to, the innermost first, the symbol last.
    pub fn frames(&self, address: u64) -> Vec<Frame> {
        let mut all = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|f| f.demangle().ok());
                let file = frame.location.and_then(|l| l.file).unwrap_or_default();
                if let Some(function) = name {
                    all.push(Frame {
                        function: function.into_owned(),
                        file: file.rsplit("/src/").next().unwrap_or(file).to_owned(),
                    });
                }
            }
        }
        if let Some(symbol) = self.symbol(address) {
            all.push(Frame { function: symbol.to_owned(), file: String::new() });
        }
        all
    }
}

/// Builds the plugin that watches the machine.
pub fn plugin() -> Result<PathBuf> {
    let what = "Building the plugin for QEMU";
    let step = progress::step(what);
    // Beside other builds, which may hold their folder's lock.
    let target = workspace::output().join("plugin");
    let mut command = host_cargo()?;
    command.current_dir(workspace::root());
    command.args(["build", "--locked", "--release", "-p", "plugin"]);
    child::run(command.env("CARGO_TARGET_DIR", &target), Some((&step, what)))?;
    Ok(target.join("release/libplugin.so"))
}

/// Why nothing can be traced on machines of this kind, if so.
pub fn obstacle(kind: Kind) -> Result<Option<&'static str>> {
    Ok(match kind {
        Kind::Bochs => None,
        _ if !qemu::loads_plugins(kind.architecture())? => {
            Some("this QEMU loads no plugins, or such of another version")
        }
        _ => None,
    })
}

/// What watches a benchmark that runs on one CPU.
pub struct Tracer {
    kernel: Kernel,
    option: String,
    out: PathBuf,
    _dir: tempfile::TempDir,
}

impl Tracer {
    /// Builds the plugin, and reads the kernel that trials run on.
    pub fn new(architecture: Architecture) -> Result<Tracer> {
        let plugin = plugin()?;
        let kernel = Kernel::read(&Artifacts::trials(architecture)?.kernel_elf())?;
        let dir = tempfile::tempdir()?;
        let out = dir.path().join("paths");
        let (file, seen) = (plugin.display(), out.display());
        let Range { start, end } = kernel.range;
        Ok(Tracer {
            option: format!("file={file},kernel={start},kernel_end={end},out={seen}"),
            kernel,
            out,
            _dir: dir,
        })
    }

    /// QEMU's option that loads the plugin ([`crate::machine::Settings::plugin`]).
    pub fn option(&self) -> &str {
        &self.option
    }

    /// When the benchmark has ended, with these figures: the paths of all rows that measure one operation at a time.
    pub fn paths(&self, report: &Report, architecture: Architecture) -> Result<Vec<path::Path>> {
        let text = std::fs::read_to_string(&self.out).context("the plugin has written nothing")?;
        let traces = assign(&report.rows, parse(&text)?);
        let paths = traces.iter().filter_map(|trace| {
            let median = report.row(&trace.name)?.median;
            Some(path::Path::of(trace, median, &self.kernel, architecture))
        });
        Ok(paths.collect())
    }
}

/// Where the kernel comes in from a guest under VT-x.
const EXIT: &str = "vmx_left";
/// The row that the guest measures first, and what Bochs executes meanwhile: its start and some hundred exits.
const FIRST_EXIT: (&str, u64) = ("exit.hypercall", 60_000);
/// How often an interval has to come there.
const OFTEN: usize = 32;

/// Traces the first kind of exit on Bochs, whose debugger prints each instruction: of all rows that would be too many.
pub fn on_bochs(way: &Way, report: &Report) -> Result<Vec<path::Path>> {
    let image = way.image()?;
    let architecture = way.kind.architecture();
    let kernel = Kernel::read(&Artifacts::trials(architecture)?.kernel_elf())?;
    let from = kernel.address(EXIT);
    let from = from.with_context(|| format!("the kernel has no symbol {EXIT}"))?;
    let (name, count) = FIRST_EXIT;
    let text = bochs::trace(&image, &way.settings(1), from, count)?;
    let row = report.row(name).with_context(|| format!("{name} was not measured"))?;
    let intervals = intervals(parse_debugger(&text), &kernel.range);
    let traces = assign(std::slice::from_ref(row), intervals);
    let paths = traces.iter();
    Ok(paths.map(|trace| path::Path::of(trace, row.median, &kernel, architecture)).collect())
}

/// Reads the instructions out of what Bochs's debugger prints: `(0).[TIME] [PHYSICAL] SEGMENT:ADDRESS (CONTEXT): TEXT ; BYTES`.
fn parse_debugger(text: &str) -> impl Iterator<Item = Instruction> {
    text.lines().filter_map(|line| {
        let rest = line.strip_prefix("(0).[")?;
        let (_, rest) = rest.split_once("] [0x")?;
        let (_, rest) = rest.split_once(':')?;
        let (address, rest) = rest.split_once(' ')?;
        let (_, rest) = rest.split_once("): ")?;
        let (text, bytes) = rest.rsplit_once("; ")?;
        Some(Instruction {
            address: u64::from_str_radix(address, 16).ok()?,
            size: bytes.trim().len() as u64 / 2,
            text: text.trim().to_owned(),
        })
    })
}

/// The intervals between two looks at the counter from outside of the kernel in which it took part, and that come often; as the
/// plugin finds them.
fn intervals(
    instructions: impl Iterator<Item = Instruction>,
    kernel: &Range<u64>,
) -> Vec<Vec<Instruction>> {
    let mut counts: Vec<(Vec<Instruction>, usize)> = Vec::new();
    let mut now: Option<Vec<Instruction>> = None;
    for instruction in instructions {
        let is_end = instruction.text == "rdtsc" && !kernel.contains(&instruction.address);
        if let Some(interval) = &mut now {
            interval.push(instruction);
        }
        if !is_end {
            continue;
        }
        let Some(interval) = now.replace(Vec::new()) else {
            continue;
        };
        if !interval.iter().any(|i| kernel.contains(&i.address)) {
            continue;
        }
        match counts.iter_mut().find(|(known, _)| *known == interval) {
            Some((_, count)) => *count += 1,
            None => counts.push((interval, 1)),
        }
    }
    counts.retain(|(_, count)| *count >= OFTEN);
    counts.into_iter().map(|(interval, _)| interval).collect()
}

/// Reads the plugin's file.
fn parse(text: &str) -> Result<Vec<Vec<Instruction>>> {
    let mut all: Vec<Vec<Instruction>> = Vec::new();
    for line in text.lines() {
        if line.starts_with("path ") {
            all.push(Vec::new());
            continue;
        }
        let wrong = || format!("the plugin has written a line that is none of its: {line}");
        let mut words = line.splitn(3, ' ');
        let address = words.next().and_then(|word| word.strip_prefix("0x"));
        let address = address.and_then(|word| u64::from_str_radix(word, 16).ok());
        let size = words.next().and_then(|word| word.parse().ok());
        let last = all.last_mut().with_context(wrong)?;
        last.push(Instruction {
            address: address.with_context(wrong)?,
            size: size.with_context(wrong)?,
            text: words.next().unwrap_or_default().to_owned(),
        });
    }
    ensure!(!all.is_empty(), "the plugin has seen no measurement");
    Ok(all)
}

/// Gives each row its interval: both are in the order of the measurements, and a row's interval is as long as its median,
/// but for what reads the counter. Rows that are measured in other ways have none.
fn assign(rows: &[Row], intervals: Vec<Vec<Instruction>>) -> Vec<Trace> {
    let mut left = intervals.into_iter().collect::<std::collections::VecDeque<_>>();
    let mut traces = Vec::new();
    for row in rows {
        let own = row.median..=row.median + OVERHEAD;
        let found = left.iter().position(|interval| own.contains(&(interval.len() as u64)));
        if let Some(at) = found {
            left.drain(..at);
            traces.extend(
                left.pop_front().map(|instructions| Trace { name: row.name.clone(), instructions }),
            );
        }
    }
    traces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(length: usize) -> Vec<Instruction> {
        let text = format!("path {length}\n") + &"0x10 2 mov a, b\n".repeat(length);
        parse(&text).unwrap().remove(0)
    }

    #[test]
    fn intervals_go_to_rows_of_their_length_in_order() {
        let text = "bench: a 10 10 10 10 512 9\nbench: b 10 10 10 10 512 9\nbench: c 100 100 100 100 512 9\n\
                    bench: d 7 7 7 7 512 9\n";
        let rows = Report::parse(text).unwrap().rows;
        let intervals = [14, 12, 50, 8].map(interval).to_vec();
        let traces = assign(&rows, intervals);
        let found: Vec<_> =
            traces.iter().map(|t| (t.name.as_str(), t.instructions.len())).collect();
        assert_eq!(found, [("a", 14), ("b", 12), ("d", 8)]);
        let first = &traces[0].instructions[0];
        assert_eq!((first.address, first.size, first.text.as_str()), (16, 2, "mov a, b"));
        for wrong in ["", "0x10 2 nop\n", "path 1\nnonsense\n"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_bochs_prints_makes_intervals() {
        let line = "(0).[5] [0x0000002035cd] 0010:ffffffff802035cd (unk. ctxt): push rax   ; 50\n";
        let guest =
            "(0).[6] [0x000000c00070] 0008:0000000000200070 (unk. ctxt): rdtsc     ; 0f31\n";
        let text = format!("<bochs:1>\n{guest}{}", format!("{line}{guest}").repeat(OFTEN));
        let kernel = 0xffff_ffff_8000_0000..u64::MAX;
        let found = intervals(parse_debugger(&text), &kernel);
        assert_eq!((found.len(), found[0].len()), (1, 2));
        let first = &found[0][0];
        assert_eq!(
            (first.address, first.size, first.text.as_str()),
            (0xffff_ffff_8020_35cd, 1, "push rax")
        );
        assert!(intervals(parse_debugger(&text[..text.len() / 2]), &kernel).is_empty());
    }
}
