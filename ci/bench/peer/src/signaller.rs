//! Raises the interrupt of [`bench_guest::arch::INTERRUPT`] from outside of the vCPU: in threads of their own.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use bench_guest::place;

use crate::kvm::Vm;
use crate::linux::{self, File, Memory, Priority, Result};
use crate::{arch, print_line};

/// From the request until the interrupt: the guest runs again long before that.
const DELAY_NS: i64 = 100_000;

/// 1: an interrupt is asked for.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// The machine that gets an interrupt whenever its vCPU 0 halts: the number of its file; 0: none.
static WAKING: AtomicU32 = AtomicU32::new(0);
/// The machine that asks: the number of its file.
static VM: AtomicU32 = AtomicU32::new(0);
/// Where the guest looks for the time.
static STAMP: AtomicPtr<u64> = AtomicPtr::new(ptr::null_mut());
/// How far the guest's counter is behind.
static LAG: AtomicU64 = AtomicU64::new(0);

/// Starts the threads.
pub fn start() -> Result {
    linux::start_thread(answer_requests, 0, Priority::High)?;
    // It runs when the guest does not.
    linux::start_thread(wake, 0, Priority::Idle)
}

/// From now on requests are those of this machine, whose counter is `lag` behind.
pub fn serve(vm: Vm, ram: Memory, lag: u64) {
    let stamp = ram.at(place::STAMP - place::RAM.start);
    VM.store(vm.file.number(), Ordering::Relaxed);
    STAMP.store(stamp, Ordering::Relaxed);
    LAG.store(lag, Ordering::Relaxed);
}

/// Asks for an interrupt while the guest runs.
pub fn ask() -> Result {
    linux::wake(&ASKED, 1)
}

/// From now on ends the halts of this machine, or of none.
pub fn end_halts(vm: Option<Vm>) -> Result {
    linux::wake(&WAKING, vm.map_or(0, |vm| vm.file.number()))
}

/// The machine of a file.
fn vm(number: u32) -> Vm {
    Vm { file: File::from_number(number) }
}

extern "C" fn answer_requests(_argument: usize) -> ! {
    repeat(|| {
        linux::wait_for(&ASKED)?;
        ASKED.store(0, Ordering::Relaxed);
        linux::sleep(DELAY_NS)?;
        let vm = vm(VM.load(Ordering::Relaxed));
        let lag = LAG.load(Ordering::Relaxed);
        let stamp = STAMP.load(Ordering::Relaxed);
        // SAFETY: a word of a guest's RAM, which is never unmapped and which no Rust reference points to.
        unsafe { stamp.write_volatile(arch::counter().wrapping_sub(lag)) };
        arch::interrupt(vm)
    })
}

extern "C" fn wake(_argument: usize) -> ! {
    repeat(|| arch::interrupt(vm(linux::wait_for(&WAKING)?)))
}

/// Does something for ever.
fn repeat(mut once: impl FnMut() -> Result) -> ! {
    loop {
        if let Err(failure) = once() {
            print_line!("peer: interrupting the guest: {failure}");
            linux::power_off();
        }
    }
}
