//! A vCPU's state page.
use crate::state::{Page, fields};
use abi::vcpu::aarch64::{GPRS, LIST_REGISTERS, VcpuState};

/// The state page of an AArch64 vCPU.
pub type StatePage = Page<VcpuState>;

impl StatePage {
    /// General register `index`; 31 is the zero register.
    #[inline(always)]
    pub fn gpr(&self, index: usize) -> u64 {
        if index >= GPRS {
            return 0;
        }
        // SAFETY: `new`'s promise; the index is inside the array.
        unsafe { (&raw const (*self.pointer()).gpr[index]).read_volatile() }
    }

    /// Sets general register `index`; 31 is the zero register.
    #[inline(always)]
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        if index < GPRS {
            // SAFETY: as in `gpr`.
            unsafe { (&raw mut (*self.pointer()).gpr[index]).write_volatile(value) }
        }
    }

    /// List register `index`, below 16.
    #[inline]
    pub fn list(&self, index: usize) -> u64 {
        // SAFETY: `new`'s promise; the index is masked to the array's size.
        unsafe { (&raw const (*self.pointer()).list[index % LIST_REGISTERS]).read_volatile() }
    }

    /// Sets list register `index`, below 16.
    #[inline]
    pub fn set_list(&mut self, index: usize, value: u64) {
        // SAFETY: as in `list`.
        unsafe {
            (&raw mut (*self.pointer()).list[index % LIST_REGISTERS]).write_volatile(value);
        }
    }

    fields! {
        /// Program counter.
        pc set_pc: u64,
        /// PSTATE.
        pstate set_pstate: u64,
        /// What the vCPU waits for.
        controls set_controls: u64,
        /// Counter value of the next kick.
        deadline set_deadline: u64,
        /// The guest's MPIDR_EL1.
        vmpidr set_vmpidr: u64,
        /// The guest's MIDR_EL1.
        vpidr set_vpidr: u64,
        /// The machine's counter minus the guest's virtual one.
        cntvoff set_cntvoff: u64,
        /// CNTV_CTL_EL0.
        cntv_ctl set_cntv_ctl: u64,
        /// CNTV_CVAL_EL0.
        cntv_cval set_cntv_cval: u64,
        /// What the virtual CPU interface asks for.
        gic_control set_gic_control: u64,
        /// Control of the virtual CPU interface.
        vmcr set_vmcr: u64,
        /// Active priorities.
        active_priorities set_active_priorities: [u32; 8],
        /// SP_EL0.
        sp_el0 set_sp_el0: u64,
        /// SP_EL1.
        sp_el1 set_sp_el1: u64,
        /// ELR_EL1.
        elr_el1 set_elr_el1: u64,
        /// SPSR_EL1.
        spsr_el1 set_spsr_el1: u64,
        /// ESR_EL1.
        esr_el1 set_esr_el1: u64,
        /// FAR_EL1.
        far_el1 set_far_el1: u64,
        /// SCTLR_EL1.
        sctlr_el1 set_sctlr_el1: u64,
        /// TTBR0_EL1.
        ttbr0_el1 set_ttbr0_el1: u64,
        /// TTBR1_EL1.
        ttbr1_el1 set_ttbr1_el1: u64,
        /// TCR_EL1.
        tcr_el1 set_tcr_el1: u64,
        /// MAIR_EL1.
        mair_el1 set_mair_el1: u64,
        /// VBAR_EL1.
        vbar_el1 set_vbar_el1: u64,
        /// CPACR_EL1.
        cpacr_el1 set_cpacr_el1: u64,
        /// CONTEXTIDR_EL1.
        contextidr_el1 set_contextidr_el1: u64,
        /// TPIDR_EL0.
        tpidr_el0 set_tpidr_el0: u64,
        /// TPIDRRO_EL0.
        tpidrro_el0 set_tpidrro_el0: u64,
        /// TPIDR_EL1.
        tpidr_el1 set_tpidr_el1: u64,
        /// CSSELR_EL1.
        csselr_el1 set_csselr_el1: u64,
    }
}
