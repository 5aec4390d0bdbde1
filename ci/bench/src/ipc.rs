//! System calls that do nothing, and synchronous calls.

use crate::arch;
use crate::place::Place;
use crate::server::{self, Compartment, in_other_domain, in_same_domain};
use crate::stats::{self, Outcome, Row};
use abi::boot::ROOT_DOMAIN;
use abi::utcb::{Item, WORDS, Window};
use abi::{Op, Rights, Selector, Status, Tag};
use core::hint::black_box;
use rt::arch::{Registers, call_portal, system_call};
use rt::handler::serve_for_ever;
use rt::ipc::Utcb;
use rt::syscall::{self, Result};
use trial::echo;

/// Where a server of a chain finds the portal of the next one, in its own table.
pub(crate) const NEXT: Selector = Selector(1);
/// Where the receiver of a capability takes it.
const RECEIVED: Window = Window { base: 1, slots: 1 };
/// Words in the UTCB of a long message; a full one has [`WORDS`].
const LONG: u16 = 32;

/// The registers of a call without a message in them.
#[inline(always)]
fn request(portal: Selector, tag: Tag) -> Registers {
    Registers { tag: tag.0, first: portal.0 as u64, ..Registers::default() }
}

/// Calls `portal`, as a stub does that has nothing to keep but what the compiler must.
#[inline(always)]
fn call(portal: Selector, tag: Tag) -> Tag {
    Tag(call_portal(request(portal, tag)).tag)
}

/// The tag of a call with `words` words in the UTCB.
const fn tag(words: u16) -> Tag {
    Tag::new(Op::Call, words)
}

/// Measures and prints everything here.
pub fn run(place: &mut Place) {
    stats::report("syscall.null", null());
    let servers = [("same", in_same_domain(place, echo)), ("other", in_other_domain(place, echo))];
    for (domain, portal) in servers {
        let rows: [fn(Selector) -> Result<Row>; 3] = [words::<0>, words::<4>, words::<8>];
        for (count, measure) in [0, 4, 8].into_iter().zip(rows) {
            let name = format_args!("ipc.{domain}_domain.words{count}");
            stats::report(name, portal.and_then(measure));
        }
    }
    let portal = in_other_domain(place, arch::echo_all);
    let long = |words| portal.and_then(|portal| stats::measure_call(|| call(portal, tag(words))));
    stats::report("ipc.other_domain.utcb32", long(LONG));
    stats::report("ipc.other_domain.utcb", long(WORDS as u16));
    stats::report("ipc.other_domain.capability", capability(place));
    for servers in [2, 3] {
        stats::report(format_args!("ipc.chain{servers}"), chain(place, servers));
    }
}

/// A system call whose number the kernel does not know: entry, decoding, return.
fn null() -> Result<Row> {
    stats::measure(|| {
        system_call(Registers { tag: 0xff, ..Registers::default() });
        Ok(())
    })
}

/// Messages of `N` words there and back, from memory and to memory. A function of its own, so that it has registers for
/// what it needs each time.
#[inline(never)]
fn words<const N: usize>(portal: Selector) -> Result<Row> {
    let (mut sent, mut received) = ([0; N], [0; N]);
    for (number, word) in (1..).zip(&mut sent) {
        *word = number;
    }
    let from = black_box(&sent).as_ptr();
    let to = black_box(&mut received).as_mut_ptr();
    let row = stats::measure_call(|| {
        let mut r = request(portal, tag(0));
        for (i, word) in r.words.iter_mut().take(N).enumerate() {
            // SAFETY: inside the array. Volatile, as somebody has put the words there.
            *word = unsafe { from.add(i).read_volatile() };
        }
        let r = call_portal(r);
        for (i, word) in r.words.into_iter().take(N).enumerate() {
            // SAFETY: as above. Volatile, as somebody is to use the words.
            unsafe { to.add(i).write_volatile(word) };
        }
        Tag(r.tag)
    })?;
    if received == sent { Ok(row) } else { Err(Status::Unknown) }
}

/// A message with a capability, which is taken back after each.
fn capability(place: &mut Place) -> Result<Row> {
    let portal = in_other_domain(place, arch::receiver)?;
    let sent = place.selector();
    syscall::create_notification(ROOT_DOMAIN, sent)?;
    let item = Item { source: sent, rights: Rights::SIGNAL.bits(), flags: 0, first: 1, second: 0 };
    place.utcb.set_item(0, item);
    // The receiver opens its window in answer to its first call.
    call(portal, tag(0)).check()?;
    let one = tag(0).with_items(1);
    stats::measure_between(|| Ok(()), || call(portal, one), || syscall::revoke(sent))
}

/// Takes capabilities.
pub(crate) extern "C" fn receiver() -> ! {
    // SAFETY: it is this thread's, and nobody else looks at it.
    let mut utcb = unsafe { Utcb::new(server::UTCB) };
    utcb.set_window(RECEIVED);
    serve_for_ever(utcb, (), |(), _| {})
}

/// A call to the first of so many servers, each of which calls the next one before it answers.
fn chain(place: &mut Place, servers: usize) -> Result<Row> {
    let mut portal = in_other_domain(place, echo)?;
    for _ in 1..servers {
        let compartment = Compartment::create(place)?;
        syscall::delegate(portal, compartment.domain, NEXT, Rights::CALL)?;
        portal = compartment.server(place, arch::relay, 0)?;
    }
    stats::measure_call(|| call(portal, tag(0)))
}
