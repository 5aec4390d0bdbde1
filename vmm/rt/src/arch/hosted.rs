//! Stand-ins on the developer's machine: there is no kernel below.
use super::Registers;
use abi::{Status, Tag};
use core::ops::Range;

/// A system call: not supported here.
pub fn system_call(_registers: Registers) -> Registers {
    Registers { tag: Tag::result(Status::Unsupported, 0).0, ..Registers::default() }
}

/// A portal call: not supported here.
pub fn call_portal(registers: Registers) -> Registers {
    system_call(registers)
}

/// The machine's counter: always 0 here.
pub fn counter() -> u64 {
    0
}

/// Entry point of handler threads: an address that nothing runs at here.
pub extern "C" fn handler_entry() -> ! {
    crash()
}

/// Entry point of threads with a scheduling context: an address that nothing runs at here.
pub extern "C" fn thread_entry() -> ! {
    crash()
}

/// Ends the thread with an exception.
pub fn crash() -> ! {
    std::process::abort()
}

/// Makes code that was written to these addresses visible to instruction fetches. Here: nothing to do.
pub fn make_executable(_range: Range<usize>) {}

/// Writes what the caches hold of these addresses back to memory and forgets it, for others that read and write
/// there with their caches off. Here: nothing to do.
pub fn clean_to_memory(_range: Range<usize>) {}

/// Reads an I/O port: as if nothing were there.
///
/// # Safety
/// None here; see the bare-metal version.
pub unsafe fn port_in(_port: u16) -> u8 {
    0xff
}

/// Writes an I/O port: without effect.
///
/// # Safety
/// None here; see the bare-metal version.
pub unsafe fn port_out(_port: u16, _value: u8) {}

/// Writes 16 bits to an I/O port: without effect.
///
/// # Safety
/// None here; see the bare-metal version.
pub unsafe fn port_out16(_port: u16, _value: u16) {}

/// Reads 16 bits from an I/O port: as if nothing were there.
///
/// # Safety
/// None here; see the bare-metal version.
pub unsafe fn port_in16(_port: u16) -> u16 {
    0xffff
}
