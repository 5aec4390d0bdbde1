//! Cache lines that one CPU writes and another one reads or writes.
//!
//! Each CPU is watched from its store to the first address to its store to the second one, which a program makes for that.
//! Then the file says what was seen up to now: a line `shared ...` for each such cache line, and last `CPUS cpus wrote LINES
//! lines`. What processors access by themselves, as page tables, is not seen.

use std::collections::HashMap;
use std::ffi::{c_uint, c_void};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::qemu::{self, Block, Translated};

/// A cache line: a bit for each CPU that read and that wrote it, and the instructions that did so last.
#[derive(Default)]
struct Line {
    readers: u64,
    writers: u64,
    read_at: u64,
    written_at: u64,
}

struct Seen {
    lines: HashMap<u64, Line>,
    cpus: u64,
    out: PathBuf,
}

static BEGIN: AtomicU64 = AtomicU64::new(0);
static END: AtomicU64 = AtomicU64::new(0);
/// A bit for each CPU that is watched.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static SEEN: Mutex<Option<Seen>> = Mutex::new(None);

impl Seen {
    /// Notes an access to the line at physical address `line`.
    fn note(&mut self, cpu: u64, line: u64, ip: u64, store: bool) {
        self.cpus |= cpu;
        let line = self.lines.entry(line).or_default();
        if store {
            line.writers |= cpu;
            line.written_at = ip;
        } else {
            line.readers |= cpu;
            line.read_at = ip;
        }
    }

    /// Writes the file.
    fn report(&self) {
        let mut text = String::new();
        for (address, line) in &self.lines {
            let all = line.readers | line.writers;
            if line.writers != 0 && !all.is_power_of_two() {
                let _ = writeln!(
                    text,
                    "shared {address:#x}: read by {:#b} at {:#x}, written by {:#b} at {:#x}",
                    line.readers, line.read_at, line.writers, line.written_at
                );
            }
        }
        let written = self.lines.values().filter(|line| line.writers != 0);
        let (cpus, written) = (self.cpus.count_ones(), written.count());
        let _ = writeln!(text, "{cpus} cpus wrote {written} lines");
        if let Err(error) = std::fs::write(&self.out, text) {
            eprintln!("{}: {error}", self.out.display());
        }
    }
}

/// QEMU translates a block: each access of its instructions is to be told.
unsafe extern "C" fn translated(_id: u64, block: *mut Block) {
    // SAFETY: QEMU's block, as long as this function runs.
    unsafe {
        for instruction in qemu::instructions(block) {
            let ip = qemu::qemu_plugin_insn_vaddr(instruction) as *mut c_void;
            let (registers, kinds) = (qemu::NO_REGISTERS, qemu::ALL_ACCESSES);
            qemu::qemu_plugin_register_vcpu_mem_cb(instruction, accessed, registers, kinds, ip);
        }
    }
}

/// The instruction at `ip` has accessed memory at the virtual address `address`.
unsafe extern "C" fn accessed(cpu: c_uint, access: u32, address: u64, ip: *mut c_void) {
    let bit = 1 << (cpu % u64::BITS);
    // SAFETY: QEMU's own value.
    let store = unsafe { qemu::qemu_plugin_mem_is_store(access) };
    if store && address == BEGIN.load(Ordering::Relaxed) {
        WATCHED.fetch_or(bit, Ordering::Relaxed);
    } else if store && address == END.load(Ordering::Relaxed) {
        WATCHED.fetch_and(!bit, Ordering::Relaxed);
        if let Some(seen) = &*SEEN.lock().unwrap_or_else(|e| e.into_inner()) {
            seen.report();
        }
    } else if WATCHED.load(Ordering::Relaxed) & bit != 0 {
        // SAFETY: as above; the place is of this thread until it asks for the next one.
        let physical = unsafe {
            let place = qemu::qemu_plugin_get_hwaddr(access, address);
            if place.is_null() || qemu::qemu_plugin_hwaddr_is_io(place) {
                return;
            }
            qemu::qemu_plugin_hwaddr_phys_addr(place)
        };
        if let Some(seen) = &mut *SEEN.lock().unwrap_or_else(|e| e.into_inner()) {
            seen.note(bit, physical & !63, ip as u64, store);
        }
    }
}

/// Watches from now on; returns what QEMU is to call.
pub fn start(begin: u64, end: u64, out: PathBuf) -> Translated {
    BEGIN.store(begin, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    let seen = Seen { lines: HashMap::new(), cpus: 0, out };
    *SEEN.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen);
    translated
}
