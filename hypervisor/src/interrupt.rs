//! Interrupt lines: a signal is delivered once until it is acknowledged.
//!
//! A level-triggered line is held from delivery to acknowledgement. Where holding is masking, an edge-triggered one must not be, as an
//! edge that meets the mask is lost: it is masked when a second edge comes before the acknowledgement, which then signals once
//! more. An interrupt controller that keeps edges while it holds a line (GIC: a line that is active) holds all.

use crate::arch;
use crate::binding::Target;
use crate::cpu::Cpu;
use crate::notification;
use crate::slot::CapWord;
use crate::sync::TicketMutex;
use abi::Status;
use abi::cap::{Kind, Rights};
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

static LINES: [TicketMutex<Line>; MAX_LINES] = [const { TicketMutex::new(Line::NEW) }; MAX_LINES];

/// What a capability to line `line` holds: no address of an object, but the number in its place.
pub fn capability(line: u32) -> CapWord {
    CapWord::new(Kind::Interrupt, Rights::all(), u64::from(line) << 6)
}

/// The line that a capability is to which holds `address`.
#[inline(always)]
pub fn line(address: u64) -> u32 {
    (address >> 6) as u32
}

/// Has a line signal `target`, and unmasks it.
pub fn bind(line: u32, target: Target, mode: TriggerMode) -> Result<(), Status> {
    let mut state = LINES[line as usize].lock();
    if state.binding.is_some() {
        return Err(Status::Busy);
    }
    let held = arch::interrupt_route(line, mode)?;
    *state = Line { binding: Some(target), held, pending: false, again: false };
    arch::interrupt_unmask(line);
    Ok(())
}

/// Says that the signal was handled: the next one may come.
pub fn acknowledge(cpu: &Cpu, line: u32) {
    let binding = {
        let mut state = LINES[line as usize].lock();
        if !state.pending {
            return;
        }
        // An edge that came meanwhile is signalled now, and pending.
        state.pending = core::mem::take(&mut state.again);
        if state.held {
            arch::interrupt_release(line);
        } else if state.pending {
            arch::interrupt_unmask(line);
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
    let Some(state) = LINES.get(line as usize) else {
        return;
    };
    let binding = {
        let mut state = state.lock();
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
pub fn unbind(line: u32) {
    // Others bind it, and unmask it, only when the tree is theirs.
    let mut state = LINES[line as usize].lock();
    *state = Line::NEW;
    arch::interrupt_mask(line);
}

/// All lines as at boot.
#[cfg(test)]
pub fn reset() {
    for line in &LINES {
        *line.lock() = Line::NEW;
    }
}
