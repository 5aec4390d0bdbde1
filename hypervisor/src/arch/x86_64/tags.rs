//! Tags of translations: PCIDs of host spaces, VPIDs or ASIDs of vCPUs.

use crate::tags::TagPool;
use abi::syscall::SpaceKind;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

const PCIDS: usize = 4096;
static PCID_ENABLED: AtomicBool = AtomicBool::new(false);
static TAGS: TagPool<{ PCIDS / 64 }> = TagPool::all_free();

/// Whether PCIDs are used.
pub fn set_pcid_enabled(enabled: bool) {
    PCID_ENABLED.store(enabled, Ordering::Relaxed);
}

/// A tag for a space of `kind`; 0 if there is none, which costs a flush at each switch.
pub fn alloc_space_tag(kind: SpaceKind) -> u16 {
    if kind == SpaceKind::Host && PCID_ENABLED.load(Ordering::Relaxed) { TAGS.alloc() } else { 0 }
}

/// Returns a tag. No CPU has translations with it: the space's epoch is over.
pub fn free_space_tag(tag: u16) {
    TAGS.free(tag);
}

static GUEST_TAGS: AtomicU16 = AtomicU16::new(2);

/// How many tags the processor has for guests; tag 0 is the host's.
pub fn set_guest_tags(count: u16) {
    GUEST_TAGS.store(count.max(2), Ordering::Relaxed);
}

/// Tags of one CPU: given out in turn, and all flushed when they run out. A vCPU keeps its tag as long as the
/// generation lasts.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct GuestTags {
    generation: u64,
    next: u16,
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
    /// No tag given out.
    pub const NEW: GuestTags = GuestTags { generation: 1, next: 1 };

    /// All translations are void: a new generation begins, in which each tag is flushed before its first use.
    pub fn flush(&mut self) {
        *self = GuestTags { generation: self.generation + 1, next: 1 };
    }

    /// Makes `tag` valid; whether its translations must be flushed before it is used.
    pub fn renew(&mut self, tag: &mut GuestTag) -> bool {
        if tag.generation == self.generation {
            return false;
        }
        if self.next >= GUEST_TAGS.load(Ordering::Relaxed) {
            self.flush();
        }
        *tag = GuestTag { generation: self.generation, tag: self.next };
        self.next += 1;
        true
    }
}
