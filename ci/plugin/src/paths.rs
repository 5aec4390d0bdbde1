//! What is executed between two looks at the machine's counter.
//!
//! For programs that measure what they do over and over: an interval from one instruction outside of the kernel that
//! reads the counter to the next one, in which the kernel executed something, is a path. One that was seen [`OFTEN`]
//! times is appended to the file: a line `path COUNT`, then a line `ADDRESS SIZE TEXT` for each of its instructions, the last
//! of which reads the counter. For one CPU. A handler that reads the counter splits what it is part of. QEMU 7 has wrong
//! texts for guests' code, as it reads that for them without nested paging.

use std::collections::HashMap;
use std::ffi::{CStr, c_uint, c_void};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::qemu::{self, Block, Translated};

/// What comes so often is not a start or an interruption.
const OFTEN: u32 = 32;
/// Longer intervals are none of a measurement.
const LONGEST: usize = 100_000;

/// Whether an instruction reads the counter: RDTSC, MRS of CNTPCT_EL0 and of CNTVCT_EL0 to any register.
fn reads_counter(code: &[u8]) -> bool {
    match *code {
        [0x0f, 0x31] => true,
        [low, 0xe0, 0x3b, 0xd5] => matches!(low & 0xe0, 0x20 | 0x40),
        _ => false,
    }
}

#[derive(Default)]
struct Seen {
    kernel: Range<u64>,
    out: Option<File>,
    /// The numbers of instructions, and their lines in the file.
    numbers: HashMap<String, u32>,
    lines: Vec<String>,
    /// Since the last look at the counter; `None` before the first.
    now: Option<Interval>,
    /// How often each interval was seen.
    intervals: HashMap<Vec<u32>, u32>,
}

#[derive(Default)]
struct Interval {
    instructions: Vec<u32>,
    has_kernel: bool,
}

static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

/// What is known of an instruction when it is translated; goes through QEMU as a pointer.
#[derive(Clone, Copy)]
struct Mark {
    number: u32,
    is_kernel: bool,
    reads_counter: bool,
}

impl Mark {
    fn pack(self) -> *mut c_void {
        let flags = usize::from(self.is_kernel) | usize::from(self.reads_counter) << 1;
        ((self.number as usize) << 2 | flags) as *mut c_void
    }

    fn unpack(argument: *mut c_void) -> Mark {
        let word = argument as usize;
        Mark { number: (word >> 2) as u32, is_kernel: word & 1 != 0, reads_counter: word & 2 != 0 }
    }
}

impl Seen {
    /// The mark of the instruction at `address`.
    fn mark(&mut self, address: u64, code: &[u8], text: &str) -> Mark {
        let line = format!("{address:#x} {} {text}", code.len());
        let next = self.lines.len() as u32;
        let number = *self.numbers.entry(line.clone()).or_insert(next);
        if number == next {
            self.lines.push(line);
        }
        let is_kernel = self.kernel.contains(&address);
        Mark { number, is_kernel, reads_counter: !is_kernel && reads_counter(code) }
    }

    /// An instruction is executed.
    fn note(&mut self, mark: Mark) {
        if let Some(interval) = &mut self.now {
            interval.instructions.push(mark.number);
            interval.has_kernel |= mark.is_kernel;
            if interval.instructions.len() > LONGEST {
                self.now = None;
            }
        }
        if mark.reads_counter
            && let Some(interval) = self.now.replace(Interval::default())
            && interval.has_kernel
        {
            let times = self.intervals.entry(interval.instructions.clone());
            let times = times.or_default();
            *times += 1;
            if *times == OFTEN {
                self.write(&interval.instructions);
            }
        }
    }

    fn write(&mut self, instructions: &[u32]) {
        let mut text = format!("path {}\n", instructions.len());
        for number in instructions {
            let _ = writeln!(text, "{}", self.lines[*number as usize]);
        }
        if let Some(out) = &mut self.out
            && let Err(error) = out.write_all(text.as_bytes())
        {
            eprintln!("the paths cannot be written: {error}");
            self.out = None;
        }
    }
}

/// Runs `action` on what was seen.
fn with<T: Default>(action: impl FnOnce(&mut Seen) -> T) -> T {
    let mut seen = SEEN.lock().unwrap_or_else(|e| e.into_inner());
    seen.as_mut().map(action).unwrap_or_default()
}

/// QEMU translates a block: each of its instructions is to be told when it is executed.
unsafe extern "C" fn translated(_id: u64, block: *mut Block) {
    // SAFETY: QEMU's block, as long as this function runs.
    for instruction in unsafe { qemu::instructions(block) } {
        // SAFETY: as above: its bytes are there meanwhile, and of that size. The text is freed once, after it was copied.
        let mark = unsafe {
            let text = qemu::qemu_plugin_insn_disas(instruction);
            let copy = match text.is_null() {
                true => String::new(),
                false => CStr::from_ptr(text).to_string_lossy().trim().to_owned(),
            };
            qemu::g_free(text.cast());
            let address = qemu::qemu_plugin_insn_vaddr(instruction);
            let code = std::slice::from_raw_parts(
                qemu::qemu_plugin_insn_data(instruction).cast::<u8>(),
                qemu::qemu_plugin_insn_size(instruction),
            );
            with(|seen| Some(seen.mark(address, code, &copy)))
        };
        if let Some(mark) = mark {
            let registers = qemu::NO_REGISTERS;
            let mark = mark.pack();
            // SAFETY: QEMU's instruction, and a function that stays.
            unsafe {
                qemu::qemu_plugin_register_vcpu_insn_exec_cb(
                    instruction,
                    executed,
                    registers,
                    mark,
                );
            }
        }
    }
}

/// An instruction is about to be executed.
unsafe extern "C" fn executed(_cpu: c_uint, argument: *mut c_void) {
    with(|seen| seen.note(Mark::unpack(argument)));
}

/// Watches from now on; returns what QEMU is to call.
pub fn start(kernel: Range<u64>, out: PathBuf) -> Translated {
    let file = File::create(&out);
    if let Err(error) = &file {
        eprintln!("{}: {error}", out.display());
    }
    let seen = Seen { kernel, out: file.ok(), ..Seen::default() };
    *SEEN.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen);
    translated
}
