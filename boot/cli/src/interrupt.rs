//! Ctrl-C and other requests to stop: a flag that every wait looks at.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The user asked to stop. The command then exits with [`Interrupted::STATUS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

impl Interrupted {
    /// Exit status: that of a program that a Ctrl-C ended.
    pub const STATUS: u8 = 130;
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted; everything that was started has been ended")
    }
}

impl std::error::Error for Interrupted {}

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on, the signals that ask a program to stop set the flag instead of ending it.
pub fn catch() {
    let flag = FLAG.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        // Registering fails only for signals that cannot be caught.
        let _ = signal_hook::flag::register(signal, Arc::clone(flag));
    }
}

/// Fails if the user asked to stop.
pub fn check() -> Result<(), Interrupted> {
    match FLAG.get() {
        Some(flag) if flag.load(Ordering::Relaxed) => Err(Interrupted),
        _ => Ok(()),
    }
}
