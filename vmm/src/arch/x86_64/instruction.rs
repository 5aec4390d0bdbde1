//! Instructions of the guest: finding them in its memory, and what those do that touch devices.
//!
//! Decoding is iced-x86's. What is emulated is what kernels use on device memory; a guest that uses anything else
//! there gets an invalid-opcode exception.

mod arithmetic;
pub mod fetch;
pub mod mmio;
pub mod operand;
pub mod string;

use iced_x86::MemorySize;

use crate::arch::x86_64::paging::WalkError;

/// Prepares the decoder's tables, which it keeps on the heap. Handler threads allocate nothing, so this comes
/// before them.
pub fn prepare() {
    let _ = iced_x86::Decoder::with_ip(64, &[0x90], 0, 0).decode();
}

/// Why an instruction cannot be emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulationError {
    /// An operand in memory: the guest gets #PF with this error code for this address.
    PageFault(u32, u64),
    /// #GP.
    Protection,
    /// The bytes are no instruction, or none that is emulated: #UD.
    Unsupported,
}

impl EmulationError {
    /// The exception for a failed translation of `linear`.
    pub fn walk(error: WalkError, linear: u64) -> EmulationError {
        match error {
            WalkError::Fault(code) => EmulationError::PageFault(code, linear),
            WalkError::NotCanonical => EmulationError::Protection,
            WalkError::TablesNotRam | WalkError::Unsteady => EmulationError::Unsupported,
        }
    }
}

/// Bytes of an integer operand in memory.
fn size_of(size: MemorySize) -> Option<u8> {
    use MemorySize::*;
    Some(match size {
        UInt8 | Int8 => 1,
        UInt16 | Int16 => 2,
        UInt32 | Int32 => 4,
        UInt64 | Int64 => 8,
        _ => return None,
    })
}

#[cfg(test)]
mod testing {
    use crate::arch::x86_64::state::StatePage;
    use crate::memory::testing::ram;
    use crate::memory::{GuestPhys, GuestRam};
    use crate::state::testing::page;
    use abi::vcpu::x86_64::Segment;

    /// A guest in 32-bit protected mode without paging that is about to execute `code`, with `data` at 0x2000.
    pub fn guest(code: &[u8], data: &[u8]) -> (GuestRam, StatePage) {
        let ram = ram(&[(0, 0x4000)]);
        ram.write(GuestPhys(0x1000), code).unwrap();
        ram.write(GuestPhys(0x2000), data).unwrap();
        let mut state: StatePage = page();
        state.set_cs(Segment { access: 0x409b, limit: u32::MAX, ..Segment::default() });
        state.set_rip(0x1000);
        (ram, state)
    }
}
