//! Capability slots and the tree of derivations that they form.
//!
//! A slot is one cache line. Its first word holds object, kind and rights together, so that a reader
//! on another CPU sees either the old capability or the new one and never a mixture; the
//! hot paths read nothing else. Everything else is read and written under the tree's lock.

use crate::cell::Ref;
use crate::mem;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::{TicketMutex, TicketMutexGuard};
use abi::cap::{Kind, Rights};

/// Object, kind and rights in one word: bits 0–5 kind, 6–47 address, 48–63 rights. Interrupt lines have their number in place of
/// the address; memory, time, log and platform have 0 there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CapWord(pub u64);

impl CapWord {
    /// No capability.
    pub const NULL: CapWord = CapWord(0);

    /// Packs a capability; `address` is 64-byte aligned or 0.
    pub fn new(kind: Kind, rights: Rights, address: u64) -> CapWord {
        debug_assert!(address & 63 == 0);
        CapWord((rights.bits() as u64) << 48 | address & 0xffff_ffff_ffc0 | kind as u64)
    }

    /// The kind.
    #[inline(always)]
    pub fn kind(self) -> Kind {
        Kind::from_code((self.0 & 63) as u8).unwrap_or(Kind::Null)
    }

    /// Whether it is a capability to an object of `kind`.
    #[inline(always)]
    pub fn is(self, kind: Kind) -> bool {
        self.0 & 63 == kind as u64
    }

    /// The rights.
    #[inline(always)]
    pub fn rights(self) -> Rights {
        Rights::from_bits_truncate((self.0 >> 48) as u16)
    }

    /// The object's address (sign-extended from bit 47), or 0.
    #[inline(always)]
    pub fn address(self) -> u64 {
        (((self.0 << 16) as i64 >> 16) as u64) & !63
    }

    /// Whether it has all of `rights`.
    #[inline(always)]
    pub fn allows(self, rights: Rights) -> bool {
        self.rights().contains(rights)
    }
}

/// Position of a slot in the pool, in units of slots, plus one; 0 is none.
pub type Link = AtomicU32;

/// Lists of slots.
#[derive(Clone, Copy)]
pub enum List {
    /// Of what was derived from the same capability.
    Siblings = 0,
    /// Of mappings in the same space, or of what is bound through the same capability to a notification.
    Bound = 1,
}

/// A place in a list.
#[repr(C)]
struct Place {
    next: Link,
    prev: Link,
}

/// A capability slot.
#[repr(C, align(64))]
pub struct Slot {
    word: AtomicU64,
    /// Memory: base. Mapping: address. Notification: badge, which is read without the lock. Doorbell: where it starts
    /// ([`crate::doorbell`]).
    pub first: AtomicU64,
    /// Memory, mapping: size in bytes (ports: in ports).
    pub second: AtomicU64,
    /// [`ORIGIN`], [`ZOMBIE`], [`ENDING`], [`DOORBELL`]; memory and mapping: [`abi::cap::MemoryKind`] in bits 8–15; above
    /// them, how often it was said what the slot holds.
    pub extra: AtomicU64,
    parent: Link,
    child: Link,
    /// By [`List`]. Of what is bound through a capability to a notification, the list begins in that one's own place.
    places: [Place; 2],
    /// Mapping: how many of its bytes (ports) are mapped. Interrupt line, scheduling context, log: position of the
    /// capability to the notification that it is bound to through this one, or 0.
    pub done: AtomicU64,
}

const _: () = assert!(core::mem::size_of::<Slot>() == 64);

/// The capability that the creation made: deleting it destroys the object.
pub const ORIGIN: u64 = 1 << 0;
/// Revoked, but still holding its place in the tree until its descendants are gone.
pub const ZOMBIE: u64 = 1 << 1;
/// With [`ORIGIN`] and [`ZOMBIE`]: the object is ending. Its address is in `first`.
pub const ENDING: u64 = 1 << 2;

/// One description more, in [`Slot::extra`].
const TURN: u64 = 1 << 16;
/// The mapping is one of a notification.
pub const DOORBELL: u64 = 1 << 3;

static TREE: TicketMutex<()> = TicketMutex::new(());

/// Offsets for the fast path.
pub mod offset {
    use super::{Slot, TURN};
    use core::mem::offset_of;
    /// `first`.
    pub const FIRST: usize = offset_of!(Slot, first);
    /// `extra`.
    pub const EXTRA: usize = offset_of!(Slot, extra);
    /// In `extra`, the first bit of the number of descriptions.
    pub const TURN_SHIFT: u32 = TURN.trailing_zeros();
    const _: () = assert!(offset_of!(Slot, word) == 0);
}

/// Proof that the tree is locked.
pub struct Tree(#[allow(dead_code)] TicketMutexGuard<'static, ()>);

/// Locks the tree of derivations, if no other CPU has it locked: who waits for that does so in user mode.
#[inline(never)]
pub fn try_lock() -> Option<Tree> {
    TREE.try_lock().map(Tree)
}

/// Locks the tree of derivations while nothing but the boot is under way.
#[inline(never)]
pub fn lock() -> Tree {
    Tree(TREE.lock())
}

fn to_ref(link: u32) -> Option<Ref<Slot>> {
    if link == 0 {
        return None;
    }
    // SAFETY: links are made by `index` from slots in the pool, and removed before the table that
    // holds the slot is freed.
    Some(unsafe { Ref::from_address(mem::base() + (link as u64 - 1) * 64) })
}

fn index(slot: &Slot) -> u32 {
    ((slot as *const Slot as u64 - mem::base()) / 64 + 1) as u32
}

impl Slot {
    /// The capability, without the lock.
    #[inline(always)]
    pub fn word(&self) -> CapWord {
        CapWord(self.word.load(Ordering::Acquire))
    }

    /// Whether a new capability can be put here.
    pub fn is_free(&self) -> bool {
        self.word.load(Ordering::Acquire) == 0 && self.extra.load(Ordering::Relaxed) & ZOMBIE == 0
    }

    /// This slot's position, for objects that remember their origin.
    pub fn link(&self) -> u32 {
        index(self)
    }

    /// The slot at a position from [`Slot::link`].
    pub fn from_link(link: u32) -> Option<Ref<Slot>> {
        to_ref(link)
    }

    /// The capability and its badge, without the lock; `None` if the slot changes meanwhile. Word and badge alone
    /// could be those of the same capability, gone and back, with somebody else's badge in between.
    pub fn badge(&self) -> Option<(CapWord, u64)> {
        let turn = || self.extra.load(Ordering::Acquire) / TURN;
        let (before, word) = (turn(), self.word());
        let badge = self.first.load(Ordering::Acquire);
        (self.word() == word && turn() == before).then_some((word, badge))
    }

    /// Says what the slot holds from now on: flags, and the kind of memory. The slot has no capability now; what comes
    /// after this is visible only with it.
    #[inline(always)]
    fn describe(&self, _tree: &Tree, flags: u64) {
        let turns = self.extra.load(Ordering::Relaxed) & !(TURN - 1);
        let described = turns.wrapping_add(TURN) | flags;
        self.extra.store(described, Ordering::Release);
    }

    /// What is in `first` and `second`. The tree is locked.
    pub fn range(&self) -> [u64; 2] {
        [&self.first, &self.second].map(|word| word.load(Ordering::Relaxed))
    }

    /// Puts a capability into the free slot. It is published last.
    #[inline(always)]
    pub fn fill(&self, tree: &Tree, word: CapWord, [first, second]: [u64; 2], flags: u64) {
        self.describe(tree, flags);
        self.first.store(first, Ordering::Release);
        self.second.store(second, Ordering::Relaxed);
        self.word.store(word.0, Ordering::Release);
    }

    /// Withdraws the capability; the slot keeps its place in the tree. If it is the first one of its object, that is about
    /// to end.
    pub fn withdraw(&self, _tree: &Tree) {
        let ending = self.own_object();
        let flags = if ending == 0 { ZOMBIE } else { ZOMBIE | ENDING };
        self.word.store(0, Ordering::Release);
        self.extra.fetch_or(flags, Ordering::Relaxed);
        if ending != 0 {
            // Last: as long as the capability is there, this is its badge.
            self.first.store(ending, Ordering::Release);
        }
    }

    /// Address of the object that ends with this capability, or 0.
    pub fn own_object(&self) -> u64 {
        let extra = self.extra.load(Ordering::Relaxed);
        match (extra & ORIGIN != 0, extra & ENDING != 0) {
            (false, _) => 0,
            (true, false) => self.word().address(),
            (true, true) => self.first.load(Ordering::Relaxed),
        }
    }

    /// Takes the slot, which is a leaf, out of the tree and empties it.
    #[inline(never)]
    pub fn clear(&self, tree: &Tree) {
        debug_assert!(self.child.load(Ordering::Relaxed) == 0);
        self.unlink(tree);
        self.word.store(0, Ordering::Release);
        self.describe(tree, 0);
        self.first.store(0, Ordering::Release);
        self.second.store(0, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
    }

    /// The first capability derived from this one.
    pub fn first_child(&self, _tree: &Tree) -> Option<Ref<Slot>> {
        to_ref(self.child.load(Ordering::Relaxed))
    }

    /// Whether this capability was derived from `parent` directly.
    pub fn is_child_of(&self, _tree: &Tree, parent: &Slot) -> bool {
        self.parent.load(Ordering::Relaxed) == index(parent)
    }

    /// Makes this slot, linked nowhere, a child of `parent`.
    #[inline(never)]
    pub fn link_under(&self, tree: &Tree, parent: &Slot) {
        self.parent.store(index(parent), Ordering::Relaxed);
        self.join(tree, List::Siblings, &parent.child);
    }

    /// Takes this slot out of its parent's children.
    pub fn unlink(&self, tree: &Tree) {
        if let Some(parent) = to_ref(self.parent.load(Ordering::Relaxed)) {
            self.leave(tree, List::Siblings, &parent.child);
            self.parent.store(0, Ordering::Relaxed);
        }
    }

    /// Moves this capability, with its place in the tree, to the free slot `to`. Only for capabilities without children and
    /// bindings, which is checked by the caller.
    pub fn move_to(&self, tree: &Tree, to: &Slot) {
        let (word, range) = (self.word(), self.range());
        let flags = self.extra.load(Ordering::Relaxed) & (TURN - 1);
        let parent = to_ref(self.parent.load(Ordering::Relaxed));
        self.clear(tree);
        to.fill(tree, word, range, flags);
        if let Some(parent) = parent {
            to.link_under(tree, &parent);
        }
    }

    /// Where the list begins of what is bound through this capability to a notification.
    pub fn bindings(&self) -> &Link {
        &self.places[List::Bound as usize].next
    }

    /// Whether something is bound through it.
    pub fn is_bound(&self) -> bool {
        self.done.load(Ordering::Relaxed) != 0 || self.bindings().load(Ordering::Relaxed) != 0
    }

    /// Whether it holds `word` now, for who has published before what is looked for once it does not.
    pub fn still_holds(&self, word: CapWord) -> bool {
        self.word.load(Ordering::SeqCst) == word.0
    }

    /// Puts this slot on the list that starts at `head`.
    #[inline(always)]
    pub fn join(&self, _tree: &Tree, list: List, head: &Link) {
        let place = &self.places[list as usize];
        let first = head.load(Ordering::Relaxed);
        place.prev.store(0, Ordering::Relaxed);
        place.next.store(first, Ordering::Relaxed);
        if let Some(first) = to_ref(first) {
            first.places[list as usize].prev.store(index(self), Ordering::Relaxed);
        }
        head.store(index(self), Ordering::Relaxed);
    }

    /// Takes this slot off the list that starts at `head`.
    #[inline(always)]
    pub fn leave(&self, _tree: &Tree, list: List, head: &Link) {
        let place = &self.places[list as usize];
        let (next, prev) = (place.next.load(Ordering::Relaxed), place.prev.load(Ordering::Relaxed));
        if let Some(next) = to_ref(next) {
            next.places[list as usize].prev.store(prev, Ordering::Relaxed);
        }
        match to_ref(prev) {
            Some(prev) => prev.places[list as usize].next.store(next, Ordering::Relaxed),
            None => head.store(next, Ordering::Relaxed),
        }
        place.next.store(0, Ordering::Relaxed);
        place.prev.store(0, Ordering::Relaxed);
    }
}
