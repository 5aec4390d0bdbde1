//! What every architecture's boot code collects before it enters the kernel's core.

pub mod acpi;
pub mod fdt;
pub mod handover;
#[cfg(target_os = "none")]
pub mod image;
pub mod loader;
pub mod madt;
pub mod memory_map;
pub mod multiboot2;
pub mod params;
pub mod pvh;

pub use memory_map::{MemoryMap, PhysRange, Region, RegionKind};
pub use params::{BootParams, CommandLine};
