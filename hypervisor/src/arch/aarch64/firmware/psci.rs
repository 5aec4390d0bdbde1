//! Calls to firmware: PSCI (Arm DEN 0022), by SMC or HVC as the device tree says.

use super::device_tree::Conduit;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

static CONDUIT: AtomicU32 = AtomicU32::new(0);

const CPU_ON: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;
const NOT_SUPPORTED: u64 = u64::MAX;

/// Sets the conduit, once at boot.
pub fn set_conduit(conduit: Conduit) {
    CONDUIT.store(conduit as u32, Ordering::Relaxed);
}

fn call(function: u64, first: u64, second: u64, third: u64) -> u64 {
    let mut result = function;
    macro_rules! conduit {
        ($instruction:literal) => {
            // SAFETY: SMCCC: x4 to x17 may change, the rest is preserved; what firmware does is what PSCI says.
            unsafe {
                asm!($instruction, inout("x0") result, inout("x1") first => _, inout("x2") second => _,
                     inout("x3") third => _, out("x4") _, out("x5") _, out("x6") _, out("x7") _, out("x8") _,
                     out("x9") _, out("x10") _, out("x11") _, out("x12") _, out("x13") _, out("x14") _,
                     out("x15") _, out("x16") _, out("x17") _, options(nostack))
            }
        };
    }
    match CONDUIT.load(Ordering::Relaxed) {
        1 => conduit!("smc #0"),
        // HVC at EL2 would come back to the kernel.
        _ => result = NOT_SUPPORTED,
    }
    result
}

/// Starts the CPU with this affinity at a physical address, with `context` in its x0. Whether firmware agreed.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> bool {
    call(CPU_ON, affinity, entry, context) == 0
}

/// Switches the machine off; returns if that fails.
pub fn system_off() {
    call(SYSTEM_OFF, 0, 0, 0);
}

/// Resets the machine; returns if that fails.
pub fn system_reset() {
    call(SYSTEM_RESET, 0, 0, 0);
}
