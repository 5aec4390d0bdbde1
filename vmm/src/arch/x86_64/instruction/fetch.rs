//! Fetching and decoding the instruction at the guest's instruction pointer.
use super::EmulationError;
use crate::arch::x86_64::paging::{Access, Paging};
use crate::arch::x86_64::state::StatePage;
use crate::memory::GuestRam;
use iced_x86::{Decoder, DecoderOptions, Instruction};

/// Most bytes of an instruction.
const LONGEST: usize = 15;
/// Segment access rights: 64-bit code.
const SEGMENT_LONG: u32 = 1 << 13;
/// Segment access rights: 32-bit.
const SEGMENT_DEFAULT: u32 = 1 << 14;

/// The bytes at the guest's instruction pointer: a copy, so that what is decoded is what is emulated.
#[derive(Clone, Copy, Debug)]
pub struct Fetched {
    bytes: [u8; LONGEST],
    length: usize,
    /// 16, 32 or 64.
    pub bits: u32,
    rip: u64,
}

/// Code size of the guest in bits; needs groups `CONTROL` and `CS_SS`.
pub fn code_bits(state: &StatePage, paging: &Paging) -> u32 {
    let access = state.cs().access;
    if paging.long_mode() && access & SEGMENT_LONG != 0 {
        64
    } else if access & SEGMENT_DEFAULT != 0 {
        32
    } else {
        16
    }
}

/// Copies the bytes at the instruction pointer; needs groups `RIP`, `CONTROL` and `CS_SS`. Permissions are not
/// tested: the processor has executed the instruction already.
pub fn fetch(ram: &GuestRam, state: &StatePage) -> Result<Fetched, EmulationError> {
    let paging = Paging::of(state);
    let bits = code_bits(state, &paging);
    let rip = state.rip();
    let base = state.cs().base;
    let linear = if bits == 64 { rip } else { base.wrapping_add(rip) & 0xffff_ffff };
    let mut fetched = Fetched { bytes: [0; LONGEST], length: 0, bits, rip };
    // At most two pages.
    while fetched.length < LONGEST {
        let at = linear.wrapping_add(fetched.length as u64);
        let in_page = abi::PAGE_SIZE - at as usize % abi::PAGE_SIZE;
        let end = (fetched.length + in_page).min(LONGEST);
        let part = paging
            .translate(ram, at, Access::default())
            .map_err(|error| EmulationError::walk(error, at))
            .and_then(|physical| {
                let bytes = &mut fetched.bytes[fetched.length..end];
                ram.read(physical, bytes).map_err(|_| EmulationError::Unsupported)
            });
        match part {
            Ok(()) => {}
            // The instruction may end before the page that is missing.
            Err(_) if fetched.length > 0 => break,
            Err(error) => return Err(error),
        }
        fetched.length = end;
    }
    Ok(fetched)
}

impl Fetched {
    /// Decodes the instruction.
    pub fn decode(&self) -> Result<Instruction, EmulationError> {
        let bytes = &self.bytes[..self.length];
        let instruction =
            Decoder::with_ip(self.bits, bytes, self.rip, DecoderOptions::NONE).decode();
        if instruction.is_invalid() { Err(EmulationError::Unsupported) } else { Ok(instruction) }
    }
}
