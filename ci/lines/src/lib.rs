//! A plugin of QEMU: cache lines that one CPU writes and another one reads or writes.
//!
//! `-plugin file=FILE,begin=ADDRESS,end=ADDRESS,out=FILE`, addresses in decimal. Each CPU is watched from its store to the first
//! address to its store to the second one, which a program makes for that. Then the file `out` says what was seen up to
//! now: a line `shared ...` for each such cache line, and last `CPUS cpus wrote LINES lines`. What processors access by
//! themselves, as page tables, is not seen.
//!
//! The functions are those of QEMU's `qemu-plugin.h`, version 1, which QEMU 4.2 to 8 have.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Instructions that are translated at once, one of them, and where an access goes; of QEMU.
type Block = c_void;
type Instruction = c_void;
type Place = c_void;

type Translated = unsafe extern "C" fn(id: u64, block: *mut Block);
type Accessed = unsafe extern "C" fn(cpu: c_uint, access: u32, address: u64, ip: *mut c_void);

unsafe extern "C" {
    fn qemu_plugin_register_vcpu_tb_trans_cb(id: u64, call: Translated);
    fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    fn qemu_plugin_register_vcpu_mem_cb(
        instruction: *mut Instruction,
        call: Accessed,
        registers: c_int,
        kinds: c_int,
        argument: *mut c_void,
    );
    fn qemu_plugin_mem_is_store(access: u32) -> bool;
    fn qemu_plugin_get_hwaddr(access: u32, address: u64) -> *mut Place;
    fn qemu_plugin_hwaddr_is_io(place: *const Place) -> bool;
    fn qemu_plugin_hwaddr_phys_addr(place: *const Place) -> u64;
}

/// The call back uses no registers (`QEMU_PLUGIN_CB_NO_REGS`).
const NO_REGISTERS: c_int = 0;
/// Reads and writes (`QEMU_PLUGIN_MEM_RW`).
const ALL_ACCESSES: c_int = 3;

/// The version of the interface, which QEMU looks at.
#[unsafe(export_name = "qemu_plugin_version")]
pub static VERSION: c_int = 1;

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
    let count = unsafe { qemu_plugin_tb_n_insns(block) };
    for index in 0..count {
        // SAFETY: as above; the block has so many instructions.
        unsafe {
            let instruction = qemu_plugin_tb_get_insn(block, index);
            let ip = qemu_plugin_insn_vaddr(instruction) as *mut c_void;
            let (registers, kinds) = (NO_REGISTERS, ALL_ACCESSES);
            qemu_plugin_register_vcpu_mem_cb(instruction, accessed, registers, kinds, ip);
        }
    }
}

/// The instruction at `ip` has accessed memory at the virtual address `address`.
unsafe extern "C" fn accessed(cpu: c_uint, access: u32, address: u64, ip: *mut c_void) {
    let bit = 1 << (cpu % u64::BITS);
    // SAFETY: QEMU's own value.
    let store = unsafe { qemu_plugin_mem_is_store(access) };
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
            let place = qemu_plugin_get_hwaddr(access, address);
            if place.is_null() || qemu_plugin_hwaddr_is_io(place) {
                return;
            }
            qemu_plugin_hwaddr_phys_addr(place)
        };
        if let Some(seen) = &mut *SEEN.lock().unwrap_or_else(|e| e.into_inner()) {
            seen.note(bit, physical & !63, ip as u64, store);
        }
    }
}

/// QEMU loads the plugin. Not 0: it is told nothing that it could do.
///
/// # Safety
/// `arguments` are `count` strings of the form `NAME=VALUE`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const c_void,
    count: c_int,
    arguments: *const *const c_char,
) -> c_int {
    let argument = |name: &str| {
        (0..count as usize).find_map(|index| {
            // SAFETY: the caller's word.
            let text = unsafe { CStr::from_ptr(*arguments.add(index)) };
            let (key, value) = text.to_str().ok()?.split_once('=')?;
            (key == name).then(|| value.to_owned())
        })
    };
    let address = |name| argument(name)?.parse().ok();
    let (Some(begin), Some(end), Some(out)) = (address("begin"), address("end"), argument("out"))
    else {
        eprintln!("the arguments are begin=ADDRESS,end=ADDRESS,out=FILE");
        return -1;
    };
    BEGIN.store(begin, Ordering::Relaxed);
    END.store(end, Ordering::Relaxed);
    let seen = Seen {
        lines: HashMap::new(),
        cpus: 0,
        out: out.into(),
    };
    *SEEN.lock().unwrap_or_else(|e| e.into_inner()) = Some(seen);
    // SAFETY: the identifier is that of this plugin, and the function stays.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, translated) };
    0
}
