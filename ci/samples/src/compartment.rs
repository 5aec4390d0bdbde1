//! A domain with a space, a thread and time, made by the driver and ended by it.

use crate::arch;
use crate::place::{self, Start, table};
use abi::boot::{ROOT_BUNDLE, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG, ROOT_SPACE, ROOT_TIME};
use abi::bundle::Head;
use abi::cap::TimeLimit;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{Badge, Rights, Selector};
use core::ptr::NonNull;
use rt::shared::SharedMemory;
use rt::syscall::{self, MapParameters, Result, ThreadParameters, Time};

/// Where the driver sees the compartments' memories, one after the other.
const AREAS: u64 = 0x2000_0000;
/// Where it sees the memories that they give to others.
const POOLS: u64 = 0x3000_0000;
/// Most compartments at one time.
pub const COMPARTMENTS: u64 = 4;
/// Bytes of RAM for them.
pub const MEMORY: u64 = COMPARTMENTS * (place::AREA + place::POOL);
/// The driver's selectors for one of them.
const SELECTORS: u32 = 32;
/// The first of these.
const FIRST: Selector = ROOT_FREE.offset(64);

/// Selectors of a compartment in the driver's table, counted from its first.
mod own {
    pub const DOMAIN: u32 = 0;
    pub const SPACE: u32 = 1;
    pub const THREAD: u32 = 2;
    pub const SCHED: u32 = 3;
    pub const REST: u32 = 4;
    pub const AREA: u32 = 5;
    pub const POOL: u32 = 6;
    pub const EXTRA: u32 = 7;
    pub const PORTALS: u32 = 8;
    pub const SEGMENTS: u32 = 16;
}

/// What all compartments are made from.
#[derive(Debug)]
pub struct Workshop {
    /// RAM, of which they use the first [`MEMORY`] bytes.
    pub memory: Selector,
    /// The driver's notification.
    pub done: Selector,
    /// The bundle's head, which names the segments of this program.
    pub head: Head,
}

impl Workshop {
    /// Makes the compartments' memories accessible to the driver; takes two selectors.
    pub fn open(&self, selectors: Selector) -> Result {
        let areas = MapParameters {
            offset: 0,
            address: AREAS,
            size: COMPARTMENTS * place::AREA,
            rights: Rights::RW,
        };
        syscall::map(self.memory, ROOT_SPACE, selectors, &areas)?;
        let pools = MapParameters {
            offset: areas.size,
            address: POOLS,
            size: COMPARTMENTS * place::POOL,
            rights: Rights::RW,
        };
        syscall::map(self.memory, ROOT_SPACE, selectors.offset(1), &pools)
    }

    /// Makes compartment `number`, which may use `pages` pages of kernel memory. It holds its own domain, the right to
    /// wait for its own notification, to write to the log and to set bit `number` of the driver's notification.
    pub fn make(&self, number: u64, pages: u64) -> Result<Compartment> {
        let compartment = Compartment { number };
        let c = &compartment;
        let (domain, space) = (c.at(own::DOMAIN), c.at(own::SPACE));
        syscall::create_domain(ROOT_DOMAIN, domain, pages, table::SLOTS)?;
        syscall::create_space(domain, space, SpaceKind::Host)?;
        trial::map_code(&self.head, space, c.at(own::SEGMENTS))?;
        let p = MapParameters {
            offset: number * place::AREA,
            address: place::AREA_ADDRESS,
            size: place::AREA,
            rights: Rights::RW,
        };
        syscall::map(self.memory, space, c.at(own::AREA), &p)?;
        syscall::create_notification(domain, c.at(own::REST))?;
        let all = Badge(u64::MAX);
        let rest = c.at(own::REST);
        syscall::delegate_notification(rest, domain, table::REST, Rights::WAIT, all)?;
        let done = Badge(1 << number);
        syscall::delegate_notification(self.done, domain, table::DONE, Rights::SIGNAL, done)?;
        syscall::delegate(ROOT_LOG, domain, table::LOG, Rights::WRITE)?;
        syscall::delegate(domain, domain, table::DOMAIN, Rights::all())?;
        Ok(compartment)
    }

    /// Gives the compartment memory that it can give to others, mapped and as a capability.
    pub fn give_pool(&self, c: &Compartment) -> Result {
        let offset = COMPARTMENTS * place::AREA + c.number * place::POOL;
        let rights = Rights::RW | Rights::EXEC;
        let (domain, space) = (c.at(own::DOMAIN), c.at(own::SPACE));
        let dst = table::POOL;
        syscall::delegate_memory(self.memory, domain, dst, rights, offset, place::POOL)?;
        let p = MapParameters {
            offset,
            address: place::POOL_ADDRESS,
            size: place::POOL,
            rights: Rights::RW,
        };
        syscall::map(self.memory, space, c.at(own::POOL), &p)
    }
}

/// A compartment. Everything of it ends with its domain.
#[derive(Debug)]
pub struct Compartment {
    /// Its number, below [`COMPARTMENTS`].
    pub number: u64,
}

impl Compartment {
    fn at(&self, offset: u32) -> Selector {
        FIRST.offset(self.number as u32 * SELECTORS + offset)
    }

    /// Its domain.
    pub fn domain(&self) -> Selector {
        self.at(own::DOMAIN)
    }

    /// Its space.
    pub fn space(&self) -> Selector {
        self.at(own::SPACE)
    }

    /// Its notification.
    pub fn notification(&self) -> Selector {
        self.at(own::REST)
    }

    /// Its memory.
    pub fn area(&self) -> SharedMemory {
        let address = AREAS + self.number * place::AREA;
        // SAFETY: mapped by `Workshop::open` for ever; it holds no Rust object of the driver.
        unsafe { SharedMemory::new(address as usize, place::AREA as usize) }
    }

    /// The memory that it gives to others.
    pub fn pool(&self) -> SharedMemory {
        let address = POOLS + self.number * place::POOL;
        // SAFETY: as above.
        unsafe { SharedMemory::new(address as usize, place::POOL as usize) }
    }

    /// A word that its thread has told.
    pub fn report(&self, word: usize) -> u64 {
        self.area().read_u64(word * 8).unwrap_or_default()
    }

    /// Maps `size` bytes at `offset` of the bundle, for reading.
    pub fn map_file(&self, offset: u64, size: u64) -> Result {
        let p = MapParameters {
            offset,
            address: place::FILE_ADDRESS,
            size: size.next_multiple_of(abi::PAGE_SIZE as u64),
            rights: Rights::READ,
        };
        syscall::map(ROOT_BUNDLE, self.space(), self.at(own::EXTRA), &p)
    }

    /// Makes its thread, which does what `start` says, on CPU 0.
    pub fn prepare(&self, start: Start) -> Result {
        let area = self.area();
        // Inside, both.
        let _ = area.zero(0, place::REPORT * 8);
        let at = area.address() + place::START as usize;
        let at = NonNull::new(core::ptr::with_exposed_provenance_mut::<Start>(at));
        if let Some(at) = at {
            // SAFETY: inside the compartment's memory, which nobody else uses before its thread runs, and aligned.
            unsafe { at.write_volatile(start) };
        }
        let ip = arch::entry as *const () as u64;
        self.make_thread(ip, place::AREA_ADDRESS + place::START, ThreadFlags::empty())
    }

    /// Makes its thread, which is foreign and makes system calls for ever.
    pub fn prepare_foreign(&self) -> Result {
        self.make_thread(arch::foreign as *const () as u64, 0, ThreadFlags::FOREIGN)
    }

    fn make_thread(&self, ip: u64, sp: u64, flags: ThreadFlags) -> Result {
        let (domain, thread) = (self.domain(), self.at(own::THREAD));
        let p = ThreadParameters {
            domain,
            space: self.space(),
            cpu: 0,
            utcb: place::UTCB,
            ip,
            sp,
            exceptions: table::EXCEPTIONS,
            flags,
        };
        syscall::create_thread(domain, thread, &p)?;
        syscall::delegate(thread, domain, table::THREAD, Rights::CONTROL)
    }

    /// Makes a portal of its thread with an identity below 8; the exceptions of `client` go there.
    pub fn handle(&self, client: &Compartment, identity: u32) -> Result {
        self.export(client, identity, table::EXCEPTIONS)
    }

    /// The same for a portal that `client` can call, at a place of its table.
    pub fn export(&self, client: &Compartment, identity: u32, place: Selector) -> Result {
        let portal = self.at(own::PORTALS + identity);
        let thread = self.at(own::THREAD);
        syscall::create_portal(self.domain(), portal, thread, identity.into(), 0)?;
        syscall::delegate(portal, client.domain(), place, Rights::CALL)
    }

    /// Lets it map memory into the space of a client.
    pub fn give_space(&self, client: &Compartment, identity: u32) -> Result {
        let place = table::SPACES.offset(identity);
        syscall::delegate(client.space(), self.domain(), place, Rights::INSTALL)
    }

    /// Lets it make scheduling contexts of CPU 0 up to `priority`.
    pub fn give_time(&self, priority: u8) -> Result {
        let limit = TimeLimit { priority, partition: 0 };
        let (domain, dst) = (self.domain(), table::TIME);
        syscall::delegate_time(ROOT_TIME, domain, dst, Rights::CREATE, 1, limit)
    }

    /// Starts its thread.
    pub fn start(&self, priority: u8) -> Result {
        let time = Time { priority, ..Time::default() };
        syscall::create_sched(self.domain(), self.at(own::SCHED), ROOT_TIME, 0, time)?;
        syscall::bind_sched(self.at(own::SCHED), self.at(own::THREAD))
    }

    /// Ends it: all that it had, and whatever it was doing.
    pub fn destroy(self) -> Result {
        syscall::delete(self.domain())
    }
}
