//! The global allocator.
use core::sync::atomic::{AtomicBool, Ordering};
use talc::lock_api::{GuardSend, RawMutex};

/// Attempts after which a lock holder is taken to be preempted by the thread that waits for it.
const PATIENCE: u32 = 100_000_000;

/// A spin lock that panics instead of hanging for ever: threads of one CPU preempt each other, and one
/// that spins keeps a holder of lower priority from running (see [`crate::handler`]).
pub struct ImpatientLock(AtomicBool);

// SAFETY: the flag is taken by one owner at a time, with acquire and release ordering.
unsafe impl RawMutex for ImpatientLock {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: ImpatientLock = ImpatientLock(AtomicBool::new(false));
    type GuardMarker = GuardSend;

    fn lock(&self) {
        for _ in 0..PATIENCE {
            if self.try_lock() {
                return;
            }
            core::hint::spin_loop();
        }
        // The panic message must not allocate: it does not.
        panic!("heap: the lock's holder does not run");
    }

    fn try_lock(&self) -> bool {
        !self.0.swap(true, Ordering::Acquire)
    }

    unsafe fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

/// The allocator; empty until [`claim`].
pub type Heap = talc::TalcLock<ImpatientLock, talc::source::Manual>;

#[cfg(target_os = "none")]
#[global_allocator]
static HEAP: Heap = Heap::new(talc::source::Manual);

/// Gives the allocator memory. Returns whether it could use it.
///
/// # Safety
/// The range is mapped writable and used by nothing else, for ever.
#[cfg(target_os = "none")]
pub unsafe fn claim(address: u64, size: u64) -> bool {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().claim(address as *mut u8, size as usize) }.is_some()
}
