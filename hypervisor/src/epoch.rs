//! When is it certain that no CPU uses an unlinked object or a stale translation any more?
//!
//! An *epoch* ends when every CPU has been outside the kernel, with its translations flushed, since
//! the epoch began: each CPU is interrupted, and because the kernel runs with interrupts off,
//! taking that interrupt means that nothing found before is held. Nobody waits inside the kernel: a
//! system call that needs the end of an epoch restarts until it is there.

use crate::cpu::{self, Cpu};
use core::sync::atomic::{AtomicU64, Ordering};

static CURRENT: AtomicU64 = AtomicU64::new(0);

/// Begins an epoch and asks all CPUs to pass it. Returns its number, never 0.
pub fn begin() -> u64 {
    let epoch = CURRENT.fetch_add(1, Ordering::SeqCst) + 1;
    let me = cpu::current();
    for other in cpu::all() {
        if other.index != me.index {
            other.interrupt();
        }
    }
    // What was posted here may end with this epoch: an interrupt is on its way, which takes it out first.
    let now = CURRENT.load(Ordering::SeqCst);
    if me.is_inbox_empty() {
        quiesce(me, now);
    }
    epoch
}

/// The epoch that began last.
pub fn current() -> u64 {
    CURRENT.load(Ordering::SeqCst)
}

/// Says that `me`, this CPU, holds nothing that it found before `epoch`, and has done what others asked for until then.
/// Called where that is true: after the interrupt that [`begin`] sends.
pub fn pass(me: &Cpu, epoch: u64) {
    if me.epoch.load(Ordering::Relaxed) != epoch {
        quiesce(me, epoch);
    }
}

fn quiesce(me: &Cpu, epoch: u64) {
    crate::arch::flush_translations(me);
    me.epoch.store(epoch, Ordering::SeqCst);
}

/// Whether all CPUs have passed `epoch`.
pub fn is_over(epoch: u64) -> bool {
    cpu::all().all(|cpu| cpu.epoch.load(Ordering::SeqCst) >= epoch)
}

/// The number of an epoch that has not begun yet: what is unlinked now is unused when it is over.
pub fn next() -> u64 {
    CURRENT.load(Ordering::SeqCst) + 1
}
