//! Interrupt lines: a signal is delivered once until it is acknowledged.
//!
//! A level-triggered line is held from delivery to acknowledgement. Where holding is masking, an edge-triggered one must not be, as an
//! edge that meets the mask is lost: it is masked when a second edge comes before the acknowledgement, which then signals once
//! more. An interrupt controller that keeps edges while it holds a line (GIC: a line that is active) holds all.

use crate::arch;
use crate::binding::Target;
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::notification;
use crate::object::{Header, Object};
use crate::sync::TicketMutex;
use abi::Status;
use abi::cap::Kind;
use abi::syscall::TriggerMode;

pub use crate::arch::layout::MAX_LINES;

/// What a line is doing. One lock for all of it: delivery and acknowledgement may be on different CPUs.
struct Line {
    binding: Option<Target>,
    /// Delivery holds it.
    held: bool,
    /// Signalled and not acknowledged.
    pending: bool,
    /// An edge came while it was pending.
    again: bool,
}

impl Line {
    const NEW: Line = Line { binding: None, held: false, pending: false, again: false };
}

/// An interrupt line.
#[repr(C, align(64))]
pub struct Interrupt {
    /// Common part.
    pub header: Header,
    state: TicketMutex<Line>,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for Interrupt {
    const KIND: Kind = Kind::Interrupt;
}

impl Interrupt {
    const fn new() -> Interrupt {
        Interrupt { header: Header::fixed(Kind::Interrupt), state: TicketMutex::new(Line::NEW) }
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

/// Has a line signal `target`, and unmasks it.
pub fn bind(interrupt: Ref<Interrupt>, target: Target, mode: TriggerMode) -> Result<(), Status> {
    let mut state = interrupt.state.lock();
    if state.binding.is_some() {
        return Err(Status::Busy);
    }
    let held = arch::interrupt_route(interrupt.line(), mode)?;
    *state = Line { binding: Some(target), held, pending: false, again: false };
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

fn signal(cpu: &Cpu, binding: Option<Target>) {
    if let Some(binding) = binding {
        notification::signal(cpu, binding.notification, binding.bits);
    }
}

/// Has a line signal nothing: it is masked.
pub fn unbind(interrupt: Ref<Interrupt>) {
    // Others bind it, and unmask it, only when the tree is theirs.
    let mut state = interrupt.state.lock();
    *state = Line::NEW;
    arch::interrupt_mask(interrupt.line());
}

/// All lines as at boot.
#[cfg(test)]
pub fn reset() {
    for interrupt in &LINES {
        *interrupt.state.lock() = Line::NEW;
    }
}
