//! Stand-ins for types of the portable core that are not compiled on the host.

use abi::vcpu::ExitKind;

use crate::addr::{HostPhys, HostVirt};

/// A page of kernel memory.
#[derive(Clone, Copy, Debug)]
pub struct KernelPage {
    /// Where the kernel sees it.
    pub virt: HostVirt,
    /// Where it is.
    pub phys: HostPhys,
}

/// An exit that is to be told to the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why guest mode was left.
    pub kind: ExitKind,
    /// Length of the instruction in bytes, 0 if unknown.
    pub instruction_length: u8,
    /// Qualification words, by kind.
    pub info: [u64; 3],
}
