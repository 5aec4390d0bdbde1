//! Objects that are made; their end is not measured.

use crate::place::Place;
use crate::stats::{self, Row};
use abi::Selector;
use abi::boot::{ROOT_DOMAIN, ROOT_SPACE};
use abi::syscall::{SpaceKind, ThreadFlags};
use rt::syscall::{self, Result, ThreadParameters, VcpuParameters};

/// Quota of the domain in pages, and slots of its table.
const PAGES: u64 = 64;
const SLOTS: u64 = 64;

/// Measures and prints everything here.
pub fn run(place: &mut Place) {
    stats::report("create.thread", thread(place));
    stats::report("create.domain", domain(place));
    stats::report("create.vm", vm(place));
}

/// A thread with its UTCB, in the domain and space of the measuring one.
fn thread(place: &mut Place) -> Result<Row> {
    let thread = place.selector();
    let parameters = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: ROOT_SPACE,
        cpu: 0,
        utcb: place.utcb_address(),
        ip: 0,
        sp: 0,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    stats::measure_between(
        || Ok(()),
        || syscall::create_thread(ROOT_DOMAIN, thread, &parameters),
        || syscall::delete(thread),
    )
}

/// A domain with its table and quota, without a space.
fn domain(place: &Place) -> Result<Row> {
    let domain = place.selector();
    stats::measure_between(
        || Ok(()),
        || syscall::create_domain(ROOT_DOMAIN, domain, PAGES, SLOTS),
        || syscall::delete(domain),
    )
}

/// A guest space, and a vCPU in it with its state page.
fn vm(place: &mut Place) -> Result<Row> {
    let (space, vcpu) = (place.selector(), place.selector());
    let parameters = VcpuParameters {
        domain: ROOT_DOMAIN,
        guest_space: space,
        cpu: 0,
        host_space: ROOT_SPACE,
        state: place.utcb_address(),
        portals: Selector::NULL,
    };
    stats::measure_between(
        || Ok(()),
        || {
            syscall::create_space(ROOT_DOMAIN, space, SpaceKind::Guest)?;
            syscall::create_vcpu(ROOT_DOMAIN, vcpu, &parameters)
        },
        || {
            syscall::delete(vcpu)?;
            syscall::delete(space)
        },
    )
}
