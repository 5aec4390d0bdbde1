//! Calls to firmware: PSCI (Arm DEN 0022).

use super::smccc::call;

const CPU_ON: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;

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
