//! The machine's power, as an object: who holds a capability to it may end the machine.

use crate::arch;
use crate::cell::Ref;
use crate::object::{Header, Object};
use abi::Status;
use abi::cap::Kind;
use abi::syscall::PowerAction;

/// The machine's power.
#[repr(C, align(64))]
pub struct PlatformObject {
    /// Common part.
    pub header: Header,
}

// SAFETY: repr(C), header first, 64-byte aligned.
unsafe impl Object for PlatformObject {
    const KIND: Kind = Kind::Platform;
}

static OBJECT: PlatformObject = PlatformObject { header: Header::fixed(Kind::Platform) };

/// The one machine.
pub fn object() -> Ref<PlatformObject> {
    Ref::from_static(&OBJECT)
}

/// [`abi::Op::Power`]: returns only if it fails.
pub fn power(action: PowerAction) -> Status {
    arch::power(action)
}
