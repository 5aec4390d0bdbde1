//! Starting the other CPUs, by PSCI CPU_ON.

use super::boot::ap_entry;
use super::firmware::psci;
use super::sysreg::read;
use super::{clock, layout};
use crate::addr::{HostPhys, HostVirt};
use crate::cpu;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What the entry code gives to the CPU that is being started.
#[repr(C, align(64))]
pub(super) struct Handover {
    /// Top of its stack; the CPU takes it, leaving 0.
    pub stack: AtomicU64,
    /// Physical address of its tables' root.
    pub page_tables: AtomicU64,
    /// Number of the attempt, which nobody else has: who comes late has another.
    pub ticket: AtomicU64,
    /// Number of the CPU.
    pub index: AtomicU64,
}

pub(super) static HANDOVER: Handover = Handover {
    stack: AtomicU64::new(0),
    page_tables: AtomicU64::new(0),
    ticket: AtomicU64::new(0),
    index: AtomicU64::new(0),
};

/// Number of the CPU that arrived since the last [`start`], or 0.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// How long a CPU may take to arrive, in microseconds. Emulators on a busy machine are slow.
const ARRIVAL: u64 = 1_000_000;

/// Affinity of this CPU: all levels in MPIDR_EL1.
pub fn affinity() -> u64 {
    read!("mpidr_el1") & 0xff_00ff_ffff
}

/// Starts the CPU with affinity `id` as number `index` (not 0); one at a time. It calls [`super::ap_main`] on the tables at
/// `page_tables` with its stack ending at `stack_top`. Returns whether it arrived within a second.
///
/// # Safety
///
/// The tables map the image, its start-up code where it is, and the stack, which belongs to this CPU from now on,
/// even if it does not arrive.
pub unsafe fn start(id: u64, index: usize, stack_top: HostVirt, page_tables: HostPhys) -> bool {
    ARRIVED.store(0, Ordering::Relaxed);
    HANDOVER.page_tables.store(page_tables.0, Ordering::Relaxed);
    HANDOVER.index.store(index as u64, Ordering::Relaxed);
    let ticket = HANDOVER.ticket.fetch_add(1, Ordering::Relaxed) + 1;
    HANDOVER.stack.store(stack_top.0, Ordering::Release);
    // It reads them with its caches off.
    super::clean_to_memory((&raw const HANDOVER) as u64, size_of::<Handover>() as u64);
    let entry = layout::image_phys(HostVirt(ap_entry as *const () as u64));
    if !psci::cpu_on(id, entry.0, ticket) {
        return false;
    }
    let arrived = clock::wait_until(ARRIVAL, || ARRIVED.load(Ordering::Acquire) == index);
    // A CPU that comes late finds no stack and stops.
    if !arrived {
        HANDOVER.stack.store(0, Ordering::Relaxed);
        HANDOVER.ticket.fetch_add(1, Ordering::Relaxed);
    }
    arrived
}

/// First Rust code of another CPU, on its own stack and the kernel's tables.
pub(super) extern "C" fn ap_start(index: usize) -> ! {
    // Who cannot be called, or is of another kind, must not be counted.
    if !super::features::fits() {
        super::halt();
    }
    let Some(target) = super::interrupts::init_this_cpu() else {
        super::halt();
    };
    // Before it has arrived: who knows that may call it.
    cpu::by_index(index as u32).arch.target.set(target);
    ARRIVED.store(index, Ordering::Release);
    super::ap_main(index)
}
