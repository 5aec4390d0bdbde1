//! A vCPU's state page.
use crate::state::{Page, fields};
use abi::vcpu::x86_64::{Segment, Table, VcpuState};

/// The state page of an x86-64 vCPU.
pub type StatePage = Page<VcpuState>;

impl StatePage {
    /// General register `index` (order of the encoding); `rsp` only with its group.
    #[inline(always)]
    pub fn gpr(&self, index: usize) -> u64 {
        // SAFETY: `new`'s promise; the index is masked to the array's size.
        unsafe { (&raw const (*self.pointer()).gpr[index & 15]).read_volatile() }
    }

    /// Sets general register `index`.
    #[inline(always)]
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        // SAFETY: as in `gpr`.
        unsafe { (&raw mut (*self.pointer()).gpr[index & 15]).write_volatile(value) }
    }

    fields! {
        /// Instruction pointer.
        rip set_rip: u64,
        /// Flags.
        rflags set_rflags: u64,
        /// Event to inject.
        inject set_inject: u64,
        /// Event whose delivery the exit interrupted.
        interrupted set_interrupted: u64,
        /// What blocks interrupts for an instruction.
        interrupt_shadow set_interrupt_shadow: u64,
        /// What to stop at.
        controls set_controls: u64,
        /// Counter value of the next kick.
        deadline set_deadline: u64,
        /// CR0.
        cr0 set_cr0: u64,
        /// CR2.
        cr2 set_cr2: u64,
        /// CR3.
        cr3 set_cr3: u64,
        /// CR4.
        cr4 set_cr4: u64,
        /// EFER.
        efer set_efer: u64,
        /// XCR0.
        xcr0 set_xcr0: u64,
        /// DR7.
        dr7 set_dr7: u64,
        /// PAT.
        pat set_pat: u64,
        /// CS.
        cs set_cs: Segment,
        /// SS.
        ss set_ss: Segment,
        /// DS.
        ds set_ds: Segment,
        /// ES.
        es set_es: Segment,
        /// FS.
        fs set_fs: Segment,
        /// GS.
        gs set_gs: Segment,
        /// LDTR.
        ldtr set_ldtr: Segment,
        /// TR.
        tr set_tr: Segment,
        /// GDTR.
        gdtr set_gdtr: Table,
        /// IDTR.
        idtr set_idtr: Table,
        /// IA32_STAR.
        star set_star: u64,
        /// IA32_LSTAR.
        lstar set_lstar: u64,
        /// IA32_CSTAR.
        cstar set_cstar: u64,
        /// IA32_FMASK.
        sfmask set_sfmask: u64,
        /// IA32_KERNEL_GS_BASE.
        kernel_gs_base set_kernel_gs_base: u64,
        /// IA32_SYSENTER_CS.
        sysenter_cs set_sysenter_cs: u64,
        /// IA32_SYSENTER_ESP.
        sysenter_esp set_sysenter_esp: u64,
        /// IA32_SYSENTER_EIP.
        sysenter_eip set_sysenter_eip: u64,
        /// Added to the machine's TSC to give the guest's.
        tsc_offset set_tsc_offset: u64,
        /// IA32_TSC_AUX.
        tsc_aux set_tsc_aux: u64,
    }
}
