//! System calls and synchronous calls.

use crate::stats::{self, Row};
use abi::boot::ROOT_DOMAIN;
use abi::bundle::Head;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{Op, Selector, Tag};
use rt::arch::{Registers, call_portal, system_call};
use rt::syscall::{self, Result, ThreadParameters};
use trial::{create_thread, echo, map_code};

/// First selector that the measurements use.
const FREE: u32 = abi::boot::ROOT_FREE.0;
const SAME_THREAD: Selector = Selector(FREE);
const SAME_PORTAL: Selector = Selector(FREE + 1);
pub(crate) const OTHER_DOMAIN: Selector = Selector(FREE + 2);
pub(crate) const OTHER_SPACE: Selector = Selector(FREE + 3);
const OTHER_THREAD: Selector = Selector(FREE + 4);
const OTHER_PORTAL: Selector = Selector(FREE + 5);
const NOTIFICATION: Selector = Selector(FREE + 6);
const MAPPINGS: Selector = Selector(FREE + 8);

const SAME_UTCB: u64 = 0x5000_0000;
const OTHER_UTCB: u64 = 0x5000_1000;
/// The stack pointer of threads that use none.
const NO_STACK: u64 = 0x1000;

/// Calls `portal` with no message, as a stub does that has nothing to keep but what the compiler must.
#[inline(always)]
fn call(portal: Selector) -> u64 {
    call_portal(Registers {
        tag: Tag::new(Op::Call, 0).0,
        first: portal.0 as u64,
        ..Registers::default()
    })
    .tag
}

/// Measures and prints everything here.
pub fn run(head: &Head) {
    stats::print("syscall.null", &null());
    match same_domain() {
        Ok(row) => stats::print("ipc.same_domain.words0", &row),
        Err(status) => stats::unavailable("ipc.same_domain.words0", status.name()),
    }
    match other_domain(head) {
        Ok(row) => stats::print("ipc.other_domain.words0", &row),
        Err(status) => stats::unavailable("ipc.other_domain.words0", status.name()),
    }
    match signal() {
        Ok(row) => stats::print("signal.no_waiter", &row),
        Err(status) => stats::unavailable("signal.no_waiter", status.name()),
    }
}

/// A system call whose number the kernel does not know: entry, decoding, return.
fn null() -> Row {
    stats::measure(|| {
        system_call(Registers {
            tag: 0xff,
            ..Registers::default()
        });
    })
}

fn signal() -> Result<Row> {
    syscall::create_notification(ROOT_DOMAIN, NOTIFICATION)?;
    Ok(stats::measure(|| {
        let tag = Tag::new(Op::Signal, 0).0;
        let first = NOTIFICATION.0 as u64;
        system_call(Registers {
            tag,
            first,
            ..Registers::default()
        });
    }))
}

fn same_domain() -> Result<Row> {
    create_thread(SAME_THREAD, SAME_UTCB, echo, NO_STACK)?;
    syscall::create_portal(ROOT_DOMAIN, SAME_PORTAL, SAME_THREAD, 1, 0)?;
    check(call(SAME_PORTAL))?;
    Ok(stats::measure(|| {
        call(SAME_PORTAL);
    }))
}

fn other_domain(head: &Head) -> Result<Row> {
    syscall::create_domain(ROOT_DOMAIN, OTHER_DOMAIN, 64, 64)?;
    syscall::create_space(OTHER_DOMAIN, OTHER_SPACE, SpaceKind::Host)?;
    map_code(head, OTHER_SPACE, MAPPINGS)?;
    let parameters = ThreadParameters {
        domain: OTHER_DOMAIN,
        space: OTHER_SPACE,
        cpu: 0,
        utcb: OTHER_UTCB,
        ip: echo as *const () as u64,
        sp: NO_STACK,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(OTHER_DOMAIN, OTHER_THREAD, &parameters)?;
    syscall::create_portal(ROOT_DOMAIN, OTHER_PORTAL, OTHER_THREAD, 2, 0)?;
    check(call(OTHER_PORTAL))?;
    Ok(stats::measure(|| {
        call(OTHER_PORTAL);
    }))
}

fn check(tag: u64) -> Result {
    match Tag(tag).status() {
        abi::Status::Success => Ok(()),
        status => Err(status),
    }
}
