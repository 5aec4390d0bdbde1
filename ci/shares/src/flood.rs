//! Who takes all that it can get.

use abi::Selector;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::syscall::{self, Deadline};

use crate::measure::{BELL, ECHO_PORTAL, OVERRUN, SILENCE};

/// How often [`count`] went round.
pub static TURNS: AtomicU64 = AtomicU64::new(0);
/// How many overruns [`count_overruns`] was told.
pub static OVERRUNS: AtomicU64 = AtomicU64::new(0);

/// A thread's function.
pub type Entry = extern "C" fn() -> !;

/// Counts its turns.
pub extern "C" fn count() -> ! {
    loop {
        TURNS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts the overruns that it is told.
pub extern "C" fn count_overruns() -> ! {
    loop {
        if syscall::wait(OVERRUN, Deadline::NEVER).is_ok() {
            OVERRUNS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Spins.
pub extern "C" fn spin() -> ! {
    static NOISE: AtomicU64 = AtomicU64::new(0);
    loop {
        NOISE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Calls somebody who has no time of its own.
pub extern "C" fn call() -> ! {
    loop {
        let _ = rt::ipc::call(ECHO_PORTAL, [0; 8]);
    }
}

/// Signals somebody who waits.
pub extern "C" fn signal() -> ! {
    loop {
        let _ = syscall::signal(BELL);
    }
}

/// Waits for signals.
pub extern "C" fn answer() -> ! {
    loop {
        let _ = syscall::wait(BELL, Deadline::NEVER);
    }
}

/// Has the timer interrupt whoever runs.
pub extern "C" fn interrupt() -> ! {
    wait_for_moments(SILENCE)
}

/// The same, with a notification of its own.
pub extern "C" fn interrupt_too() -> ! {
    wait_for_moments(SILENCE.offset(1))
}

fn wait_for_moments(silence: Selector) -> ! {
    loop {
        let _ = syscall::wait(silence, Deadline::after(1));
    }
}
