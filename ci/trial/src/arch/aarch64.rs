//! AArch64.

use abi::Op;
use abi::vcpu::aarch64::VcpuState;
use core::arch::naked_asm;

/// Answers each call with what it got.
#[unsafe(naked)]
pub extern "C" fn echo() -> ! {
    naked_asm!("2: mov x0, #{reply}", "svc #0", "b 2b", reply = const Op::ReplyWait as u32)
}

/// A guest that starts at `entry` in EL1h with all exceptions masked, MMU and caches off.
pub fn initial_state(entry: u64) -> VcpuState {
    VcpuState {
        pc: entry,
        pstate: 0x3c5,
        deadline: u64::MAX,
        // The bits that are one on every core (Arm ARM, SCTLR_EL1 of Armv8.0).
        sctlr_el1: 0x30d0_0800,
        vmpidr: 1 << 31,
        ..VcpuState::default()
    }
}
