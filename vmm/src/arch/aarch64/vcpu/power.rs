//! Calls of the guest's firmware.
use super::Vcpu;
use crate::arch::aarch64::psci::{self, Call};
use crate::memory::GuestPhys;
use crate::platform::Platform;
use abi::vcpu::aarch64::Groups;
use rt::protocol::supervisor::StopReason;

impl<P: Platform> Vcpu<P> {
    /// HVC or SMC, past the instruction.
    pub(super) fn firmware_call(&mut self, esr: u64) -> Groups {
        let call = match esr & 0xffff {
            0 => psci::decode([0, 1, 2, 3].map(|i| self.state.gpr(i)), self.vm.workarounds),
            // The instruction's number is no calling convention's (DEN 0028, 2.9).
            _ => Call::Answer(-1),
        };
        let answer = match call {
            Call::Answer(value) => value,
            Call::Suspend => {
                // With the next exit, which saves the interrupts: as WFI.
                self.halted = true;
                self.platform.kick(self.id);
                0
            }
            Call::On { target, entry, context } => {
                let is_ram = self.vm.ram.contains(GuestPhys(entry), 4);
                let result = self.vm.powers.lock().on(target, entry, context, is_ram);
                match result {
                    Ok(vcpu) => {
                        self.platform.kick(vcpu);
                        0
                    }
                    Err(error) => error,
                }
            }
            Call::Off => return self.off(),
            Call::AffinityInfo { target, level } => self.vm.powers.lock().info(target, level),
            Call::SystemOff => return self.stop(StopReason::PowerOff),
            Call::SystemReset => return self.stop(StopReason::Reset),
        };
        self.state.set_gpr(0, answer as u64);
        Groups::empty()
    }

    /// CPU_OFF: the vCPU takes its interrupts back with the next exit, and then waits for CPU_ON.
    fn off(&mut self) -> Groups {
        self.leaving = true;
        self.platform.kick(self.id);
        Groups::empty()
    }
}
