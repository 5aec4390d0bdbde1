//! Where things are in the guest's physical address space.
use core::ops::Range;

/// The distributor.
pub const DISTRIBUTOR: u64 = 0x0800_0000;
/// Size of a GICv2's distributor (IHI 0048, 4.1.2).
pub const DISTRIBUTOR_V2_SIZE: u64 = 0x1000;
/// Size of a GICv3's distributor (IHI 0069, 12.8).
pub const DISTRIBUTOR_V3_SIZE: u64 = 0x1_0000;
/// A GICv2's CPU interface: the machine's virtual one.
pub const CPU_INTERFACE: u64 = 0x0801_0000;
/// Its size.
pub const CPU_INTERFACE_SIZE: u64 = 0x2000;
/// A GICv3's redistributors, one after the other in the order of the vCPUs.
pub const REDISTRIBUTORS: u64 = 0x080a_0000;
/// Size of a redistributor: its own registers, then those of SGIs and PPIs (IHI 0069, 12.10).
pub const REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// Size of the serial port's registers.
pub const SERIAL_SIZE: u64 = 0x1000;
/// RAM may be here.
pub const RAM: Range<u64> = 0x4000_0000..1 << 39;
