//! Accesses to device memory.
use super::Vcpu;
use crate::arch::aarch64::exception::Exception;
use crate::arch::aarch64::gic::registers::Frame;
use crate::arch::aarch64::layout;
use crate::arch::aarch64::syndrome::{Access, CM, S1PTW, WNR, instruction_length};
use crate::memory::GuestPhys;
use crate::platform::Platform;
use abi::vcpu::aarch64::Groups;
use abi::vcpu::{ExitKind, FAULT_FETCH, FAULT_LINEAR, fault_syndrome};
use rt::ipc::Words;
use rt::protocol::supervisor::StopReason;

/// A device in memory.
enum Target {
    /// Offset in the serial port.
    Serial(u64),
    Gic(Frame, u32),
}

impl<P: Platform> Vcpu<P> {
    /// An access to guest-physical memory that is no RAM.
    pub(super) fn stage_two_fault(&mut self, words: &Words) -> Groups {
        let (esr, at) = (fault_syndrome(words[1]), GuestPhys(words[2]));
        let linear = (words[1] & FAULT_LINEAR != 0).then_some(words[3]);
        if self.vm.ram.contains(at, 1) {
            log::error!("access {:#x} to RAM at {at} fails", words[1]);
            return self.stop(StopReason::MonitorError);
        }
        if words[1] & FAULT_FETCH != 0 {
            self.report(at, "executes");
            let abort = Exception::PrefetchAbort { address: linear };
            return self.exception(ExitKind::StageTwoFault, abort);
        }
        if esr & CM != 0 && esr & S1PTW == 0 {
            // Nothing is cached of a device.
            return self.skip(instruction_length(esr));
        }
        let abort = Exception::DataAbort { write: esr & WNR != 0, address: linear };
        let Some(target) = self.target(at) else {
            self.report(at, "accesses");
            return self.exception(ExitKind::StageTwoFault, abort);
        };
        let Some(access) = Access::decode(esr) else {
            self.report(at, "uses an instruction that is not emulated");
            return self.exception(ExitKind::StageTwoFault, abort);
        };
        if at.0 % u64::from(access.size) != 0 {
            // Device memory takes aligned accesses only.
            return self.exception(ExitKind::StageTwoFault, abort);
        }
        let register = access.register;
        match target {
            Target::Serial(offset) => {
                let (number, shift) = ((offset / 4) as u32, offset % 4 * 8);
                if !access.write {
                    let value = u64::from(self.platform.serial_read(number)) >> shift;
                    self.state.set_gpr(register, access.extend(value));
                } else if shift == 0 {
                    let value = access.truncate(self.state.gpr(register)) as u32;
                    self.platform.serial_write(number, value);
                }
                self.skip(instruction_length(esr))
            }
            Target::Gic(frame, offset) => {
                let vcpu = self.id as usize;
                let value = access.truncate(self.state.gpr(register));
                let mut read = 0;
                let groups = self.interrupts(|gic, kicks| {
                    if access.write {
                        gic.write(vcpu, frame, offset, access.size, value, kicks);
                    } else {
                        read = gic.read(vcpu, frame, offset, access.size, kicks);
                    }
                });
                if !access.write {
                    self.state.set_gpr(register, access.extend(read));
                }
                groups | self.skip(instruction_length(esr))
            }
        }
    }

    fn target(&self, at: GuestPhys) -> Option<Target> {
        if let Some(serial) = &self.vm.serial
            && let Some(offset) = at.0.checked_sub(serial.address)
            && offset < layout::SERIAL_SIZE
        {
            return Some(Target::Serial(offset));
        }
        // Where the frames are does not change.
        let (frame, offset) = self.vm.gic.lock().frame(at.0)?;
        Some(Target::Gic(frame, offset))
    }

    #[cold]
    fn report(&mut self, at: GuestPhys, what: &str) {
        if self.reported_pages.first((at.0 >> 12) as u32) {
            log::info!("the guest {what} at {at}, pc {:#x}: external abort", self.state.pc());
        }
    }
}
