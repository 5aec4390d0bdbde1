//! Mappings, and page faults.

use crate::arch;
use crate::place::{LARGE_PAGE, Place};
use crate::server::Compartment;
use crate::stats::{self, Row};
use abi::boot::{ROOT_DOMAIN, ROOT_SPACE};
use abi::utcb::exception::ExceptionReply;
use abi::{PAGE_SIZE, Rights, Selector, Status};
use rt::handler::serve_for_ever;
use rt::ipc::{self, Message, Utcb};
use rt::syscall::{self, MapParameters, Result};

const SMALL_PAGE: u64 = PAGE_SIZE as u64;

/// What the pager has: a page of memory, the space that it maps it into, and a slot for the mapping.
const MEMORY: Selector = Selector(1);
const SPACE: Selector = Selector(2);
const MAPPING: Selector = Selector(3);

/// Identities of its portals: of faults, and to have the page unmapped.
const FAULT: u64 = 1;
const UNMAP: u64 = 2;

/// Measures and prints everything here.
pub fn run(place: &mut Place) {
    let space = Compartment::create(place).map(|compartment| compartment.space);
    for (name, size) in [("4k", SMALL_PAGE), ("2m", LARGE_PAGE)] {
        let (ram, mapping) = (place.ram, place.selector());
        let page = place.page(size, Rights::RW);
        let map = |space| move || syscall::map(ram, space, mapping, &page);
        let unmap = || syscall::delete(mapping);
        let row = space.and_then(|space| stats::measure_between(|| Ok(()), map(space), unmap));
        stats::report(format_args!("map.{name}"), row);
        let row = space.and_then(|space| stats::measure_between(map(space), unmap, || Ok(())));
        stats::report(format_args!("unmap.{name}"), row);
    }
    stats::report("page_fault.pager", page_fault(place));
}

/// A write to a page that is not mapped, which a pager in another domain maps.
fn page_fault(place: &mut Place) -> Result<Row> {
    let pager = Compartment::create(place)?;
    let page = place.page(SMALL_PAGE, Rights::RW);
    let (domain, unmap) = (pager.domain, place.selector());
    syscall::delegate_memory(place.ram, domain, MEMORY, Rights::RW, page.offset, page.size)?;
    syscall::delegate(ROOT_SPACE, domain, SPACE, Rights::INSTALL)?;
    let thread = pager.thread(place, arch::pager)?;
    syscall::create_portal(ROOT_DOMAIN, place.exceptions, thread, FAULT, 0)?;
    syscall::create_portal(ROOT_DOMAIN, unmap, thread, UNMAP, 0)?;
    // The pager begins to serve with its answer to its first call.
    ipc::call(unmap, [0; _])?;
    let row = stats::measure_between(
        || Ok(()),
        || {
            // SAFETY: nothing else is at the address. A write that cannot be carried out ends this thread.
            unsafe { (page.address as *mut u64).write_volatile(1) };
            Ok(())
        },
        || match Status::from_code(ipc::call(unmap, [0; _])?[0] as u8) {
            Status::Success => Ok(()),
            status => Err(status),
        },
    );
    // No other fault is to be answered so.
    syscall::delete(place.exceptions)?;
    row
}

/// Maps its page where a fault was, until it is told to unmap it.
pub(crate) extern "C" fn pager() -> ! {
    // SAFETY: it is this thread's, and nobody else looks at it.
    let utcb = unsafe { Utcb::new(crate::server::UTCB) };
    serve_for_ever(utcb, (), |(), message| {
        message.words[0] = match message.identity {
            FAULT => resume(message),
            _ => syscall::delete(MAPPING).err().unwrap_or(Status::Success) as u64,
        };
        message.utcb_words = 0;
    })
}

/// Maps the page; the answer to the fault.
fn resume(fault: &Message) -> u64 {
    let page = MapParameters {
        offset: 0,
        address: fault.words[2] & !(SMALL_PAGE - 1),
        size: SMALL_PAGE,
        rights: Rights::RW,
    };
    match syscall::map(MEMORY, SPACE, MAPPING, &page) {
        Ok(()) => ExceptionReply::RESUME.bits(),
        Err(_) => 0,
    }
}
