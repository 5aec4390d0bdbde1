//! Calls to firmware: PSCI (Arm DEN 0022).

use super::smccc::call;
use abi::Status;
use abi::syscall::PowerAction;

const CPU_ON: u64 = 0xc400_0003;
const SYSTEM_OFF: u64 = 0x8400_0008;
const SYSTEM_RESET: u64 = 0x8400_0009;

/// Starts the CPU with this affinity at a physical address, with `context` in its x0. Whether firmware agreed.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> bool {
    call(CPU_ON, affinity, entry, context) == 0
}

/// Ends the machine; returns if that fails.
pub fn power(action: PowerAction) -> Status {
    let function = match action {
        PowerAction::Off => SYSTEM_OFF,
        PowerAction::Reset => SYSTEM_RESET,
    };
    call(function, 0, 0, 0);
    Status::Unsupported
}
