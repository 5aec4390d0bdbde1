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
    pub fn as_ptr(self) -> *mut VcpuState {
        self.0.virt.0 as *mut VcpuState
    }
}

/// Reads a field of a [`StatePage`], once.
macro_rules! peek {
    ($page:expr, $($field:tt)+) => {
        // SAFETY: the page is the holder's, and of every bit pattern.
        unsafe { (&raw const (*$page.as_ptr()).$($field)+).read_volatile() }
    };
}

/// Writes a field of a [`StatePage`].
macro_rules! poke {
    ($page:expr, $value:expr, $field:ident) => {
        // SAFETY: as for reading.
        unsafe { (&raw mut (*$page.as_ptr()).$field).write_volatile($value) }
    };
}

pub(super) use {peek, poke};
