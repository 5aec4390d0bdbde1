//! Page tables and segments.
//!
//! The first 4 GiB are mapped as they are, in pages of 2 MiB, for ring 0 and ring 3.

use core::mem::size_of;

/// Present, writable, for ring 3: a table.
pub const TABLE: u32 = 7;
/// The same: a page of 2 MiB.
pub const LARGE: u32 = TABLE | 1 << 7;
/// Entries of the page directories together.
pub const DIRECTORY_ENTRIES: u32 = 2048;

/// Entries of a paging structure.
#[repr(C, align(4096))]
pub struct Entries<const N: usize>(pub [u64; N]);

/// Page directories for 4 GiB.
pub static mut DIRECTORIES: Entries<{ DIRECTORY_ENTRIES as usize }> =
    Entries([0; DIRECTORY_ENTRIES as usize]);
/// Their page-directory-pointer table.
pub static mut POINTERS: Entries<512> = Entries([0; 512]);
/// Its PML4 table.
pub static mut ROOT: Entries<512> = Entries([0; 512]);

/// Selector of ring 0's code.
pub const KERNEL_CODE: u32 = 0x08;
/// Selector of ring 0's data.
pub const KERNEL_DATA: u32 = 0x10;

/// What STAR says of ring 3's: SYSRET's data is 8 further, its code 16.
pub const USER_BASE: u32 = 0x18;
/// Selector of ring 3's data.
pub const USER_DATA: u32 = (USER_BASE + 8) | 3;
/// Selector of ring 3's code.
pub const USER_CODE: u32 = (USER_BASE + 16) | 3;

/// The segments: none; ring 0's code and data; for SYSRET: ring 3's 32-bit code, which is not used, data, and code.
static GDT: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// Operand of LGDT and LIDT.
#[repr(C, packed(2))]
pub struct TableRegister {
    /// Size in bytes, less one.
    pub limit: u16,
    /// Where it is.
    pub base: *const u64,
}

// SAFETY: the address of a static that nobody writes.
unsafe impl Sync for TableRegister {}

/// Where the segments are.
pub static GDTR: TableRegister =
    TableRegister { limit: size_of::<[u64; 6]>() as u16 - 1, base: (&raw const GDT).cast() };
