//! Interrupt lines: a signal is delivered once until it is acknowledged.
//!
//! A level-triggered line is held from delivery to acknowledgement. Where holding is masking, an edge-triggered one must not be, as an
//! edge that meets the mask is lost: it is masked when a second edge comes before the acknowledgement, which then signals once
//! more. An interrupt controller that keeps edges while it holds a line (GIC: a line that is active) holds all.

use crate::arch;
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::notification::{self, Notification};
use crate::object::{Header, Object};
use crate::slot::Tree;
use crate::space::Progress;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU32, Ordering};
use abi::Status;
use abi::cap::Kind;
use abi::syscall::TriggerMode;

pub use crate::arch::layout::MAX_LINES;

#[derive(Clone, Copy)]
struct Binding {
    notification: Ref<Notification>,
    bits: u64,
}

/// What a line is doing. One lock for all of it: delivery and acknowledgement may be on different CPUs.
struct Line {
    binding: Option<Binding>,
    /// Delivery holds it.
    held: bool,
    /// Signalled and not acknowledged.
    pending: bool,
    /// An edge came while it was pending.
    again: bool,
}

impl Line {
    const NEW: Line = Line {
        binding: None,
        held: false,
        pending: false,
        again: false,
    };
}

/// An interrupt line.
#[repr(C, align(64))]
pub struct Interrupt {
    /// Common part.
    pub header: Header,
    state: TicketMutex<Line>,
    /// Number of the next line of its notification, plus one, or 0.
    next: AtomicU32,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for Interrupt {
    const KIND: Kind = Kind::Interrupt;
}

impl Interrupt {
    const fn new() -> Interrupt {
        Interrupt {
            header: Header::fixed(Kind::Interrupt),
            state: TicketMutex::new(Line::NEW),
            next: AtomicU32::new(0),
        }
    }
}

static LINES: [Interrupt; MAX_LINES] = [const { Interrupt::new() }; MAX_LINES];

impl Interrupt {
    /// Global number of the line: its place in the table.
    fn line(&self) -> u32 {
        let offset = self as *const Interrupt as usize - LINES.as_ptr() as usize;
        (offset / size_of::<Interrupt>()) as u32
    }
}

/// The line `line`, if the kernel handles it.
pub fn line(line: u32) -> Option<Ref<Interrupt>> {
    LINES.get(line as usize).map(Ref::from_static)
}

/// Binds a line to the bits of a notification and unmasks it.
pub fn bind(
    _tree: &Tree,
    interrupt: Ref<Interrupt>,
    notification: Ref<Notification>,
    bits: u64,
    mode: TriggerMode,
) -> Result<(), Status> {
    let mut state = interrupt.state.lock();
    if state.binding.is_some() {
        return Err(Status::Busy);
    }
    let held = arch::interrupt_route(interrupt.line(), mode)?;
    let binding = Some(Binding { notification, bits });
    *state = Line {
        binding,
        held,
        pending: false,
        again: false,
    };
    let first = notification
        .lines
        .swap(interrupt.line() + 1, Ordering::Relaxed);
    interrupt.next.store(first, Ordering::Relaxed);
    arch::interrupt_unmask(interrupt.line());
    Ok(())
}

/// Says that the signal was handled: the next one may come.
pub fn acknowledge(cpu: &Cpu, interrupt: Ref<Interrupt>) {
    let binding = {
        let mut state = interrupt.state.lock();
        if !state.pending {
            return;
        }
        // An edge that came meanwhile is signalled now, and pending.
        state.pending = core::mem::take(&mut state.again);
        if state.held {
            arch::interrupt_release(interrupt.line());
        } else if state.pending {
            arch::interrupt_unmask(interrupt.line());
        }
        state.binding.filter(|_| state.pending)
    };
    signal(cpu, binding);
}

/// A line has fired.
pub fn deliver(cpu: &Cpu, line: u32) {
    cpu.interrupted(|_| deliver_line(cpu, line));
}

fn deliver_line(cpu: &Cpu, line: u32) {
    let Some(interrupt) = LINES.get(line as usize) else {
        return;
    };
    let binding = {
        let mut state = interrupt.state.lock();
        let before = core::mem::replace(&mut state.pending, true);
        if state.held {
            arch::interrupt_hold(line);
        } else if before {
            state.again = true;
            arch::interrupt_mask(line);
            return;
        }
        state.binding
    };
    signal(cpu, binding);
}

fn signal(cpu: &Cpu, binding: Option<Binding>) {
    if let Some(binding) = binding {
        notification::signal(cpu, binding.notification, binding.bits);
    }
}

/// Lines that are taken from a notification at once.
const BATCH: usize = 8;

/// Takes a batch of lines from `notification`, which is about to end and gets no new ones: they are masked.
pub fn forget(notification: Ref<Notification>) -> Progress {
    for _ in 0..BATCH {
        let first = notification.lines.load(Ordering::Relaxed);
        let Some(interrupt) = first.checked_sub(1).and_then(line) else {
            return Progress::Done;
        };
        let next = interrupt.next.load(Ordering::Relaxed);
        notification.lines.store(next, Ordering::Relaxed);
        // Under the lock: from then on others may bind it, and unmask it.
        let mut state = interrupt.state.lock();
        *state = Line::NEW;
        arch::interrupt_mask(interrupt.line());
    }
    Progress::Again
}

/// All lines as at boot.
#[cfg(test)]
pub fn reset() {
    for interrupt in &LINES {
        *interrupt.state.lock() = Line::NEW;
    }
}
