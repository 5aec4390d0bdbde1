//! Interrupt lines: a signal is delivered once until it is acknowledged.
//!
//! A level-triggered line is masked from delivery to acknowledgement. An edge-triggered one must not be, as an edge
//! that meets the mask is lost: it is masked when a second edge comes before the acknowledgement, which
//! then signals once more.

use crate::arch;
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::notification::{self, Notification};
use crate::object::{Header, Object};
use abi::Status;
use abi::cap::Kind;
use abi::syscall::TriggerMode;
use core::sync::atomic::{AtomicBool, Ordering};
use spin::mutex::TicketMutex;

/// Most interrupt lines that the kernel handles.
pub const MAX_LINES: usize = 120;

#[derive(Clone, Copy)]
struct Binding {
    notification: Ref<Notification>,
    bits: u64,
}

/// An interrupt line.
#[repr(C, align(64))]
pub struct Interrupt {
    /// Common part.
    pub header: Header,
    binding: TicketMutex<Option<Binding>>,
    level: AtomicBool,
    pending: AtomicBool,
    again: AtomicBool,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for Interrupt {
    const KIND: Kind = Kind::Interrupt;
}

impl Interrupt {
    const fn new() -> Interrupt {
        Interrupt {
            header: Header::fixed(Kind::Interrupt),
            binding: TicketMutex::new(None),
            level: AtomicBool::new(false),
            pending: AtomicBool::new(false),
            again: AtomicBool::new(false),
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
    interrupt: Ref<Interrupt>,
    notification: Ref<Notification>,
    bits: u64,
    mode: TriggerMode,
) -> Result<(), Status> {
    {
        let mut binding = interrupt.binding.lock();
        if binding.is_some() {
            return Err(Status::Busy);
        }
        *binding = Some(Binding { notification, bits });
    }
    let level = arch::interrupt_route(interrupt.line(), mode)?;
    interrupt.level.store(level, Ordering::Release);
    arch::interrupt_unmask(interrupt.line());
    Ok(())
}

/// Says that the signal was handled: the next one may come.
pub fn acknowledge(cpu: &Cpu, interrupt: Ref<Interrupt>) {
    if !interrupt.pending.swap(false, Ordering::AcqRel) {
        return;
    }
    if interrupt.level.load(Ordering::Relaxed) {
        arch::interrupt_unmask(interrupt.line());
    } else if interrupt.again.swap(false, Ordering::AcqRel) {
        arch::interrupt_unmask(interrupt.line());
        signal(cpu, &interrupt);
    }
}

/// A line has fired.
pub fn deliver(cpu: &Cpu, line: u32) {
    let Some(interrupt) = LINES.get(line as usize) else { return };
    let before = interrupt.pending.swap(true, Ordering::AcqRel);
    if interrupt.level.load(Ordering::Relaxed) {
        arch::interrupt_mask(line);
    } else if before {
        interrupt.again.store(true, Ordering::Release);
        arch::interrupt_mask(line);
        return;
    }
    signal(cpu, interrupt);
}

fn signal(cpu: &Cpu, interrupt: &Interrupt) {
    let binding = *interrupt.binding.lock();
    if let Some(binding) = binding {
        interrupt.pending.store(true, Ordering::Release);
        notification::signal(cpu, binding.notification, binding.bits);
    }
}

/// Forgets `notification`, which is about to end: its lines are masked.
pub fn forget(notification: Ref<Notification>) {
    for interrupt in &LINES {
        let mut binding = interrupt.binding.lock();
        if binding.is_some_and(|b| b.notification == notification) {
            *binding = None;
            arch::interrupt_mask(interrupt.line());
        }
    }
}

/// All lines as at boot.
#[cfg(test)]
pub fn reset() {
    for interrupt in &LINES {
        *interrupt.binding.lock() = None;
        interrupt.level.store(false, Ordering::Relaxed);
        interrupt.pending.store(false, Ordering::Relaxed);
        interrupt.again.store(false, Ordering::Relaxed);
    }
}
