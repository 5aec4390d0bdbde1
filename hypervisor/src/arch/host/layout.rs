//! Addresses of kernel memory: physical memory is where the host program sees it.

use crate::addr::{HostPhys, HostVirt};

/// The part of the kernel's half that page tables have an entry for, as on the real machine.
pub const WINDOW: u64 = 0xffff_8000_0000_0000;
/// As [`WINDOW`].
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;

/// Where physical memory of the pool is.
pub const fn window(phys: HostPhys) -> HostVirt {
    HostVirt(phys.0)
}

/// The physical address of a page of the pool.
pub const fn window_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0)
}

/// The physical address of a static.
pub const fn image_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0)
}

/// First guest-physical address that no mapping can have: 48 bits, what a 4-level table translates.
pub const GUEST_END: u64 = 1 << 48;

/// Most interrupt lines that the kernel handles: as on the real machine.
pub const MAX_LINES: usize = 120;
