//! The registers of a vCPU: what a guest can change, in one table each.

mod el1;
mod fpu;

pub use el1::{El1, Errors, Identity, Keys, Matrix, Thread, Timer};
pub use fpu::Fp;

use crate::mem::KernelPage;
use abi::vcpu::aarch64::VcpuState;

/// A vCPU's state page. Its monitor can write to it at any time: each field is read once.
#[derive(Clone, Copy)]
pub struct StatePage(KernelPage);

impl StatePage {
    /// The state page in `page`, which stays as long as the value is used.
    pub fn new(page: KernelPage) -> StatePage {
        StatePage(page)
    }

    /// Its address, where the general registers are first.
    pub fn address(self) -> u64 {
        self.0.virt.0
    }

    /// x0.
    pub fn first_register(self) -> u64 {
        // SAFETY: as for `get`.
        unsafe { (&raw const (*self.as_ptr()).gpr[0]).read_volatile() }
    }

    fn as_ptr(self) -> *mut VcpuState {
        self.0.virt.0 as *mut VcpuState
    }
}

/// Reads a field of a [`StatePage`].
macro_rules! get {
    ($page:expr, $field:ident) => {
        // SAFETY: the page is the holder's, and of every bit pattern.
        unsafe { (&raw const (*$page.as_ptr()).$field).read_volatile() }
    };
}

/// Writes a field of a [`StatePage`].
macro_rules! set {
    ($page:expr, $field:ident, $value:expr) => {
        // SAFETY: as for reading.
        unsafe { (&raw mut (*$page.as_ptr()).$field).write_volatile($value) }
    };
}

use {get, set};

macro_rules! accessors {
    ($($(#[$doc:meta])* $get:ident $set:ident $field:ident: $type:ty,)*) => {
        impl StatePage {$(
            $(#[$doc])*
            #[inline(always)]
            pub fn $get(self) -> $type {
                get!(self, $field)
            }

            $(#[$doc])*
            #[inline(always)]
            pub fn $set(self, value: $type) {
                set!(self, $field, value)
            }
        )*}
    };
}

accessors! {
    /// Program counter.
    pc set_pc pc: u64,
    /// PSTATE.
    pstate set_pstate pstate: u64,
    /// Controls.
    controls set_controls controls: u64,
    /// Deadline.
    deadline set_deadline deadline: u64,
    /// What maintenance is asked for.
    gic_control set_gic_control gic_control: u64,
    /// ICH_VMCR_EL2.
    vmcr set_vmcr vmcr: u64,
    /// Active priorities.
    active_priorities set_active_priorities active_priorities: [u32; 8],
    /// List registers.
    list set_list list: [u64; abi::vcpu::aarch64::LIST_REGISTERS],
}
