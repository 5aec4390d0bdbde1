//! What all kernel objects have in common: kind, payer, origin.

use crate::cell::Ref;
use crate::domain::Domain;
use crate::ring::{Link, Linked};
use crate::slot::Slot;
use crate::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use abi::Status;
use abi::cap::Kind;
use core::mem::offset_of;

/// First part of every kernel object.
#[repr(C)]
pub struct Header {
    /// Kind of the object that this header belongs to.
    pub kind: Kind,
    ending: AtomicU8,
    /// Slot of the capability that the creation made.
    pub origin: AtomicU32,
    /// The domain whose quota paid for it; of the root domain, itself.
    pub payer: Ref<Domain>,
    /// Place among the payer's objects, under the payer's lock, then among the retired ones.
    pub link: Link,
    /// Link in the list of objects that a CPU is to detach, under its inbox's lock; then the epoch after which nobody
    /// uses it.
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

    /// The slot of the capability that the creation made; objects that the kernel makes itself have none.
    pub fn first_capability(&self) -> Option<Ref<Slot>> {
        Slot::from_link(self.origin.load(Ordering::Relaxed))
    }

    /// Sets how far its end has come.
    pub fn set_ending(&self, ending: Ending) {
        self.ending.store(ending as u8, Ordering::Release);
    }

    /// The header of an object of `kind` that `payer` pays for.
    pub fn new(kind: Kind, payer: Ref<Domain>) -> Header {
        Header {
            kind,
            ending: AtomicU8::new(0),
            origin: AtomicU32::new(0),
            payer,
            link: Link::new(),
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

/// Rings of objects: those that a domain pays for, and the retired ones.
pub struct Owned;

// SAFETY: objects leave the queue of the retired ones before their memory is freed.
unsafe impl Linked for Owned {
    type Object = Header;
    const LINK: usize = offset_of!(Header, link);
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
