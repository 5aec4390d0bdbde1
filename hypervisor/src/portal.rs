//! Portals: endpoints of synchronous calls.

use crate::cell::Ref;
use crate::object::Header;
use crate::ring::{Link, Linked};
use crate::space::Progress;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::thread::Thread;
use core::mem::offset_of;

/// A portal, bound to a handler thread; it belongs to the handler's CPU.
#[repr(C, align(64))]
pub struct Portal {
    /// Common part.
    pub header: Header,
    handler: AtomicU64,
    /// What the handler receives: the caller cannot change it.
    pub identity: u64,
    /// vCPU state groups that an exit through this portal saves.
    pub groups: u64,
    /// Place among the handler's portals; under the lock of `bind`.
    link: Link,
}

/// Rings of portals that a thread handles.
pub struct Handled;

// SAFETY: a portal is unbound before it ends.
unsafe impl Linked for Handled {
    type Object = Portal;
    const LINK: usize = offset_of!(Portal, link);
}

/// Offsets for the fast path.
pub mod offset {
    use super::Portal;
    use core::mem::offset_of;
    /// Address of the handler thread, or 0.
    pub const HANDLER: usize = offset_of!(Portal, handler);
    /// The identity.
    pub const IDENTITY: usize = offset_of!(Portal, identity);
    /// The groups of state.
    pub const GROUPS: usize = offset_of!(Portal, groups);
}

impl Portal {
    /// A portal that nobody handles yet.
    pub fn new(header: Header, identity: u64, groups: u64) -> Portal {
        Portal { header, handler: AtomicU64::new(0), identity, groups, link: Link::new() }
    }

    /// The thread that handles calls, unless it has ended.
    #[inline(always)]
    pub fn handler(&self) -> Option<Ref<Thread>> {
        let address = self.handler.load(Ordering::Acquire);
        // SAFETY: only `bind` stores an address, and the thread's end removes it.
        (address != 0).then(|| unsafe { Ref::from_address(address) })
    }
}

/// Portals that a thread loses at once.
const BATCH: usize = 16;

static BINDINGS: TicketMutex<()> = TicketMutex::new(());

/// Makes `thread` the handler of `portal`.
pub fn bind(portal: Ref<Portal>, thread: Ref<Thread>) {
    let _lock = BINDINGS.lock();
    thread.portals.push(portal);
    portal.handler.store(thread.address(), Ordering::Release);
}

/// Takes the handler away; calls get `Dead` from now on.
pub fn unbind(portal: Ref<Portal>) {
    let _lock = BINDINGS.lock();
    portal.handler.store(0, Ordering::Release);
    portal.link.unlink();
}

/// Takes a batch of portals away from `thread`, which is about to end and gets no new ones.
pub fn unbind_some(thread: Ref<Thread>) -> Progress {
    let _lock = BINDINGS.lock();
    for _ in 0..BATCH {
        match thread.portals.pop() {
            Some(portal) => portal.handler.store(0, Ordering::Release),
            None => return Progress::Done,
        }
    }
    Progress::Again
}
