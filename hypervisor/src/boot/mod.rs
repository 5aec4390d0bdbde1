//! What every architecture's boot code collects before it enters the kernel's core.

pub mod handover;
#[cfg(target_os = "none")]
pub mod image;
pub mod loader;
pub mod memory_map;
pub mod params;

pub use memory_map::{MemoryMap, PhysRange, Region, RegionKind};
pub use params::{BootParams, CommandLine};
