//! Debug registers of a vCPU.
//!
//! Neither extension switches DR0 to DR3, and VMX not DR6. A guest that does not use them pays nothing: its
//! first access exits, the registers are loaded and from then on its own, until it is suspended with all
//! breakpoints off. Threads cannot read them, and DR7 is off outside guest mode, so the machine's values
//! need no restoring.

use super::hw;
use super::state::sane_dr6;

/// DR6 after reset.
const RESET_DR6: u64 = 0xffff_0ff0;

/// A vCPU's debug registers, but for DR7, which is in the control structure.
#[derive(Debug)]
pub(super) struct DebugRegisters {
    /// Accesses do not exit.
    pub active: bool,
    /// The processor's registers are newer than these.
    pub loaded: bool,
    address: [u64; 4],
    status: u64,
}

impl DebugRegisters {
    /// The state after reset.
    pub const fn new() -> DebugRegisters {
        DebugRegisters { active: false, loaded: false, address: [0; 4], status: RESET_DR6 }
    }

    /// Loads the registers if they are active.
    #[inline(always)]
    pub fn load(&mut self) {
        if self.active {
            self.write();
        }
    }

    /// Stores the registers, which are loaded; `keep` tells whether they stay active. Returns whether
    /// that has ended.
    #[cold]
    pub fn store(&mut self, keep: bool) -> bool {
        self.address = [hw::dr0(), hw::dr1(), hw::dr2(), hw::dr3()];
        self.status = hw::dr6();
        self.loaded = false;
        self.active = keep;
        !keep
    }

    /// Adds the conditions of a #DB to the status, as the processor would (Intel SDM 3B 18.2.3).
    pub fn raise(&mut self, conditions: u64) {
        const BREAKPOINTS: u64 = 0xf;
        if self.loaded {
            self.status = hw::dr6();
        }
        self.status = sane_dr6(self.status & !BREAKPOINTS | conditions);
        if self.loaded {
            // SAFETY: see `write`.
            unsafe { hw::set_dr6(self.status) };
        }
    }

    #[cold]
    fn write(&mut self) {
        if self.loaded {
            return;
        }
        let [dr0, dr1, dr2, dr3] = self.address;
        // SAFETY: breakpoints are off outside guest mode, so any address is harmless; the status has no
        // reserved bit set.
        unsafe {
            hw::set_dr0(dr0);
            hw::set_dr1(dr1);
            hw::set_dr2(dr2);
            hw::set_dr3(dr3);
            hw::set_dr6(sane_dr6(self.status));
        }
        self.loaded = true;
    }
}
