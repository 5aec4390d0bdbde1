//! What all kernel objects have in common: kind, payer, origin.

use crate::cell::Ref;
use crate::domain::Domain;
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use abi::Status;
use abi::cap::Kind;

/// First part of every kernel object.
#[repr(C)]
pub struct Header {
    /// Kind of the object that this header belongs to.
    pub kind: Kind,
    ending: AtomicU8,
    /// Slot of the capability that the creation made.
    pub origin: AtomicU32,
    /// The domain whose quota paid for it; `None` for objects made at boot.
    pub payer: Option<Ref<Domain>>,
    /// List of the payer's objects, then of the retired ones; under the payer's lock.
    pub next: AtomicU64,
    /// As `next`.
    pub prev: AtomicU64,
    /// Link in the list of objects that a CPU is to detach; under its inbox's lock.
    pub ending_next: AtomicU64,
}

/// How far the end of an object that a CPU holds on to has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ending {
    /// Not asked for.
    Alive = 0,
    /// Its CPU has been asked.
    Requested = 1,
    /// Nothing on its CPU refers to it any more.
    Detached = 2,
}

impl Header {
    /// How far its end has come.
    pub fn ending(&self) -> Ending {
        match self.ending.load(Ordering::Acquire) {
            0 => Ending::Alive,
            1 => Ending::Requested,
            _ => Ending::Detached,
        }
    }

    /// Sets how far its end has come.
    pub fn set_ending(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Release);
    }

    /// The header of an object of `kind` that is there from the start and never ends.
    pub const fn fixed(kind: Kind) -> Header {
        Header {
            kind,
            payer: None,
            origin: AtomicU32::new(0),
            next: AtomicU64::new(0),
            prev: AtomicU64::new(0),
            ending: AtomicU8::new(0),
            ending_next: AtomicU64::new(0),
        }
    }

    /// The header of an object of `kind` that `payer` pays for.
    pub fn new(kind: Kind, payer: Option<Ref<Domain>>) -> Header {
        Header {
            kind,
            payer,
            origin: AtomicU32::new(0),
            next: AtomicU64::new(0),
            prev: AtomicU64::new(0),
            ending: AtomicU8::new(0),
            ending_next: AtomicU64::new(0),
        }
    }
}

/// A kernel object that a capability can name.
///
/// # Safety
/// The type is `repr(C)`, starts with a [`Header`] whose kind is `KIND`, and its address is a
/// multiple of 64.
pub unsafe trait Object: Sized + Sync {
    /// Its kind.
    const KIND: Kind;
}

/// Reference to the header of any object.
pub type AnyRef = Ref<Header>;

/// The header of `object`.
pub fn header<T: Object>(object: Ref<T>) -> AnyRef {
    // SAFETY: an Object starts with its Header.
    unsafe { Ref::from_address(object.address()) }
}

/// The object that `any` is the header of.
pub fn downcast<T: Object>(any: AnyRef) -> Result<Ref<T>, Status> {
    if any.kind != T::KIND {
        return Err(Status::BadCapability);
    }
    // SAFETY: the header says that it belongs to a T.
    Ok(unsafe { Ref::from_address(any.address()) })
}

/// A doubly linked list of objects through their headers; the owner of the list locks it.
pub struct ObjectList {
    head: u64,
}

impl ObjectList {
    /// An empty list.
    pub const fn new() -> ObjectList {
        ObjectList { head: 0 }
    }

    /// The object that was added last.
    pub fn first(&self) -> Option<AnyRef> {
        // SAFETY: the list holds addresses of headers only, each removed before its object ends.
        (self.head != 0).then(|| unsafe { Ref::from_address(self.head) })
    }

    /// Adds an object at the front.
    pub fn push(&mut self, object: AnyRef) {
        object.prev.store(0, Ordering::Relaxed);
        object.next.store(self.head, Ordering::Relaxed);
        if let Some(first) = self.first() {
            first.prev.store(object.address(), Ordering::Relaxed);
        }
        self.head = object.address();
    }

    /// Takes out an object that is on this list.
    pub fn remove(&mut self, object: AnyRef) {
        let next = object.next.load(Ordering::Relaxed);
        let prev = object.prev.load(Ordering::Relaxed);
        if next != 0 {
            // SAFETY: as in `first`.
            unsafe { Ref::<Header>::from_address(next) }
                .prev
                .store(prev, Ordering::Relaxed);
        }
        if prev != 0 {
            // SAFETY: as in `first`.
            unsafe { Ref::<Header>::from_address(prev) }
                .next
                .store(next, Ordering::Relaxed);
        } else {
            self.head = next;
        }
        object.next.store(0, Ordering::Relaxed);
        object.prev.store(0, Ordering::Relaxed);
    }
}

impl Default for ObjectList {
    fn default() -> ObjectList {
        ObjectList::new()
    }
}
