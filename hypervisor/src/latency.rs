//! How long interrupts stay off: with the feature `latency`, the kernel notes the counter where it is entered and where
//! it leaves or takes interrupts, and prints each new longest stretch of a way through it on the debug UART.
//!
//! Meant for one CPU whose counter counts instructions. The assembly before the first and after the last look at the
//! counter is not in the figures: some 50 instructions each, on x86 up to 130 before an exit's and 80 after an entry's. What goes
//! through the fast paths alone is not either: it is shorter than that.

use abi::vcpu::ExitKind;

/// What the kernel was entered for, or found to have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The system call of this number.
    SystemCall(u8),
    /// The processor's exception of this number in a thread.
    Exception(u8),
    /// An exit of a guest that its monitor is told.
    Exit(ExitKind),
    /// An exit of a guest that the kernel handles itself.
    Guest,
    /// The timer.
    Timer,
    /// Another CPU's work for this one.
    Inbox,
    /// A device.
    Line,
    /// A run of `Revoke` or `Delete` that frees memory.
    Reclaim,
    /// What remains after a preemption point or an idle time.
    Preempted,
}

/// The kernel was entered: a stretch begins.
#[inline(always)]
pub fn enter(path: Path) {
    #[cfg(all(feature = "latency", target_os = "none"))]
    measured::enter(path);
    let _ = path;
}

/// The stretch turns out to be one of `path`.
#[inline(always)]
pub fn is(path: Path) {
    #[cfg(all(feature = "latency", target_os = "none"))]
    measured::is(path);
    let _ = path;
}

/// The kernel leaves, or lets pending interrupts in: the stretch ends.
#[inline(always)]
pub fn leave() {
    #[cfg(all(feature = "latency", target_os = "none"))]
    measured::leave();
}

#[cfg(all(feature = "latency", target_os = "none"))]
mod measured {
    use super::Path;
    use crate::{arch, log};
    use abi::text::Dec;
    use core::fmt;
    use core::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

    /// Stretches of up to so many ticks are not worth a line.
    const SHORT: u64 = 1000;
    /// Kinds of ways, by [`Path::code`].
    const KINDS: usize = 1 << 10;

    static BEGIN: AtomicU64 = AtomicU64::new(0);
    static CODE: AtomicU16 = AtomicU16::new(0);
    static LONGEST: [AtomicU64; KINDS] = [const { AtomicU64::new(SHORT) }; KINDS];

    impl Path {
        /// Kind in bits 8 and 9, number below.
        fn code(self) -> u16 {
            let (kind, number) = match self {
                Path::SystemCall(number) => (0, number),
                Path::Exception(number) => (1, number),
                Path::Exit(kind) => (2, kind as u8),
                Path::Guest => (3, 0),
                Path::Timer => (3, 1),
                Path::Inbox => (3, 2),
                Path::Line => (3, 3),
                Path::Preempted => (3, 4),
                Path::Reclaim => (3, 5),
            };
            kind << 8 | u16::from(number)
        }
    }

    /// A code for people.
    struct Name(u16);

    impl fmt::Display for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            let number = self.0 as u8;
            match (self.0 >> 8, number) {
                (0, _) => match abi::Op::from_code(number) {
                    Some(op) => f.write_str(op.name()),
                    None => f.write_str("unknown system call"),
                },
                (1, _) => write!(f, "exception {}", Dec(number.into())),
                (2, _) => write!(f, "exit {}", Dec(number.into())),
                (_, 0) => f.write_str("exit of the kernel's own"),
                (_, 1) => f.write_str("timer"),
                (_, 2) => f.write_str("inbox"),
                (_, 3) => f.write_str("device"),
                (_, 4) => f.write_str("after a preemption point"),
                _ => f.write_str("freeing of memory"),
            }
        }
    }

    pub fn enter(path: Path) {
        is(path);
        BEGIN.store(arch::now(), Relaxed);
    }

    pub fn is(path: Path) {
        CODE.store(path.code(), Relaxed);
    }

    pub fn leave() {
        let now = arch::now();
        let (begin, code) = (BEGIN.swap(0, Relaxed), CODE.load(Relaxed));
        // Nothing has begun before the first entry: the boot.
        let took = if begin == 0 { 0 } else { now - begin };
        if took > LONGEST[usize::from(code) % KINDS].load(Relaxed) {
            LONGEST[usize::from(code) % KINDS].store(took, Relaxed);
            log::print(format_args!("\nlatency: {} {}\n", Dec(took), Name(code)));
        }
    }
}
