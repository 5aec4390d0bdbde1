//! The end of the system: its last words, then the machine's power.
use crate::root::{Root, bits};
use rt::arch;
use rt::syscall::Deadline;

/// How long console servers may take to write what they hold, in milliseconds.
const FLUSH_MS: u64 = 2000;
/// What a UART's FIFO may take after that.
const DRAIN_MS: u64 = 3;

/// Lets console servers finish, and switches the machine off.
pub fn off(root: &mut Root, consoles: usize, last_resort: impl FnOnce()) -> ! {
    // What console servers signalled before does not count.
    root.wait(Deadline::POLL);
    log::info!("powering off");
    let deadline = Deadline::after(root.ticks(FLUSH_MS));
    if consoles > 0 {
        while root.wait(deadline) & bits::IDLE == 0 && arch::counter() < deadline.0 {}
        let drained = Deadline::after(root.ticks(DRAIN_MS));
        while arch::counter() < drained.0 {
            root.wait(drained);
        }
    }
    last_resort();
    crate::arch::power_off(root);
    log::error!("the machine can be switched off now");
    loop {
        root.wait(Deadline::NEVER);
    }
}
