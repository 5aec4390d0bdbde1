//! What boot code does with what the loader handed over, on every architecture.

use super::{BootParams, PhysRange, RegionKind};
use crate::arch::layout;
use abi::bundle::{BundleError, Digest, Head};

/// Size of the object pool in MiB, unless the command line says `pool=` with 4 to 1024.
const POOL_MIB: u64 = 8;
/// Alignment of the pool: the largest page that the kernel is mapped with.
const POOL_ALIGN: u64 = 2 << 20;

/// Checks the head of the bundle in `range` and the root task behind it.
///
/// # Safety
/// The range is mapped in the window, and nobody writes to it.
pub unsafe fn read_bundle(range: PhysRange) -> Result<Head, BundleError> {
    let size = range.size();
    let start = layout::window(range.start()).0 as *const u8;
    // SAFETY: the caller's promise.
    let bytes = unsafe { core::slice::from_raw_parts(start, size as usize) };
    let head = Head::decode(bytes, size)?;
    let mut digest = Digest::new();
    for segment in head.segments() {
        // In range: `decode` has checked.
        digest.update(&bytes[segment.offset as usize..(segment.offset + segment.size) as usize]);
    }
    if digest.finish() != head.root_checksum {
        return Err(BundleError::BadChecksum);
    }
    Ok(head)
}

/// Takes free memory in `within` for the object pool.
pub fn claim_pool(params: &mut BootParams, within: PhysRange) -> Option<PhysRange> {
    let asked = params.command_line.number("pool");
    let mib = asked.filter(|mib| (4..=1024).contains(mib)).unwrap_or(POOL_MIB);
    // Whole large pages.
    let map = &mut params.memory_map;
    let pool = map.find(mib.next_multiple_of(2) << 20, POOL_ALIGN, within)?;
    map.claim(pool, RegionKind::Kernel).ok()?;
    Some(pool)
}
