//! System registers of EL1 and EL0.
//!
//! Every one that a guest can write without a trap is in one of these tables. Those of [`Thread`] act on EL0 under the
//! kernel too, and are switched at every exit; the others stay loaded until another vCPU runs.

use super::{StatePage, peek, poke};
use crate::arch::features;
use crate::arch::sysreg::{isb, read, write};

macro_rules! registers {
    ($(
        $(#[$doc:meta])*
        $table:ident $(if $exist:ident)? { $($field:ident = $name:literal $(as $page:ident)?,)* }
    )*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default)]
        pub struct $table { $($field: u64,)* }

        impl $table {
            /// Reads the registers, if there are any.
            #[inline(always)]
            pub fn save(&mut self) {
                $(if !features::$exist() {
                    return;
                })?
                $(self.$field = read!($name);)*
            }

            /// Writes the registers, if there are any.
            #[inline(always)]
            pub fn load(&self) {
                $(if !features::$exist() {
                    return;
                })?
                $(write!($name, self.$field);)*
            }

            /// Copies what monitors see to the state page; `loaded`: from the registers.
            pub fn to_page(&mut self, page: StatePage, loaded: bool) {
                if loaded {
                    self.save();
                }
                let _ = page;
                $($(poke!(page, self.$field, $page);)?)*
            }

            /// Takes what monitors see from the state page; `loaded`: to the registers, too. Any value is the guest's own affair.
            pub fn take_from_page(&mut self, page: StatePage, loaded: bool) {
                if loaded {
                    self.save();
                }
                let _ = page;
                $($(self.$field = peek!(page, $page);)?)*
                if loaded {
                    self.load();
                }
            }
        }
    )*};
}

registers! {
    /// Registers that act on EL0 whoever runs there.
    Thread {
        sctlr = "sctlr_el1" as sctlr_el1,
        cpacr = "cpacr_el1" as cpacr_el1,
        cntkctl = "cntkctl_el1",
        tcr = "tcr_el1" as tcr_el1,
        tpidr_el0 = "tpidr_el0" as tpidr_el0,
        tpidrro_el0 = "tpidrro_el0" as tpidrro_el0,
        sp_el0 = "sp_el0" as sp_el0,
    }

    /// Registers that act on guests only.
    El1 {
        sp_el1 = "sp_el1" as sp_el1,
        elr = "elr_el1" as elr_el1,
        spsr = "spsr_el1" as spsr_el1,
        esr = "esr_el1" as esr_el1,
        far = "far_el1" as far_el1,
        afsr0 = "afsr0_el1",
        afsr1 = "afsr1_el1",
        ttbr0 = "ttbr0_el1" as ttbr0_el1,
        ttbr1 = "ttbr1_el1" as ttbr1_el1,
        mair = "mair_el1" as mair_el1,
        amair = "amair_el1",
        vbar = "vbar_el1" as vbar_el1,
        contextidr = "contextidr_el1" as contextidr_el1,
        tpidr_el1 = "tpidr_el1" as tpidr_el1,
        par = "par_el1",
        csselr = "csselr_el1" as csselr_el1,
    }

    /// The virtual timer.
    Timer {
        cntv_cval = "cntv_cval_el0" as cntv_cval,
        cntv_ctl = "cntv_ctl_el0" as cntv_ctl,
        cntvoff = "cntvoff_el2" as cntvoff,
    }

    /// What a guest reads of its CPU's identity.
    Identity {
        vmpidr = "vmpidr_el2" as vmpidr,
        vpidr = "vpidr_el2" as vpidr,
    }

    /// Errors of the guest's (RAS): what it reads as DISR_EL1, and the syndrome of a virtual SError.
    Errors if has_error_records {
        vdisr = "S3_4_C12_C1_1",
        vsesr = "S3_4_C5_C2_3",
    }

    /// TPIDR2_EL0, on CPUs with SME.
    Matrix if has_matrices {
        tpidr2 = "S3_3_C13_C0_5",
    }

    /// Keys of pointer authentication, on CPUs that have it.
    Keys if has_pointer_authentication {
        ia_low = "S3_0_C2_C1_0",
        ia_high = "S3_0_C2_C1_1",
        ib_low = "S3_0_C2_C1_2",
        ib_high = "S3_0_C2_C1_3",
        da_low = "S3_0_C2_C2_0",
        da_high = "S3_0_C2_C2_1",
        db_low = "S3_0_C2_C2_2",
        db_high = "S3_0_C2_C2_3",
        ga_low = "S3_0_C2_C3_0",
        ga_high = "S3_0_C2_C3_1",
    }
}

impl Thread {
    /// The values for threads. TCR_EL1 comes first, and last in [`Thread::load`]: a guest's tables are not walked with stage 1 on that
    /// it has off.
    #[inline]
    pub fn load_for_threads() {
        write!("tcr_el1", features::TCR_THREAD);
        write!("sctlr_el1", features::SCTLR_THREAD);
        write!("cpacr_el1", features::CPACR_THREAD);
        write!("cntkctl_el1", features::CNTKCTL_THREAD);
        write!("tpidr_el0", 0);
        write!("tpidrro_el0", 0);
        write!("cnthctl_el2", features::CNTHCTL_THREAD);
    }
}

/// CNTV_CTL_EL0.
const TIMER_ENABLE: u64 = 1 << 0;
const TIMER_MASK: u64 = 1 << 1;
const TIMER_STATUS: u64 = 1 << 2;

impl Timer {
    /// Machine's counter at which the saved virtual timer fires, if it is on and not masked.
    pub fn fires_at(&self, now: u64) -> Option<u64> {
        let on = self.cntv_ctl & (TIMER_ENABLE | TIMER_MASK) == TIMER_ENABLE;
        // Relative to the guest's time, so that a deadline that never comes does not wrap.
        let guest = now.wrapping_sub(self.cntvoff);
        on.then(|| now.saturating_add(self.cntv_cval.saturating_sub(guest)))
    }

    /// Forbids the saved virtual timer to interrupt.
    pub fn mask(&mut self) {
        self.cntv_ctl |= TIMER_MASK;
    }

    /// If the loaded timer has fired, forbids it to interrupt (CNTV_CTL_EL0.IMASK); whether it had. An interrupt may be late: then
    /// it was another's.
    pub fn take_loaded() -> bool {
        let fired = read!("cntv_ctl_el0") & 0b111 == TIMER_ENABLE | TIMER_STATUS;
        if fired {
            write!("cntv_ctl_el0", TIMER_ENABLE | TIMER_MASK);
            isb();
        }
        fired
    }

    /// Switches the loaded timer off: its owner is not loaded any more.
    pub fn stop_loaded() {
        write!("cntv_ctl_el0", 0);
        isb();
    }
}
