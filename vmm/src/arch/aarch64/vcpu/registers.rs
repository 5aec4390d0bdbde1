//! Trapped system registers and instructions.
use super::Vcpu;
use crate::arch::aarch64::exception::Exception;
use crate::arch::aarch64::gic::sgi::Sgi;
use crate::arch::aarch64::gic::{Kicks, Version};
use crate::arch::aarch64::syndrome::{SystemAccess, instruction_length};
use crate::platform::Platform;
use abi::vcpu::ExitKind;
use abi::vcpu::aarch64::Groups;
use rt::env::register_key as key;

/// What a trapped register does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Register {
    /// Reads so; writes are ignored.
    Is(u64),
    /// The physical counter.
    Counter,
    /// ICC_SGI1R_EL1, or with `false` ICC_SGI0R_EL1 or ICC_ASGI1R_EL1.
    Sgi(bool),
}

/// Registers by key: first, last, what they do. The first match counts.
#[rustfmt::skip]
const REGISTERS: &[(u16, u16, Register)] = &[
    // OSLSR_EL1: the OS lock is there and open. Debug registers (op0 2, op1 0 and 3) do nothing.
    (key(2, 0, 1, 1, 4), key(2, 0, 1, 1, 4), Register::Is(1 << 3)),
    (key(2, 0, 0, 0, 0), key(2, 0, 15, 15, 7), Register::Is(0)),
    (key(2, 3, 0, 0, 0), key(2, 3, 15, 15, 7), Register::Is(0)),
    // Set and way operations: caches are coherent.
    (key(1, 0, 7, 6, 2), key(1, 0, 7, 6, 2), Register::Is(0)),
    (key(1, 0, 7, 10, 2), key(1, 0, 7, 10, 2), Register::Is(0)),
    (key(1, 0, 7, 14, 2), key(1, 0, 7, 14, 2), Register::Is(0)),
    // ACTLR_EL1, REVIDR_EL1, AIDR_EL1.
    (key(3, 0, 1, 0, 1), key(3, 0, 1, 0, 1), Register::Is(0)),
    (key(3, 0, 0, 0, 6), key(3, 0, 0, 0, 6), Register::Is(0)),
    (key(3, 1, 0, 0, 7), key(3, 1, 0, 0, 7), Register::Is(0)),
    // Performance monitors: none (PMINTEN*, PMMIR; PMCR to PMOVSSET; PMEVCNTR to PMCCFILTR).
    (key(3, 0, 9, 14, 0), key(3, 0, 9, 14, 7), Register::Is(0)),
    (key(3, 3, 9, 12, 0), key(3, 3, 9, 14, 7), Register::Is(0)),
    (key(3, 3, 14, 8, 0), key(3, 3, 14, 15, 7), Register::Is(0)),
    // The physical counter is the machine's; its timer never fires (CNTP_TVAL, CNTP_CTL, CNTP_CVAL).
    (key(3, 3, 14, 0, 1), key(3, 3, 14, 0, 1), Register::Counter),
    (key(3, 3, 14, 2, 0), key(3, 3, 14, 2, 2), Register::Is(0)),
];

/// The same, of a guest with a GICv3: SGIs, and ICC_SRE_EL1, which cannot be switched off.
#[rustfmt::skip]
const GIC_REGISTERS: &[(u16, u16, Register)] = &[
    (key(3, 0, 12, 11, 5), key(3, 0, 12, 11, 5), Register::Sgi(true)),
    (key(3, 0, 12, 11, 6), key(3, 0, 12, 11, 7), Register::Sgi(false)),
    (key(3, 0, 12, 12, 5), key(3, 0, 12, 12, 5), Register::Is(7)),
];

fn find(table: &[(u16, u16, Register)], key: u16) -> Option<Register> {
    let entry = table.iter().find(|(first, last, _)| (*first..=*last).contains(&key));
    entry.map(|(.., register)| *register)
}

impl<P: Platform> Vcpu<P> {
    /// MSR, MRS or a system instruction that is trapped.
    pub(super) fn system_register(&mut self, esr: u32) -> Groups {
        let Some(access) = SystemAccess::decode(esr) else {
            // Of AArch32 programs: they have none that matters.
            return self.undefined(esr, esr);
        };
        let value = self.state.gpr(access.register);
        match (self.register(access.key), access.read) {
            (Some(Register::Is(value)), true) => self.state.set_gpr(access.register, value),
            (Some(Register::Counter), true) => {
                let now = self.platform.counter();
                self.state.set_gpr(access.register, now);
            }
            (Some(Register::Is(_)), false) => {}
            (Some(Register::Sgi(group1)), false) => {
                let mut kicks = Kicks::default();
                let sgi = Sgi::from_system_register(value, group1);
                self.vm.gic.lock().send(self.id as usize, sgi, &mut kicks);
                self.send(kicks);
            }
            (Some(Register::Counter), false) | (Some(Register::Sgi(_)), true) | (None, _) => {
                return self.undefined(access.key.into(), esr);
            }
        }
        self.skip(instruction_length(esr))
    }

    fn register(&self, key: u16) -> Option<Register> {
        if let Some(value) = self.vm.id.get(key) {
            return Some(Register::Is(value));
        }
        find(REGISTERS, key).or_else(|| {
            let v3 = self.vm.gic.lock().version() == Version::V3;
            find(GIC_REGISTERS, key).filter(|_| v3)
        })
    }

    #[cold]
    fn undefined(&mut self, name: u32, esr: u32) -> Groups {
        if self.reported_registers.first(name) {
            let key = name as u16;
            log::info!(
                "system register S{}_{}_C{}_C{}_{} (syndrome {esr:#x}) is not there, pc {:#x}",
                key >> 14,
                key >> 11 & 7,
                key >> 7 & 15,
                key >> 3 & 15,
                key & 7,
                self.state.pc()
            );
        }
        self.exception(ExitKind::SystemRegister, Exception::Undefined)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_reach_into_others() {
        for (first, last, _) in REGISTERS.iter().chain(GIC_REGISTERS) {
            // Of one op0 and op1.
            assert_eq!(first >> 11, last >> 11);
            assert!(first <= last);
        }
        assert_eq!(find(REGISTERS, key(2, 0, 1, 1, 4)), Some(Register::Is(1 << 3)));
        // Trace registers, SCXTNUM_EL1, LORID_EL1, an implementation-defined one.
        for absent in
            [key(2, 1, 0, 0, 0), key(3, 0, 13, 0, 7), key(3, 0, 10, 4, 7), key(3, 1, 15, 2, 1)]
        {
            assert_eq!(find(REGISTERS, absent), None);
        }
    }
}
