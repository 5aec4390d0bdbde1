//! Virtual address layout of the kernel. EL2 has an address space of its own: programs are not in it.
//!
//! | range | what |
//! | --- | --- |
//! | [`WINDOW`] + physical | kernel pool, CPU data, the kernel's own device registers and its start-up code; during boot what the loader handed over |
//! | [`IMAGE`] | the kernel image |

use crate::addr::{HostPhys, HostVirt};
use core::sync::atomic::{AtomicU64, Ordering};

/// Start of the window in which kernel-owned physical memory appears.
pub const WINDOW: u64 = 0;
/// Start of the image. Bit 47 is clear in all kernel addresses: capabilities extend it ([`crate::slot::CapWord`]).
pub const IMAGE: u64 = 0x0000_7fff_8000_0000;
/// First guest-physical address that no mapping can have: 39 bits, what one table at level 1 translates.
pub const GUEST_END: u64 = 1 << 39;

static LOADED_AT: AtomicU64 = AtomicU64::new(0);

/// Notes where the loader has put the image.
pub fn set_image_phys(at: HostPhys) {
    LOADED_AT.store(at.0, Ordering::Relaxed);
}

/// Where kernel-owned physical memory is in the window.
pub const fn window(phys: HostPhys) -> HostVirt {
    HostVirt(WINDOW + phys.0)
}

/// The physical address of an address in the window.
pub const fn window_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0 - WINDOW)
}

/// The physical address of an address in the kernel image.
pub fn image_phys(virt: HostVirt) -> HostPhys {
    HostPhys(virt.0 - IMAGE + LOADED_AT.load(Ordering::Relaxed))
}

/// Most interrupt lines that the kernel handles: SPIs.
pub const MAX_LINES: usize = 480;
