//! Raises the interrupt of [`bench_guest::arch::INTERRUPT`] from outside of the vCPU: in threads of their own.

use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bench_guest::place;

use crate::kvm::Vm;
use crate::linux::{self, File, Memory, Priority, Result};
use crate::{arch, print_line};

/// From the request until the interrupt: the guest runs again long before that.
const DELAY_NS: i64 = 100_000;

/// 1: an interrupt is asked for.
static ASKED: AtomicU32 = AtomicU32::new(0);
/// 1: whenever vCPU 0 halts, it gets an interrupt.
static WAKING: AtomicU32 = AtomicU32::new(0);
/// The machine that gets them: the number of its file.
static VM: AtomicUsize = AtomicUsize::new(0);
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

/// From now on this machine, whose counter is `lag` behind, gets the interrupts.
pub fn serve(vm: Vm, ram: Memory, lag: u64) {
    let stamp = ram.at(place::STAMP - place::RAM.start);
    VM.store(vm.file.number() as usize, Ordering::Relaxed);
    STAMP.store(stamp, Ordering::Relaxed);
    LAG.store(lag, Ordering::Relaxed);
}

/// Asks for an interrupt while the guest runs.
pub fn ask() -> Result {
    linux::wake(&ASKED)
}

/// Starts to end halts, or stops that.
pub fn end_halts(on: bool) -> Result {
    match on {
        true => linux::wake(&WAKING),
        false => {
            WAKING.store(0, Ordering::Relaxed);
            Ok(())
        }
    }
}

/// The machine that gets interrupts.
fn vm() -> Vm {
    Vm {
        file: File::from_number(VM.load(Ordering::Relaxed)),
    }
}

extern "C" fn answer_requests(_argument: usize) -> ! {
    repeat(|| {
        linux::wait_for(&ASKED)?;
        ASKED.store(0, Ordering::Relaxed);
        linux::sleep(DELAY_NS)?;
        let (vm, lag) = (vm(), LAG.load(Ordering::Relaxed));
        let stamp = STAMP.load(Ordering::Relaxed);
        // SAFETY: a word of a guest's RAM, which is never unmapped and which no Rust reference points to.
        unsafe { stamp.write_volatile(arch::counter().wrapping_sub(lag)) };
        arch::interrupt(vm)
    })
}

extern "C" fn wake(_argument: usize) -> ! {
    repeat(|| {
        // First, so that an interrupt that comes late is not the next machine's.
        let vm = vm();
        linux::wait_for(&WAKING)?;
        arch::interrupt(vm)
    })
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
