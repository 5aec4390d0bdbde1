//! Raises the interrupt that a guest asks for, from outside of its vCPU: a thread that waits to be asked.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bench_guest::place;

use crate::kvm::Vm;
use crate::linux::{self, File, Memory, Result};
use crate::{arch, print_line};

/// From the request until the interrupt: the guest runs, or halts, long before that. KVM waits actively for up to 0.5 ms before it
/// believes that a vCPU halts.
const DELAY_NS: i64 = 1_000_000;

/// 1: an interrupt is asked for.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// The machine that gets it: the number of its file.
static VM: AtomicUsize = AtomicUsize::new(0);
/// Where the guest looks for the time.
static STAMP: AtomicPtr<u64> = AtomicPtr::new(ptr::null_mut());
/// How far the guest's counter is behind.
static LAG: AtomicU64 = AtomicU64::new(0);

/// Starts the thread.
pub fn start() -> Result {
    linux::start_thread(run, 0)
}

/// From now on it interrupts this machine, whose counter is `lag` behind.
pub fn serve(vm: Vm, ram: Memory, lag: u64) {
    VM.store(vm.file.number() as usize, Ordering::Relaxed);
    STAMP.store(ram.at(place::STAMP - place::RAM.start), Ordering::Relaxed);
    LAG.store(lag, Ordering::Relaxed);
}

/// Asks for an interrupt.
pub fn ask() -> Result {
    linux::wake(&ASKED)
}

extern "C" fn run(_argument: usize) -> ! {
    loop {
        if let Err(failure) = answer() {
            print_line!("peer: interrupting the guest: {failure}");
            linux::power_off();
        }
    }
}

/// Waits for a request, and does it.
fn answer() -> Result {
    linux::wait_for(&ASKED)?;
    linux::sleep(DELAY_NS)?;
    let vm = Vm {
        file: File::from_number(VM.load(Ordering::Relaxed)),
    };
    let stamp = STAMP.load(Ordering::Relaxed);
    let lag = LAG.load(Ordering::Relaxed);
    // SAFETY: a word of a guest's RAM, which is never unmapped and which no Rust reference points to.
    unsafe { stamp.write_volatile(arch::counter().wrapping_sub(lag)) };
    arch::interrupt(vm)
}
