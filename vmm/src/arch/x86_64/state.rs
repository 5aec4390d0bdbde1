//! A vCPU's state page: typed, volatile access.
use abi::vcpu::x86_64::{Segment, Table, VcpuState};
use core::ptr::NonNull;

/// The state page of a vCPU, shared with the kernel. A value is only as fresh as the last exit whose portal
/// saves its group ([`crate::arch::x86_64::exits`]).
#[derive(Debug)]
pub struct StatePage {
    page: NonNull<VcpuState>,
}

// SAFETY: all access is volatile, to plain numbers; the handle may move to the vCPU's handler thread.
unsafe impl Send for StatePage {}

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident: $type:ty,)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        pub fn $get(&self) -> $type {
            // SAFETY: `new`'s promise; every bit pattern is a value of the type.
            unsafe { (&raw const (*self.page.as_ptr()).$get).read_volatile() }
        }

        #[doc = concat!("Sets `", stringify!($get), "`; loaded when the reply names its group.")]
        #[inline(always)]
        pub fn $set(&mut self, value: $type) {
            // SAFETY: `new`'s promise.
            unsafe { (&raw mut (*self.page.as_ptr()).$get).write_volatile(value) }
        }
    )*};
}

impl StatePage {
    /// The state page at `address`.
    ///
    /// # Safety
    /// A `VcpuState` is mapped there as long as the value lives, and nothing else in this program uses it.
    pub unsafe fn new(address: usize) -> StatePage {
        let page = core::ptr::with_exposed_provenance_mut(address);
        StatePage {
            page: NonNull::new(page).unwrap_or(NonNull::dangling()),
        }
    }

    /// General register `index` (order of the encoding); `rsp` only with its group.
    #[inline(always)]
    pub fn gpr(&self, index: usize) -> u64 {
        // SAFETY: `new`'s promise; the index is masked to the array's size.
        unsafe { (&raw const (*self.page.as_ptr()).gpr[index & 15]).read_volatile() }
    }

    /// Sets general register `index`.
    #[inline(always)]
    pub fn set_gpr(&mut self, index: usize, value: u64) {
        // SAFETY: as in `gpr`.
        unsafe { (&raw mut (*self.page.as_ptr()).gpr[index & 15]).write_volatile(value) }
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

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A zeroed state page that lives for ever.
    pub fn page() -> StatePage {
        let state = Box::leak(Box::new(VcpuState::default()));
        // SAFETY: the state lives for ever and is reachable only through the result.
        unsafe { StatePage::new((&raw mut *state).expose_provenance()) }
    }
}
