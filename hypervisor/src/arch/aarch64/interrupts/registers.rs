//! Distributor registers that GICv2 and GICv3 share (IHI 0048, 4.3; IHI 0069, 12.9).

use super::FIRST_SPI;
use crate::addr::HostPhys;
use crate::arch::layout::window;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::mutex::SpinMutex;

pub const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
pub const IGROUPR: u64 = 0x080;
pub const ISENABLER: u64 = 0x100;
pub const ICENABLER: u64 = 0x180;
pub const ICPENDR: u64 = 0x280;
pub const ICACTIVER: u64 = 0x380;
pub const IPRIORITYR: u64 = 0x400;
pub const ITARGETSR: u64 = 0x800;
const ICFGR: u64 = 0xc00;
pub const SGIR: u64 = 0xf00;

static BASE: AtomicU64 = AtomicU64::new(0);
static LINES: AtomicU32 = AtomicU32::new(0);
/// Orders changes of registers that hold several interrupts.
static SHARED: SpinMutex<()> = SpinMutex::new(());

/// Reads a register at `base`, which is mapped.
pub fn read(base: u64, offset: u64) -> u32 {
    // SAFETY: the device tree says that a GIC is there, and it is mapped as device memory.
    unsafe { ((base + offset) as *const u32).read_volatile() }
}

/// Writes a register at `base`.
pub fn write(base: u64, offset: u64, value: u32) {
    // SAFETY: as in `read`; a GIC without ITS reaches no memory.
    unsafe { ((base + offset) as *mut u32).write_volatile(value) };
}

/// Names the distributor. Returns its address.
pub fn set_distributor(at: HostPhys) -> u64 {
    let base = window(at).0;
    BASE.store(base, Ordering::Relaxed);
    let interrupts = 32 * ((read(base, TYPER) & 0x1f) + 1);
    let spis = interrupts.min(1020).saturating_sub(FIRST_SPI);
    LINES.store(spis, Ordering::Relaxed);
    base
}

/// Address of the distributor.
pub fn distributor() -> u64 {
    BASE.load(Ordering::Relaxed)
}

/// Number of SPIs.
pub fn lines() -> u32 {
    LINES.load(Ordering::Relaxed)
}

/// Masks all SPIs and gives them a priority and group 1.
pub fn reset_lines(groups: bool) {
    let base = distributor();
    for first in (FIRST_SPI..FIRST_SPI + lines()).step_by(32) {
        let word = u64::from(first / 32) * 4;
        write(base, ICENABLER + word, u32::MAX);
        write(base, ICPENDR + word, u32::MAX);
        write(base, ICACTIVER + word, u32::MAX);
        if groups {
            write(base, IGROUPR + word, u32::MAX);
        }
        for i in 0..8 {
            write(base, IPRIORITYR + u64::from(first) + i * 4, super::PRIORITY);
        }
    }
}

/// Masks or unmasks an interrupt.
pub fn set_enabled(number: u32, on: bool) {
    let register = if on { ISENABLER } else { ICENABLER };
    let at = register + u64::from(number / 32) * 4;
    write(distributor(), at, 1 << (number % 32));
    // Masked means that it is not taken any more (IHI 0069, 12.9.6: the effect is visible when RWP, bit 31 of CTLR in
    // GICv3, is clear).
    for _ in 0..1000 {
        if super::is_v2() || read(distributor(), CTLR) >> 31 == 0 {
            break;
        }
    }
}

/// Takes an interrupt that is active out of that state.
pub fn deactivate(number: u32) {
    let at = ICACTIVER + u64::from(number / 32) * 4;
    write(distributor(), at, 1 << (number % 32));
}

/// Sets the trigger mode.
pub fn set_trigger(number: u32, level: bool) {
    let _guard = SHARED.lock();
    let at = ICFGR + u64::from(number / 16) * 4;
    let bit = 2 << (number % 16 * 2);
    let old = read(distributor(), at);
    let new = if level { old & !bit } else { old | bit };
    write(distributor(), at, new);
}
