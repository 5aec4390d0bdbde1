//! Tags of translations: PCIDs of host spaces, VPIDs or ASIDs of vCPUs.

use super::virt::hw;
use crate::tags::TagPool;
use abi::syscall::SpaceKind;
use x86::controlregs::Cr4;

const PCIDS: usize = 4096;
static TAGS: TagPool<{ PCIDS / 64 }> = TagPool::all_free();

/// A tag for a space of `kind`; 0 if there is none, which costs a flush at each switch.
pub fn alloc_space_tag(kind: SpaceKind) -> u16 {
    let enabled = || hw::cr4() & Cr4::CR4_ENABLE_PCID.bits() as u64 != 0;
    if kind == SpaceKind::Host && enabled() { TAGS.alloc() } else { 0 }
}

/// Returns a tag. No CPU has translations with it: the space's epoch is over.
pub fn free_space_tag(tag: u16) {
    TAGS.free(tag);
}

/// Tags of one CPU: given out in turn, and all flushed when they run out. A vCPU keeps its tag as long as the
/// generation lasts.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestTags {
    generation: u64,
    next: u32,
    /// Tags are less; 0 is the host's.
    end: u32,
}

/// A vCPU's tag, of one generation of one CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuestTag {
    generation: u64,
    /// The number that the processor is given.
    pub tag: u16,
}

/// Where both have their generation, for the fast path.
pub const GENERATION: usize = core::mem::offset_of!(GuestTags, generation);
const _: () = assert!(GENERATION == core::mem::offset_of!(GuestTag, generation));

impl GuestTags {
    /// Tags from 1 to `end - 1`, none of them given out.
    pub const fn new(end: u32) -> GuestTags {
        GuestTags { generation: 1, next: 1, end }
    }

    /// All translations are void: a new generation begins, in which each tag is flushed before its first use.
    pub fn flush(&mut self) {
        *self = GuestTags { generation: self.generation + 1, next: 1, end: self.end };
    }

    /// Makes `tag` valid; whether its translations must be flushed before it is used.
    pub fn renew(&mut self, tag: &mut GuestTag) -> bool {
        if tag.generation == self.generation {
            return false;
        }
        if self.next >= self.end {
            self.flush();
        }
        *tag = GuestTag { generation: self.generation, tag: self.next as u16 };
        self.next += 1;
        true
    }
}
