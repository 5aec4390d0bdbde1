//! What the capabilities among the arguments of a system call name: the kernel's objects for the kinds of the ABI.

use crate::cell::Ref;
use crate::context::Context;
use crate::domain::{Domain, checked, resolve};
use crate::interrupt;
use crate::notification::Notification;
use crate::object::Object;
use crate::portal::Portal;
use crate::sched::Sched;
use crate::slot::{CapWord, Slot};
use crate::space::Space;
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use abi::argument::Cap;
use abi::cap::Kind;
use abi::kind::{self, Single, Target};
use abi::{Rights, Selector, Status};
use core::mem::offset_of;

/// A kind of which each capability names an object of one type.
pub trait Named: Single {
    /// The type.
    type Object: Object;
}

/// The objects' types by their kinds, and where their headers are.
macro_rules! named {
    ($($object:ident: $($header:ident).+;)*) => {$(
        impl Named for kind::$object {
            type Object = $object;
        }

        // SAFETY: as is asserted below; the types are repr(C).
        unsafe impl Object for $object {
            const KIND: Kind = kind::$object::KIND;
        }

        const _: () = assert!(offset_of!($object, $($header).+) == 0 && align_of::<$object>() >= 64);
    )*};
}

named! {
    Domain: header;
    Space: header;
    Thread: context.header;
    Vcpu: context.header;
    Sched: header;
    Portal: header;
    Notification: header;
}

/// A capability that was found.
pub struct Held<T> {
    /// Where it is.
    pub slot: Ref<Slot>,
    /// What was there.
    pub word: CapWord,
    /// What it names.
    pub object: Ref<T>,
}

/// What a domain's capabilities name.
impl Domain {
    /// The object.
    #[inline(always)]
    pub fn object<K: Named, const RIGHTS: u16>(
        &self,
        cap: Cap<K, RIGHTS>,
    ) -> Result<Ref<K::Object>, Status> {
        let rights = Cap::<K, RIGHTS>::RIGHTS;
        match self.address(cap.selector(), K::Object::KIND, rights) {
            // SAFETY: a capability's kind is that of the object at its address; object lifetime as in `Ref`.
            (address, Status::Success) => Ok(unsafe { Ref::from_address(address) }),
            (_, status) => Err(status),
        }
    }

    /// The same, as a part of its caller: for operations that are called all the time.
    #[inline(always)]
    pub fn object_of_hot_path<K: Named, const RIGHTS: u16>(
        &self,
        cap: Cap<K, RIGHTS>,
    ) -> Result<Ref<K::Object>, Status> {
        self.find(cap.selector(), Cap::<K, RIGHTS>::RIGHTS)
    }

    /// The address of the object that `selector` names, if it is of `kind` and the capability has `rights`. Unlike a
    /// `Result`, a pair comes in registers.
    #[inline(never)]
    fn address(&self, selector: Selector, kind: Kind, rights: Rights) -> (u64, Status) {
        match checked(self.capability(selector), kind, rights) {
            Ok(address) => (address, Status::Success),
            Err(status) => (0, status),
        }
    }

    /// The slot of the capability, for what is in it beside object, kind and rights.
    pub fn holder<K: Target, const RIGHTS: u16>(
        &self,
        cap: Cap<K, RIGHTS>,
    ) -> Result<Ref<Slot>, Status> {
        let slot = self.slot(cap.selector()).ok_or(Status::BadCapability)?;
        let word = slot.word();
        let kinds = K::KINDS;
        if word.is(Kind::Null) || !kinds.is_empty() && !kinds.contains(&word.kind()) {
            return Err(Status::BadCapability);
        }
        if !word.allows(Cap::<K, RIGHTS>::RIGHTS) {
            return Err(Status::Denied);
        }
        Ok(slot)
    }

    /// The thread or vCPU.
    pub fn context<const RIGHTS: u16>(
        &self,
        cap: Cap<kind::Context, RIGHTS>,
    ) -> Result<Ref<Context>, Status> {
        let address = self.holder(cap)?.word().address();
        // SAFETY: threads and vCPUs start with their context.
        Ok(unsafe { Ref::from_address(address) })
    }

    /// The interrupt line.
    #[inline(always)]
    pub fn line<const RIGHTS: u16>(
        &self,
        cap: Cap<kind::Interrupt, RIGHTS>,
    ) -> Result<u32, Status> {
        let word = self.capability(cap.selector());
        checked(word, Kind::Interrupt, Cap::<kind::Interrupt, RIGHTS>::RIGHTS).map(interrupt::line)
    }

    /// The object, with the slot of the capability and what that held.
    #[inline(always)]
    pub fn held<K: Named, const RIGHTS: u16>(
        &self,
        cap: Cap<K, RIGHTS>,
    ) -> Result<Held<K::Object>, Status> {
        let slot = self.slot_of_hot_path(cap.selector());
        let slot = slot.ok_or(Status::BadCapability)?;
        let word = slot.word();
        let object = resolve(word, Cap::<K, RIGHTS>::RIGHTS)?;
        Ok(Held { slot, word, object })
    }

    /// The notification and the bits that the capability may signal. Takes no lock.
    #[inline(always)]
    pub fn signal_target<const RIGHTS: u16>(
        &self,
        cap: Cap<kind::Notification, RIGHTS>,
    ) -> Result<(Ref<Notification>, u64), Status> {
        let slot = self.slot_of_hot_path(cap.selector()).ok_or(Status::BadCapability)?;
        let (word, badge) = slot.badge().ok_or(Status::BadCapability)?;
        let notification = resolve(word, Cap::<kind::Notification, RIGHTS>::RIGHTS)?;
        Ok((notification, badge))
    }
}
