//! When is it certain that no CPU uses an unlinked object or a stale translation any more?
//!
//! An *epoch* ends for a CPU when it has been outside the kernel, with its translations flushed, since
//! the epoch began: the CPU is interrupted, and because the kernel runs with interrupts off,
//! taking that interrupt means that nothing found before is held. Nobody waits inside the kernel: a
//! system call that needs the end of an epoch restarts until it is there.
//!
//! Who takes something back says first who has to pass the next epoch: every CPU, of what any of them may have found
//! in the kernel ([`unlinked`]); those that can hold a translation, of memory ([`stale`]). Only they are
//! interrupted and waited for. What was said stays until they have passed, whoever began the epoch: so a revocation
//! waits for what an unfinished one before it took back.

use crate::cpu::{self, Cpu};
use crate::sync::atomic::{AtomicU64, Ordering};

static CURRENT: AtomicU64 = AtomicU64::new(0);
/// The last epoch that every CPU has to pass.
static UNLINKED: AtomicU64 = AtomicU64::new(0);

/// An epoch, and who had to pass it when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    epoch: u64,
    /// A bit for each CPU.
    cpus: u64,
}

impl Round {
    /// What nobody has to pass.
    pub const NOBODY: Round = Round { epoch: 0, cpus: 0 };
}

const _: () = assert!(abi::boot::MAX_CPUS <= u64::BITS as usize);

/// The number of an epoch that has not begun yet. It is written, not only read: so whoever passes that epoch sees what was
/// taken back before, which a processor may otherwise hold back until it has read.
fn next() -> u64 {
    CURRENT.fetch_add(0, Ordering::SeqCst) + 1
}

/// What was unlinked before this call may have been found by any CPU. Returns the epoch after which it is
/// unused.
#[inline(never)]
pub fn unlinked() -> u64 {
    let epoch = next();
    UNLINKED.fetch_max(epoch, Ordering::SeqCst);
    epoch
}

/// The CPUs in the mask `cpus` may hold translations or I/O permissions that were taken back before this call.
pub fn stale(cpus: u64) {
    let epoch = next();
    for cpu in cpu::all().filter(|cpu| cpus & 1 << cpu.index != 0) {
        cpu.stale.fetch_max(epoch, Ordering::SeqCst);
    }
}

/// Whether `cpu` has to pass an epoch.
pub fn is_behind(cpu: &Cpu) -> bool {
    let last = cpu.stale.load(Ordering::SeqCst);
    cpu.epoch.load(Ordering::SeqCst) < last.max(UNLINKED.load(Ordering::SeqCst))
}

/// Begins an epoch and asks those who have to pass it.
pub fn begin() -> Round {
    let epoch = CURRENT.fetch_add(1, Ordering::SeqCst) + 1;
    let me = cpu::current();
    let mut cpus = 0;
    for cpu in cpu::all().filter(|cpu| is_behind(cpu)) {
        cpus |= 1 << cpu.index;
        // Passing the one before, as it may do at this moment, is not enough.
        cpu.stale.fetch_max(epoch, Ordering::SeqCst);
        if cpu.index != me.index {
            cpu.interrupt();
        }
    }
    // What was posted here may end with this epoch: an interrupt is on its way, which takes it out first.
    let now = CURRENT.load(Ordering::SeqCst);
    if me.is_inbox_empty() {
        pass(me, now);
    }
    Round { epoch, cpus }
}

/// The epoch that began last.
pub fn current() -> u64 {
    CURRENT.load(Ordering::SeqCst)
}

/// Says that `me`, this CPU, holds nothing that it found before `epoch`, and has done what others asked for until then.
/// Called where that is true: after the interrupt that [`begin`] sends.
pub fn pass(me: &Cpu, epoch: u64) {
    if is_behind(me) {
        crate::arch::flush_translations(me);
        me.epoch.store(epoch, Ordering::SeqCst);
    }
}

/// Whether all that had to have passed.
pub fn is_over(round: Round) -> bool {
    cpu::all()
        .filter(|cpu| round.cpus & 1 << cpu.index != 0)
        .all(|cpu| cpu.epoch.load(Ordering::SeqCst) >= round.epoch)
}

/// Whether every CPU has passed `epoch`, from [`unlinked`].
pub fn is_unused(epoch: u64) -> bool {
    cpu::all().all(|cpu| cpu.epoch.load(Ordering::SeqCst) >= epoch)
}

/// Forgets what was marked: the world it was part of is gone.
#[cfg(test)]
pub fn reset() {
    CURRENT.store(0, Ordering::SeqCst);
    UNLINKED.store(0, Ordering::SeqCst);
}

/// What brings the epochs back to where they are.
#[cfg(test)]
pub fn save() -> impl Fn() {
    let saved = [&CURRENT, &UNLINKED].map(|number| (number, number.load(Ordering::SeqCst)));
    move || {
        for (number, value) in saved {
            number.store(value, Ordering::SeqCst);
        }
    }
}
