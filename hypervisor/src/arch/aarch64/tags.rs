//! Tags of translations: VMIDs, of host and guest spaces alike.
//!
//! A VMID belongs to a space on all CPUs: guests invalidate by broadcast.

use crate::tags::TagPool;
use abi::syscall::SpaceKind;

/// What every core has (8 bits).
const VMIDS: usize = 256;
static TAGS: TagPool<{ VMIDS / 64 }> = TagPool::all_free();

/// A tag for a space; 0 if there is none, which costs a flush at each switch.
pub fn alloc_space_tag(kind: SpaceKind) -> u16 {
    // No CPU loads the tables of a device.
    if kind == SpaceKind::Device { 0 } else { TAGS.alloc() }
}

/// Returns a tag. No CPU has translations with it: the space's epoch is over.
pub fn free_space_tag(tag: u16) {
    TAGS.free(tag);
}
