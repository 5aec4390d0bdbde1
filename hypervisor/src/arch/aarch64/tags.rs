//! Tags of translations: VMIDs, of host and guest spaces alike.
//!
//! A VMID belongs to a space on all CPUs: guests invalidate by broadcast.

use abi::syscall::SpaceKind;
use core::sync::atomic::{AtomicU64, Ordering};

/// What every core has (8 bits).
const VMIDS: usize = 256;
// 0 is everybody's who gets none.
static TAKEN: [AtomicU64; VMIDS / 64] = [
    AtomicU64::new(1),
    AtomicU64::new(0),
    AtomicU64::new(0),
    AtomicU64::new(0),
];

/// A tag for a space; 0 if there is none, which costs a flush at each switch.
pub fn alloc_space_tag(_kind: SpaceKind) -> u16 {
    for (i, word) in TAKEN.iter().enumerate() {
        let free = word.load(Ordering::Relaxed).trailing_ones();
        if free < 64 && word.fetch_or(1 << free, Ordering::Relaxed) & 1 << free == 0 {
            return (i * 64) as u16 + free as u16;
        }
    }
    0
}

/// Returns a tag. No CPU has translations with it: the space's epoch is over.
pub fn free_space_tag(tag: u16) {
    if tag != 0 {
        TAKEN[tag as usize / 64 % TAKEN.len()].fetch_and(!(1 << (tag % 64)), Ordering::Relaxed);
    }
}
