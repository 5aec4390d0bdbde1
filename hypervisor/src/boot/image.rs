//! The segments of the kernel's image, from the linker script.

use crate::addr::HostVirt;
use crate::mem::PAGE;
use crate::tables::KernelRights;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __bss_end: u8;
}

/// Address in the image window, size in bytes (whole pages) and rights of each segment.
pub fn segments() -> [(HostVirt, u64, KernelRights); 3] {
    let segment = |start: *const u8, end: *const u8, rights| {
        let start = start.addr() as u64;
        let end = (end.addr() as u64).next_multiple_of(PAGE);
        (HostVirt(start), end - start, rights)
    };
    [
        segment(&raw const __text_start, &raw const __text_end, KernelRights::ReadExecute),
        segment(&raw const __rodata_start, &raw const __rodata_end, KernelRights::Read),
        segment(&raw const __data_start, &raw const __bss_end, KernelRights::ReadWrite),
    ]
}
