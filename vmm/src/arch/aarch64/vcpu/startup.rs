//! The state in which a vCPU starts: EL1h, MMU off, interrupts masked, as the boot protocol of Linux and PSCI's CPU_ON
//! (DEN 0022, 6.4) ask for.
use super::Vcpu;
use crate::arch::aarch64::gic::Kicks;
use crate::arch::aarch64::gic::lists::List;
use crate::platform::Platform;
use abi::vcpu::aarch64::{GPRS, Groups, LIST_REGISTERS};

/// PSTATE: EL1h, all exceptions masked.
const PSTATE: u64 = 0x3c5;
/// SCTLR_EL1: the bits that are RES1 in Armv8.0, MMU and caches off, little-endian.
const SCTLR: u64 = 0x30d0_0800;
/// MPIDR_EL1: RES1; affinity 0.0.0.n.
const MPIDR: u64 = 1 << 31;

impl<P: Platform> Vcpu<P> {
    /// The first exit: the boot vCPU starts, others wait for CPU_ON.
    pub(super) fn startup(&mut self) -> Groups {
        match self.start_if_asked() {
            Some(groups) => groups,
            None => self.park(),
        }
    }

    /// Starts the vCPU, if that was asked for.
    pub(super) fn start_if_asked(&mut self) -> Option<Groups> {
        let (entry, context) = self.vm.powers.lock().start(self.id)?;
        self.on = true;
        self.halted = false;
        let state = &mut self.state;
        for register in 0..GPRS {
            state.set_gpr(register, 0);
        }
        state.set_gpr(0, context);
        state.set_pc(entry);
        state.set_pstate(PSTATE);
        state.set_controls(0);
        state.set_deadline(u64::MAX);
        state.set_vmpidr(MPIDR | u64::from(self.id));
        state.set_vpidr(self.vm.id.midr);
        state.set_cntvoff(self.vm.clock.offset);
        state.set_cntv_ctl(0);
        state.set_cntv_cval(0);
        state.set_vmcr(0);
        state.set_active_priorities([0; 8]);
        state.set_sp_el0(0);
        state.set_sp_el1(0);
        state.set_elr_el1(0);
        state.set_spsr_el1(0);
        state.set_esr_el1(0);
        state.set_far_el1(0);
        state.set_sctlr_el1(SCTLR);
        state.set_ttbr0_el1(0);
        state.set_ttbr1_el1(0);
        state.set_tcr_el1(0);
        state.set_mair_el1(0);
        state.set_vbar_el1(0);
        state.set_cpacr_el1(0);
        state.set_contextidr_el1(0);
        state.set_tpidr_el0(0);
        state.set_tpidrro_el0(0);
        state.set_tpidr_el1(0);
        state.set_csselr_el1(0);
        // What was sent to it before it started waits in its list registers.
        let mut list: List = [0; LIST_REGISTERS];
        let mut kicks = Kicks::default();
        self.gic_control = self.vm.gic.lock().fill(self.id as usize, &mut list, &mut kicks);
        for (i, value) in list.into_iter().enumerate() {
            self.state.set_list(i, value);
        }
        self.state.set_gic_control(self.gic_control);
        self.send(kicks);
        Some(Groups::all())
    }
}
