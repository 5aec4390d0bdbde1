//! What the measurements are made from: selectors, addresses and memory that nothing else uses.

use abi::boot::{BootInfo, ROOT_FREE, ROOT_MEMORY, ROOT_SLOTS};
use abi::bundle::Head;
use abi::cap::MemoryKind;
use abi::{PAGE_SIZE, Rights, Selector, Status};
use rt::ipc::Utcb;
use rt::selectors::Selectors;
use rt::syscall::{MapParameters, Result};

/// Selectors of the root domain that are handed out one by one; those before are used by number.
const SELECTORS: core::ops::Range<u32> = ROOT_FREE.0 + 3072..ROOT_SLOTS;
/// Addresses, in all spaces.
const ADDRESSES: u64 = 0x5800_0000;
/// Where in its region the memory begins; what is before is used by offset.
const FIRST_BYTE: u64 = 16 << 20;
/// Bytes of a page of the next size.
pub const LARGE_PAGE: u64 = 2 << 20;

/// The place of the measuring thread.
pub struct Place<'a> {
    /// What the kernel says of the machine.
    pub info: &'a BootInfo,
    /// What the bundle says of this program.
    pub head: Head,
    /// The thread's UTCB.
    pub utcb: Utcb,
    /// Where the thread's exceptions go, as soon as there is a portal.
    pub exceptions: Selector,
    /// RAM.
    pub ram: Selector,
    selectors: Selectors,
    next_address: u64,
    /// Physical address of the RAM, and the offset in it of what is free.
    base: u64,
    next_byte: u64,
}

impl<'a> Place<'a> {
    /// With the first region of RAM that is large enough.
    pub fn new(
        info: &'a BootInfo,
        head: Head,
        utcb: Utcb,
        exceptions: Selector,
    ) -> Result<Place<'a>> {
        let enough = |region: &abi::boot::Region| {
            region.memory_kind() == Some(MemoryKind::Ram) && region.size >= 2 * FIRST_BYTE
        };
        let number = info.regions().iter().position(enough);
        let number = number.ok_or(Status::BadArgument)?;
        Ok(Place {
            info,
            head,
            utcb,
            exceptions,
            ram: ROOT_MEMORY.offset(number as u32),
            selectors: Selectors::new(SELECTORS),
            next_address: ADDRESSES,
            base: info.regions()[number].base,
            next_byte: FIRST_BYTE,
        })
    }

    /// A selector with nothing at it.
    pub fn selector(&self) -> Selector {
        self.selectors.one()
    }

    /// The first of `count` consecutive ones.
    pub fn selectors(&self, count: u32) -> Selector {
        self.selectors.several(count)
    }

    /// An address, a multiple of `size`, with nothing mapped at it and behind it; `size` is a power of 2.
    pub fn address(&mut self, size: u64) -> u64 {
        let address = self.next_address.next_multiple_of(size);
        self.next_address = address + size;
        address
    }

    /// Memory and addresses for it that a page of `size` bytes can map; `size` is a power of 2.
    pub fn page(&mut self, size: u64, rights: Rights) -> MapParameters {
        let offset = (self.base + self.next_byte).next_multiple_of(size) - self.base;
        self.next_byte = offset + size;
        MapParameters { offset, address: self.address(size), size, rights }
    }

    /// An address for a UTCB.
    pub fn utcb_address(&mut self) -> u64 {
        self.address(PAGE_SIZE as u64)
    }
}
