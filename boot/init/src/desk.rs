//! Where programs' requests and exceptions arrive.
//!
//! A handler thread per CPU takes them and puts them into the desk's trays; the main thread acts on them. So
//! handlers are short and hold no lock, and what they say is dealt with in one place.
use abi::Selector;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicU8, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use rt::ipc::{Message, Words};
use rt::protocol::supervisor::Request;
use rt::protocol::{Refusal, outcome_word};
use rt::syscall;

/// Messages that wait at most.
const TRAYS: usize = 64;
/// Requests that wait at most. Who makes one that finds no place tries again; an exception that finds none is never told.
const REQUEST_TRAYS: usize = 48;
/// Of these, requests of one program.
const REQUESTS: usize = 8;

/// A program's number, which no other program ever has, not even the same one after a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProgramId(pub u32);

/// What a portal's messages mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortalKind {
    /// Requests ([`Request`]).
    Supervisor,
    /// Exceptions ([`abi::utcb::exception`]).
    Exceptions,
}

/// Identity of a portal to the supervisor.
pub fn identity(program: ProgramId, kind: PortalKind) -> u64 {
    u64::from(program.0) << 1 | u64::from(kind == PortalKind::Exceptions)
}

fn origin(identity: u64) -> (ProgramId, PortalKind) {
    let exceptions = identity & 1 != 0;
    let kind = if exceptions { PortalKind::Exceptions } else { PortalKind::Supervisor };
    (ProgramId((identity >> 1) as u32), kind)
}

/// An exception of a program's thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Vector.
    pub vector: u64,
    /// Error code.
    pub error: u64,
    /// Fault address.
    pub address: u64,
    /// Instruction pointer.
    pub ip: u64,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A program asked for something.
    Request(Request),
    /// A thread of a program raised an exception; it does not run any more.
    Exception(Exception),
}

const FREE: u8 = 0;
const FILLING: u8 = 1;
const FULL: u8 = 2;

#[derive(Debug)]
struct Tray {
    state: AtomicU8,
    order: AtomicU64,
    identity: AtomicU64,
    words: [AtomicU64; 8],
}

/// The trays, and the notification that tells the main thread of them.
#[derive(Debug)]
pub struct Desk {
    trays: [Tray; TRAYS],
    next: AtomicU64,
    notification: Selector,
}

impl Desk {
    /// An empty desk; `notification` has the badge that the main thread waits for.
    pub fn new(notification: Selector) -> Desk {
        let tray = || Tray {
            state: AtomicU8::new(FREE),
            order: AtomicU64::new(0),
            identity: AtomicU64::new(0),
            words: Default::default(),
        };
        Desk { trays: core::array::from_fn(|_| tray()), next: AtomicU64::new(0), notification }
    }

    fn put(&self, identity: u64, words: &Words) -> bool {
        let theirs = |tray: &&Tray| {
            tray.state.load(Relaxed) != FREE && tray.identity.load(Relaxed) == identity
        };
        // A program ends with its first exception: those of its other threads say nothing new.
        let (most, trays) = match origin(identity).1 {
            PortalKind::Supervisor => (REQUESTS, &self.trays[..REQUEST_TRAYS]),
            PortalKind::Exceptions => (1, &self.trays[..]),
        };
        if self.trays.iter().filter(theirs).count() >= most {
            return false;
        }
        for tray in trays {
            if tray.state.compare_exchange(FREE, FILLING, Acquire, Relaxed).is_err() {
                continue;
            }
            tray.order.store(self.next.fetch_add(1, Relaxed), Relaxed);
            tray.identity.store(identity, Relaxed);
            for (slot, word) in tray.words.iter().zip(words) {
                slot.store(*word, Relaxed);
            }
            tray.state.store(FULL, Release);
            return true;
        }
        false
    }

    /// Takes all that has arrived, in order.
    pub fn take(&self) -> Vec<(ProgramId, Event)> {
        let mut taken = Vec::new();
        for tray in self.trays.iter().filter(|tray| tray.state.load(Acquire) == FULL) {
            let words: Words = core::array::from_fn(|i| tray.words[i].load(Relaxed));
            let (order, identity) = (tray.order.load(Relaxed), tray.identity.load(Relaxed));
            tray.state.store(FREE, Release);
            let (program, kind) = origin(identity);
            let event = match kind {
                PortalKind::Supervisor => Request::decode(&words).map(Event::Request),
                PortalKind::Exceptions => Some(Event::Exception(Exception {
                    vector: words[0],
                    error: words[1],
                    address: words[2],
                    ip: words[3],
                })),
            };
            taken.extend(event.map(|event| (order, program, event)));
        }
        taken.sort_unstable_by_key(|&(order, ..)| order);
        taken.into_iter().map(|(_, program, event)| (program, event)).collect()
    }
}

/// Serves a message; runs in handler threads.
pub fn serve(desk: &Desk, message: &mut Message<'_>) {
    let (_, kind) = origin(message.identity);
    let answer = if kind == PortalKind::Supervisor && Request::decode(message.words).is_none() {
        Err(Refusal::Malformed)
    } else if desk.put(message.identity, message.words) {
        // The main thread's notification exists as long as this program.
        let _ = syscall::signal(desk.notification);
        Ok(())
    } else {
        Err(Refusal::Busy)
    };
    *message.words = [0; 8];
    // After an exception: no bit of `ExceptionReply` is set, so that the thread stays where it is.
    if kind == PortalKind::Supervisor {
        message.words[0] = outcome_word(answer);
    }
    message.utcb_words = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_order_and_nobody_takes_all_trays() {
        let desk = Desk::new(Selector(9));
        let portal = |program, kind| identity(ProgramId(program), kind);
        let first = portal(1, PortalKind::Supervisor);
        for code in 0..20 {
            let taken = desk.put(first, &Request::Exit(code).encode());
            assert_eq!(taken, code < REQUESTS as u64);
        }
        assert!(desk.put(portal(2, PortalKind::Supervisor), &Request::Ready.encode()));
        assert!(
            desk.put(portal(1, PortalKind::Exceptions), &[14, 4, 0x123, 0x40_0000, 0, 0, 0, 0])
        );
        let events = desk.take();
        assert_eq!(events.len(), REQUESTS + 2);
        assert_eq!(events[3], (ProgramId(1), Event::Request(Request::Exit(3))));
        assert_eq!(events[REQUESTS], (ProgramId(2), Event::Request(Request::Ready)));
        let exception = Exception { vector: 14, error: 4, address: 0x123, ip: 0x40_0000 };
        assert_eq!(events[REQUESTS + 1], (ProgramId(1), Event::Exception(exception)));
        assert!(desk.take().is_empty());
        assert!(desk.put(first, &Request::Ready.encode()));
    }

    #[test]
    fn exceptions_find_a_place_however_many_requests_wait() {
        let desk = Desk::new(Selector(9));
        let ready = Request::Ready.encode();
        let requests = (0..TRAYS as u32 * 8).map(|i| ProgramId(i / 8));
        let taken = requests.filter(|&id| desk.put(identity(id, PortalKind::Supervisor), &ready));
        assert_eq!(taken.count(), REQUEST_TRAYS);
        for program in 0..(TRAYS - REQUEST_TRAYS) as u32 {
            let portal = identity(ProgramId(program), PortalKind::Exceptions);
            assert!(desk.put(portal, &[14, 4, 0x123, 0x40_0000, 0, 0, 0, 0]));
        }
    }

    #[test]
    fn a_program_whose_threads_all_die_leaves_trays_to_others() {
        let desk = Desk::new(Selector(9));
        let portal = |program| identity(ProgramId(program), PortalKind::Exceptions);
        for thread in 0..2 * TRAYS as u64 {
            desk.put(portal(1), &[14, 4, thread, 0, 0, 0, 0, 0]);
        }
        assert!(desk.put(portal(2), &[13, 0, 0, 0, 0, 0, 0, 0]));
        let programs: Vec<_> = desk.take().into_iter().map(|(id, _)| id.0).collect();
        assert_eq!(programs, [1, 2]);
    }
}
