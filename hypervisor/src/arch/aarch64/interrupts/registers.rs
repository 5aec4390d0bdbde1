//! Distributor registers that GICv2 and GICv3 share (IHI 0048, 4.3; IHI 0069, 12.9).

use super::FIRST_SPI;
use crate::addr::HostPhys;
use crate::arch::layout::window;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use spin::mutex::SpinMutex;

const CTLR: u64 = 0x000;
const TYPER: u64 = 0x004;
const IGROUPR: u64 = 0x080;
const ISENABLER: u64 = 0x100;
const ICENABLER: u64 = 0x180;
const ICPENDR: u64 = 0x280;
const ICACTIVER: u64 = 0x380;
const IPRIORITYR: u64 = 0x400;
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

/// Sets the distributor up: all SPIs are masked; then CTLR is `enable`.
pub fn init(at: HostPhys, enable: u32) {
    let base = window(at).0;
    BASE.store(base, Ordering::Relaxed);
    let interrupts = 32 * ((read(base, TYPER) & 0x1f) + 1);
    let spis = interrupts.min(1020).saturating_sub(FIRST_SPI);
    LINES.store(spis, Ordering::Relaxed);
    write(base, CTLR, 0);
    for first in (FIRST_SPI..FIRST_SPI + spis).step_by(32) {
        reset(base, first);
    }
    write(base, CTLR, enable);
}

/// Sets the private interrupts of a CPU up, whose registers are at `base`.
pub fn init_private(base: u64) {
    reset(base, 0);
    write(base, ISENABLER, super::PRIVATE);
}

/// Masks the 32 interrupts from `first` on and gives them a priority, and on a GICv3 group 1.
fn reset(base: u64, first: u32) {
    let word = u64::from(first / 32) * 4;
    for register in [ICENABLER, ICPENDR, ICACTIVER] {
        write(base, register + word, u32::MAX);
    }
    if !super::is_v2() {
        write(base, IGROUPR + word, u32::MAX);
    }
    for i in 0..8 {
        write(base, IPRIORITYR + u64::from(first) + i * 4, super::PRIORITY);
    }
}

/// Address of the distributor.
pub fn distributor() -> u64 {
    BASE.load(Ordering::Relaxed)
}

/// Number of SPIs.
pub fn lines() -> u32 {
    LINES.load(Ordering::Relaxed)
}

/// Writes the bit of an interrupt in a register that other bits of 0 leave as it is.
fn set(register: u64, number: u32) {
    write(distributor(), register + u64::from(number / 32) * 4, 1 << (number % 32));
}

/// Masks or unmasks an interrupt.
pub fn set_enabled(number: u32, on: bool) {
    set(if on { ISENABLER } else { ICENABLER }, number);
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
    set(ICACTIVER, number);
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
