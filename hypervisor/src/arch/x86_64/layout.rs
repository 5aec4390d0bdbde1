//! Virtual address layout of the kernel half.
//!
//! | range | what |
//! | --- | --- |
//! | `0 .. USER_END` | the current host space |
//! | [`WINDOW`] + physical | kernel pool, CPU data and the kernel's own device registers; during boot the first 4 GiB |
//! | [`IMAGE`] + physical | the kernel image, linked at [`IMAGE_PHYS`] |

use crate::addr::{HostPhys, HostVirt};

/// Start of the window in which kernel-owned physical memory appears.
pub const WINDOW: u64 = 0xffff_8000_0000_0000;
/// Start of the image window: the top 2 GiB.
pub const IMAGE: u64 = 0xffff_ffff_8000_0000;
/// Physical address that the image is linked and loaded at.
pub const IMAGE_PHYS: u64 = 0x20_0000;

/// Where kernel-owned physical memory is in the window.
pub const fn window(phys: HostPhys) -> HostVirt {
    HostVirt(WINDOW + phys.0)
}

/// The physical address of an address in the window.
pub const fn window_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0 - WINDOW)
}

/// The physical address of an address in the kernel image.
pub const fn image_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0 - IMAGE)
}

/// First guest-physical address that no mapping can have: 48 bits, what a 4-level table translates.
pub const GUEST_END: u64 = 1 << 48;

/// Most interrupt lines that the kernel handles: one vector each.
pub const MAX_LINES: usize = 120;
