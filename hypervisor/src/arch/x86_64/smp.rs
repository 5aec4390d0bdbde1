//! Starting the other CPUs (Intel SDM 3A 9.4.4).

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::firmware::madt::ApicId;
use crate::addr::{HostPhys, HostVirt};

use super::clock;
use super::interrupts::apic;

/// What the entry code gives to the CPU that is being started.
#[repr(C)]
pub(super) struct Handover {
    /// Top of its stack; the CPU takes it, leaving 0.
    pub stack: AtomicU64,
    /// Physical address of its page tables' root.
    pub page_tables: AtomicU64,
    /// Its number.
    pub index: AtomicU64,
}

pub(super) static HANDOVER: Handover =
    Handover { stack: AtomicU64::new(0), page_tables: AtomicU64::new(0), index: AtomicU64::new(0) };

/// Page below 1 MiB that holds the real-mode code; 0 if there was none.
static START_PAGE: AtomicU64 = AtomicU64::new(0);
/// Number of the CPU that arrived since the last [`start`], or 0.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Between INIT and SIPI, and after the first SIPI, in microseconds.
const AFTER_INIT: u64 = 10_000;
const AFTER_STARTUP: u64 = 200;
/// How long a CPU may take to arrive, in microseconds. Emulators on a busy machine are slow.
const ARRIVAL: u64 = 1_000_000;

pub(super) fn set_start_page(page: HostPhys) {
    START_PAGE.store(page.0, Ordering::Relaxed);
}

/// Starts the CPU with APIC number `id` as number `index` (not 0); one at a time, after
/// [`clock::calibrate`]. It calls [`super::ap_main`] on the page tables at `page_tables` with its stack
/// ending at `stack_top`; image and stack are mapped there. Returns whether it arrived within a second;
/// if not, it is stopped again.
///
/// # Safety
///
/// The page tables map the image and the stack, and the stack belongs to this CPU from now on, even if
/// it does not arrive.
pub unsafe fn start(id: ApicId, index: usize, stack_top: HostVirt, page_tables: HostPhys) -> bool {
    let page = HostPhys(START_PAGE.load(Ordering::Relaxed));
    if page.0 == 0 {
        return false;
    }
    ARRIVED.store(0, Ordering::Relaxed);
    HANDOVER.page_tables.store(page_tables.0, Ordering::Relaxed);
    HANDOVER.index.store(index as u64, Ordering::Relaxed);
    HANDOVER.stack.store(stack_top.0, Ordering::Release);
    let arrived = || ARRIVED.load(Ordering::Acquire) == index;
    apic::send_init(id);
    clock::delay(AFTER_INIT);
    apic::send_startup(id, page);
    if !clock::wait_until(AFTER_STARTUP, &arrived) {
        apic::send_startup(id, page);
    }
    let arrived = clock::wait_until(ARRIVAL, &arrived);
    // A CPU that comes late finds no stack and stops, or is stopped here.
    if !arrived {
        HANDOVER.stack.store(0, Ordering::Relaxed);
        apic::send_init(id);
    }
    arrived
}

/// First Rust code of an AP, on its own stack and page tables.
pub(super) extern "C" fn ap_start(index: usize) -> ! {
    super::ap_main(index)
}

/// Says on an AP that it is one of the kernel's CPUs.
pub fn arrive(index: usize) {
    ARRIVED.store(index, Ordering::Release);
}
