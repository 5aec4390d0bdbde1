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
            WalkError::TablesNotRam => EmulationError::Unsupported,
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

/// The lower `size` bytes of a value.
const fn truncate(value: u64, size: u8) -> u64 {
    match size {
        1 => value & 0xff,
        2 => value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    }
}

/// Sign-extends the lower `size` bytes of a value.
const fn sign_extend(value: u64, size: u8) -> u64 {
    match size {
        1 => value as i8 as u64,
        2 => value as i16 as u64,
        4 => value as i32 as u64,
        _ => value,
    }
}
