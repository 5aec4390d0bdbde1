//! Who is called: servers in the domain of the measuring thread and in domains of their own.

use crate::place::Place;
use abi::boot::ROOT_DOMAIN;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{PAGE_SIZE, Rights, Selector};
use rt::syscall::{self, Result, ThreadParameters};

/// Where a server starts: with its first call, registers as after `ReplyWait`.
pub type Entry = extern "C" fn() -> !;

/// Where a compartment's thread has its UTCB.
pub const UTCB: u64 = 0x5000_0000;
/// Quota of a compartment in pages, and slots of its table.
const PAGES: u64 = 64;
const SLOTS: u64 = 64;

/// A domain with a space that has this program's code and what is constant of it, for one thread.
pub struct Compartment {
    /// The domain.
    pub domain: Selector,
    /// Its space.
    pub space: Selector,
    stack_top: u64,
}

impl Compartment {
    /// A new one.
    pub fn create(place: &mut Place) -> Result<Compartment> {
        let (domain, space) = (place.selector(), place.selector());
        syscall::create_domain(ROOT_DOMAIN, domain, PAGES, SLOTS)?;
        syscall::create_space(domain, space, SpaceKind::Host)?;
        trial::map_code(&place.head, space, place.selectors(8))?;
        let stack = place.page(PAGE_SIZE as u64, Rights::RW);
        syscall::map(place.ram, space, place.selector(), &stack)?;
        Ok(Compartment { domain, space, stack_top: stack.address + stack.size })
    }

    /// Its thread, which runs on its callers' time.
    pub fn thread(&self, place: &Place, entry: Entry) -> Result<Selector> {
        let thread = place.selector();
        let parameters = ThreadParameters {
            domain: self.domain,
            space: self.space,
            cpu: 0,
            utcb: UTCB,
            ip: entry as *const () as u64,
            sp: self.stack_top,
            exceptions: Selector::NULL,
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(self.domain, thread, &parameters)?;
        Ok(thread)
    }

    /// Its thread as a server; the portal, with `identity`.
    pub fn server(&self, place: &Place, entry: Entry, identity: u64) -> Result<Selector> {
        let (thread, portal) = (self.thread(place, entry)?, place.selector());
        syscall::create_portal(ROOT_DOMAIN, portal, thread, identity, 0)?;
        Ok(portal)
    }
}

/// The portal of a server in the domain of the measuring thread, without a stack.
pub fn in_same_domain(place: &mut Place, entry: Entry) -> Result<Selector> {
    let (thread, portal) = (place.selector(), place.selector());
    trial::create_thread(thread, place.utcb_address(), entry, PAGE_SIZE as u64)?;
    syscall::create_portal(ROOT_DOMAIN, portal, thread, 0, 0)?;
    Ok(portal)
}

/// The portal of a server in a domain of its own.
pub fn in_other_domain(place: &mut Place, entry: Entry) -> Result<Selector> {
    Compartment::create(place)?.server(place, entry, 0)
}
