//! Starting the other CPUs (Intel SDM 3A 9.4.4).

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::addr::HostPhys;
use crate::cell::Ref;
use crate::cpu::Cpu;

use super::clock;
use super::interrupts::apic::{self, Command};

/// Address of the data of the CPU that is being started; the CPU takes it, leaving 0.
pub(super) static STARTING: AtomicU64 = AtomicU64::new(0);
/// That of the CPU that arrived last, or 0.
static ARRIVED: AtomicU64 = AtomicU64::new(0);
/// Number of the page below 1 MiB that holds the real-mode code; 0 if there was none.
static START_PAGE: AtomicU8 = AtomicU8::new(0);

/// Between INIT and SIPI, and after the first SIPI, in microseconds.
const AFTER_INIT: u64 = 10_000;
const AFTER_STARTUP: u64 = 200;
/// How long a CPU may take to arrive, in microseconds. Emulators on a busy machine are slow.
const ARRIVAL: u64 = 1_000_000;

pub(super) fn set_start_page(page: HostPhys) {
    START_PAGE.store((page.0 >> 12) as u8, Ordering::Relaxed);
}

/// Starts `cpu`; one at a time, after [`clock::calibrate`]. It calls [`super::ap_main`] on its stack and the kernel's page
/// tables. Returns whether it arrived within a second; if not, it is stopped again, and what is `cpu`'s is lost.
pub fn start(cpu: Ref<Cpu>) -> bool {
    let (id, page) = (cpu.arch.apic, START_PAGE.load(Ordering::Relaxed));
    if page == 0 {
        return false;
    }
    STARTING.store(cpu.address(), Ordering::Release);
    let arrived = || ARRIVED.load(Ordering::Acquire) == cpu.address();
    apic::send(id, Command::INIT, 0);
    clock::delay(AFTER_INIT);
    apic::send(id, Command::STARTUP, page);
    if !clock::wait_until(AFTER_STARTUP, &arrived) {
        apic::send(id, Command::STARTUP, page);
    }
    let arrived = clock::wait_until(ARRIVAL, &arrived);
    // A CPU that comes late finds nothing to take and stops, or is stopped here.
    if !arrived {
        STARTING.store(0, Ordering::Relaxed);
        apic::send(id, Command::INIT, 0);
    }
    arrived
}

/// Says on `cpu` that it is one of the kernel's CPUs.
pub fn arrive(cpu: Ref<Cpu>) {
    ARRIVED.store(cpu.address(), Ordering::Release);
}
