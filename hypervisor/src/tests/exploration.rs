//! Small worlds: everything that can happen in them, in every order, until a depth. States that were seen before are
//! not gone on from.
//!
//! `BULKHEAD_DEPTH` goes so many steps further.

use super::system::{ALL, System};
use super::world::{RAM, SLICE, TIME};
use crate::mem::PAGE;
use abi::syscall::Tag;
use abi::utcb::{Item, Window};
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::vcpu::{ExitKind, FAULT_WRITE};
use abi::{Op, Rights, Selector};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Something that can happen. Numbers are those of CPUs.
#[derive(Clone, Copy, Debug)]
enum Event {
    Root(u32, Op, [u64; 7]),
    /// The thread that runs makes a system call.
    Does(u32, Op, [u64; 7]),
    /// The same, and so many ticks have passed by then that the timers have not told.
    Lags(u32, u64, Op, [u64; 7]),
    /// The monitor that runs replies; whether the guest halts, and how far its deadline is.
    Replies(u32, bool, Option<u64>),
    Exits(u32),
    /// The guest that runs writes to this address.
    Writes(u32, u64),
    /// The thread that runs makes a call or replies, with capabilities.
    Sends(u32, Op, u64, &'static [Item]),
    /// The thread that runs gives CPU 0 a schedule, by the time at its selector 1: length of the frame, and windows.
    Schedules(u32, u64, &'static [u64]),
    /// The thread that runs opens a window: where, and how many slots.
    Opens(u32, u32, u32),
    Faults(u32),
    Passes(u64),
    Interrupts(u32),
}

fn happen(s: &mut System, event: Event) {
    match event {
        Event::Root(cpu, op, args) => {
            let _ = s.root(cpu, op, &args);
        }
        Event::Does(cpu, op, args) => does(s, cpu, op, args),
        Event::Lags(cpu, ticks, op, args) => {
            s.lags(cpu, ticks);
            does(s, cpu, op, args);
        }
        Event::Replies(cpu, halt, deadline) => {
            let controls = if halt { CONTROL_HALT } else { 0 };
            let mut groups = Groups::EVENTS;
            groups.set(Groups::DEADLINE, deadline.is_some());
            let deadline = s.a.model.now + deadline.unwrap_or(0);
            s.replies(cpu, groups.bits(), controls, deadline);
        }
        Event::Exits(cpu) => s.exits(cpu, ExitKind::Halt, [0; 3]),
        Event::Writes(cpu, at) => s.exits(cpu, ExitKind::StageTwoFault, [FAULT_WRITE, at, 0]),
        Event::Sends(cpu, op, portal, items) => {
            s.attaches(cpu, items);
            let tag = Tag::new(op, 0).with_items(items.len());
            s.does_with(cpu, op, tag, &[portal, 1, 2, 3]);
        }
        Event::Schedules(cpu, length, windows) => {
            s.writes(cpu, windows);
            let tag = Tag::new(Op::SetSchedule, windows.len() as u16);
            s.does_with(cpu, Op::SetSchedule, tag, &[1, 0, length]);
        }
        Event::Opens(cpu, base, slots) => s.opens(cpu, Window { base, slots }),
        Event::Faults(cpu) => s.faults(cpu, [14, 0, 0xbad]),
        Event::Passes(ticks) => s.passes(ticks),
        Event::Interrupts(cpu) => s.interrupts(cpu),
    }
}

fn does(s: &mut System, cpu: u32, op: Op, mut args: [u64; 7]) {
    if op == Op::Wait && args[1] != 0 && args[1] != u64::MAX {
        args[1] += s.a.model.now;
    }
    s.does(cpu, op, &args);
}

/// States that differ only in the time that it is are one.
fn fingerprint(s: &System) -> u64 {
    let mut hasher = DefaultHasher::new();
    s.a.model.since_now().hash(&mut hasher);
    hasher.finish()
}

/// Goes through a world to `depth`; how many states it found.
fn explore(start: fn() -> System, events: &[Event], depth: usize) -> usize {
    let further = std::env::var("BULKHEAD_DEPTH").ok();
    let depth = depth + further.and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut s = start();
    let begin = s.save();
    let mut seen = HashSet::from([fingerprint(&s)]);
    let mut frontier: Vec<Vec<u8>> = vec![Vec::new()];
    let mut steps = 0;
    for reached in 1..=depth {
        let mut next = Vec::new();
        for path in &frontier {
            s.restore(&begin);
            for &i in path {
                happen(&mut s, events[i as usize]);
            }
            let here = s.save();
            for (i, &event) in events.iter().enumerate() {
                s.restore(&here);
                let checked = catch_unwind(AssertUnwindSafe(|| {
                    happen(&mut s, event);
                    s.compare();
                }));
                if let Err(cause) = checked {
                    eprintln!("{}", s.history.join("\n"));
                    resume_unwind(cause);
                }
                steps += 1;
                let state = fingerprint(&s);
                if !seen.insert(state) {
                    continue;
                }
                if reached < depth {
                    next.push([path.as_slice(), &[i as u8]].concat());
                }
                // That everything can end takes longer than a step, and is tried from some states.
                if state.is_multiple_of(8) {
                    s.finish();
                }
            }
        }
        frontier = next;
        println!("depth {reached}: {} states, {steps} steps", seen.len());
    }
    seen.len()
}

/// A domain of the root's at `at`, with its space at `at + 1`, and a thread on `cpu` at `at + 2` that is ready.
fn active_domain(s: &mut System, at: u64, cpu: u64, quota: u64) {
    let thread = [at, at + 2, at, at + 1, cpu, 0x7000, 0x2000];
    s.must(Op::CreateDomain, &[1, at, quota, 16]);
    s.must(Op::CreateSpace, &[at, at + 1, 0]);
    s.must(Op::CreateThread, &thread);
    s.must(Op::CreateSched, &[1, at + 3, cpu, 5, 0, 0, TIME as u64]);
    s.must(Op::BindSched, &[at + 3, at + 2]);
    s.must(Op::Delegate, &[at, at, 1, ALL]);
    s.must(Op::Delegate, &[at + 1, at, 2, ALL]);
}

/// Three domains, of which two have a CPU each, and four frames.
mod memory {
    use super::*;
    use Op::{CreateDomain, CreateSpace, CreateThread, Delegate, Delete, Map, Revoke};

    const READ: u64 = (Rights::READ.bits() | Rights::DELEGATE.bits()) as u64;
    const RW: u64 = (Rights::RW.bits() | Rights::DELEGATE.bits()) as u64;

    fn start() -> System {
        let mut s = System::new(2, 50);
        active_domain(&mut s, 20, 0, 13);
        active_domain(&mut s, 30, 1, 13);
        s.must(Delegate, &[30, 20, 3, ALL]);
        s.must(Delegate, &[20, 30, 3, ALL]);
        s.must(Delegate, &[RAM as u64, 1, 40, ALL, 0, 4 * PAGE]);
        s
    }

    /// Selectors 40 to 43 are the root's, 5 to 8 the others'.
    const EVENTS: [Event; 29] = {
        use Event::{Does, Root};
        [
            Root(0, Delegate, [40, 20, 5, RW, 0, 2 * PAGE, 0]),
            Root(0, Delegate, [40, 30, 5, READ, PAGE, 3 * PAGE, 0]),
            Root(0, Map, [40, 21, 42, 0, PAGE, 2 * PAGE, 1]),
            Root(0, Revoke, [40, 0, 0, 0, 0, 0, 0]),
            Root(1, Delete, [42, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [20, 0, 0, 0, 0, 0, 0]),
            Root(1, Delete, [31, 0, 0, 0, 0, 0, 0]),
            Root(0, Delegate, [40, 30, 5, READ, 3 * PAGE, 2 * PAGE, 0]),
            Root(1, Map, [40, 31, 43, 3 * PAGE, PAGE, 2 * PAGE, 1]),
            // Whose capability is this domain's, and the space another one's.
            Does(0, CreateThread, [1, 10, 3, 2, 0, 0x9000, 0x2000]),
            Does(0, Delegate, [5, 3, 6, READ, PAGE, PAGE, 0]),
            Does(0, Delegate, [5, 3, 6, 0, 0, 0, 1]),
            Does(0, Delegate, [5, 1, 6, RW, 0, PAGE, 0]),
            Does(0, Map, [5, 2, 7, 0, PAGE, 2 * PAGE, 3]),
            Does(0, Map, [6, 2, 8, 0, 2 * PAGE, PAGE, 1]),
            Does(0, Map, [6, 9, 8, 0, 1 << 30, PAGE, 1]),
            Does(0, Revoke, [5, 0, 0, 0, 0, 0, 0]),
            Does(0, Delete, [6, 0, 0, 0, 0, 0, 0]),
            Does(0, Delete, [8, 0, 0, 0, 0, 0, 0]),
            Does(0, CreateSpace, [1, 9, 1, 0, 0, 0, 0]),
            Does(0, Delete, [9, 0, 0, 0, 0, 0, 0]),
            Does(0, CreateDomain, [3, 10, 1, 4, 0, 0, 0]),
            Does(0, Delegate, [5, 10, 2, READ, 0, PAGE, 0]),
            Does(0, Delete, [10, 0, 0, 0, 0, 0, 0]),
            Does(1, Delegate, [6, 3, 6, RW, 0, PAGE, 0]),
            Does(1, Delegate, [6, 1, 5, 0, 0, 0, 1]),
            Does(1, Map, [5, 2, 7, 0, PAGE, PAGE, 1]),
            Does(1, Map, [6, 2, 8, 0, 2 * PAGE, PAGE, 3]),
            Does(1, Delete, [6, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn authority_and_frames() {
        assert!(explore(start, &EVENTS, 7) > 1000);
    }
}

/// Two clients and two servers on a CPU.
mod calls {
    use super::*;
    use Op::{BindSched, Call, Delete, ReplyWait, Signal, Wait};

    /// Threads at 31 to 34, portals at 41 and 42, a notification at 43; the same in the domain's own table, less 30.
    fn start() -> System {
        let mut s = System::new(1, 50);
        s.must(Op::CreateDomain, &[1, 20, 24, 16]);
        s.must(Op::CreateSpace, &[20, 21, 0]);
        for i in 1..5 {
            let args = [20, 30 + i, 20, 21, 0, 0x7000 + i * PAGE, 0x2000, 0, 12];
            s.must(Op::CreateThread, &args);
        }
        for i in 1..3 {
            s.must(Op::CreatePortal, &[1, 40 + i, 32 + i, i]);
            s.must(Op::Delegate, &[40 + i, 20, 10 + i, ALL]);
        }
        s.must(Op::CreateNotification, &[1, 43]);
        s.must(Op::Delegate, &[43, 20, 13, ALL, 1]);
        s.must(Op::CreateSched, &[1, 35, 0, 3, 0, 0, TIME as u64]);
        s.must(Op::CreateSched, &[1, 36, 0, 5, 100, 1000, TIME as u64]);
        s.must(Op::CreateSched, &[1, 37, 0, 5, 0, 0, TIME as u64]);
        s.must(Op::BindSched, &[35, 31]);
        s
    }

    const EVENTS: [Event; 16] = {
        use Event::{Does, Faults, Passes, Root};
        [
            Does(0, Call, [11, 1, 2, 3, 0, 0, 0]),
            Does(0, Call, [12, 4, 5, 6, 0, 0, 0]),
            // An answer, and to an exception: go on.
            Does(0, ReplyWait, [0, 1, 8, 9, 0, 0, 0]),
            Does(0, ReplyWait, [0, 0, 8, 9, 0, 0, 0]),
            Does(0, Wait, [13, u64::MAX, 0, 0, 0, 0, 0]),
            Does(0, Wait, [13, 50, 0, 0, 0, 0, 0]),
            Faults(0),
            Root(0, Signal, [43, 0, 0, 0, 0, 0, 0]),
            Root(0, BindSched, [36, 32, 0, 0, 0, 0, 0]),
            Root(0, BindSched, [37, 33, 0, 0, 0, 0, 0]),
            Passes(50),
            Passes(SLICE),
            Root(0, Delete, [31, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [33, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [36, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [41, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn the_life_of_a_call() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}

/// A waiting thread on each of two CPUs, and a vCPU with its monitor on the second. Interrupts between them are late.
mod signals {
    use super::*;
    use Op::{BindDoorbell, Delete, Signal, Wait};

    /// A monitor at 32, a vCPU at 34, its kick at 41; what the threads wait for at 42.
    fn start() -> System {
        let mut s = System::new(2, 50);
        active_domain(&mut s, 20, 0, 8);
        active_domain(&mut s, 26, 1, 24);
        let monitor = [26, 32, 26, 27, 1, 0x8000, 0x2000];
        s.must(Op::CreateThread, &monitor);
        s.must(Op::CreatePortal, &[1, 40, 32, 7]);
        s.must(Op::CreateNotification, &[1, 41]);
        s.must(Op::CreateNotification, &[1, 42]);
        s.must(Op::CreateSpace, &[26, 33, 1]);
        for kind in [ExitKind::Kick, ExitKind::Startup, ExitKind::Halt] {
            s.must(Op::Delegate, &[40, 26, 5 + kind as u64, ALL]);
        }
        s.must(Op::CreateVcpu, &[26, 34, 26, 33, 1, 27, 0x9000, 5]);
        s.must(Op::BindKick, &[34, 41]);
        s.must(Op::CreateSched, &[1, 35, 1, 4, 0, 0, TIME as u64]);
        s.must(Op::Delegate, &[42, 20, 3, ALL, 1]);
        s.must(Op::Delegate, &[42, 26, 3, ALL, 2]);
        s.must(Op::BindSched, &[35, 34]);
        s.must(Op::Delegate, &[42, 1, 43, ALL, 4]);
        s.must(Op::Delegate, &[33, 26, 12, ALL]);
        s.must(Op::BindDoorbell, &[43, 33, 44, 0, 0x1000, 8]);
        s.late = true;
        s
    }

    const EVENTS: [Event; 23] = {
        use Event::{Does, Exits, Interrupts, Passes, Replies, Root, Writes};
        [
            Does(0, Wait, [3, u64::MAX, 0, 0, 0, 0, 0]),
            Does(0, Wait, [3, 5, 0, 0, 0, 0, 0]),
            Does(0, Signal, [3, 0, 0, 0, 0, 0, 0]),
            Does(1, Wait, [3, u64::MAX, 0, 0, 0, 0, 0]),
            Does(1, Wait, [3, 0, 0, 0, 0, 0, 0]),
            Does(1, Signal, [3, 0, 0, 0, 0, 0, 0]),
            Root(0, Signal, [41, 0, 0, 0, 0, 0, 0]),
            Root(1, Signal, [41, 0, 0, 0, 0, 0, 0]),
            Root(0, Signal, [43, 0, 0, 0, 0, 0, 0]),
            Exits(1),
            Writes(1, 0x1004),
            Writes(1, 0x1008),
            Does(1, BindDoorbell, [3, 12, 13, 0, 0x1007, 4, 0]),
            Root(0, Delete, [43, 0, 0, 0, 0, 0, 0]),
            Replies(1, true, None),
            Replies(1, true, Some(5)),
            Replies(1, false, None),
            Interrupts(0),
            Interrupts(1),
            Passes(5),
            Root(0, Delete, [42, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [41, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [28, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn no_wakeup_is_lost() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}

/// Priorities and budgets: three threads and a server.
mod time {
    use super::*;
    use Op::{BindSched, Call, Delete, ReplyWait, Signal, Wait};

    fn start() -> System {
        let mut s = System::new(1, 50);
        s.must(Op::CreateDomain, &[1, 20, 24, 16]);
        s.must(Op::CreateSpace, &[20, 21, 0]);
        for i in 1..5 {
            let args = [20, 30 + i, 20, 21, 0, 0x7000 + i * PAGE, 0x2000];
            s.must(Op::CreateThread, &args);
        }
        s.must(Op::CreatePortal, &[1, 41, 34, 7]);
        s.must(Op::Delegate, &[41, 20, 11, ALL]);
        s.must(Op::CreateNotification, &[1, 43]);
        s.must(Op::Delegate, &[43, 20, 13, ALL, 1]);
        s.must(Op::CreateSched, &[1, 35, 0, 5, 20, 100, TIME as u64]);
        s.must(Op::CreateSched, &[1, 36, 0, 4, 0, 0, TIME as u64]);
        s.must(Op::CreateSched, &[1, 37, 0, 4, 0, 0, TIME as u64]);
        s.must(BindSched, &[36, 32]);
        s.must(BindSched, &[37, 33]);
        s.must(Op::BindOverrun, &[35, 43]);
        s
    }

    const EVENTS: [Event; 15] = {
        use Event::{Does, Lags, Passes, Root};
        [
            Lags(0, 20, Wait, [13, u64::MAX, 0, 0, 0, 0, 0]),
            Passes(10),
            Passes(80),
            Passes(SLICE - 10),
            Passes(SLICE),
            Does(0, Op::Yield, [0; 7]),
            Does(0, Call, [11, 1, 2, 3, 0, 0, 0]),
            Does(0, ReplyWait, [0, 1, 2, 3, 0, 0, 0]),
            Does(0, Wait, [13, 10, 0, 0, 0, 0, 0]),
            Does(0, Wait, [13, u64::MAX, 0, 0, 0, 0, 0]),
            Root(0, Signal, [43, 0, 0, 0, 0, 0, 0]),
            Root(0, BindSched, [35, 31, 0, 0, 0, 0, 0]),
            Root(0, BindSched, [35, 34, 0, 0, 0, 0, 0]),
            Root(0, Delete, [31, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [36, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn priorities_and_budgets() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}

/// A client and a server of two domains on a CPU, that send each other capabilities.
mod messages {
    use super::*;
    use Op::{Call, Delete, Map, ReplyWait, Revoke};

    /// Memory of four pages at the root's 40, of which two are the client's, at 5; its notification is at 6, the portal at 7.
    fn start() -> System {
        let mut s = System::new(1, 50);
        active_domain(&mut s, 20, 0, 13);
        s.must(Op::CreateDomain, &[1, 30, 13, 16]);
        s.must(Op::CreateSpace, &[30, 31, 0]);
        s.must(Op::CreateThread, &[30, 32, 30, 31, 0, 0x7000, 0x2000]);
        s.must(Op::CreatePortal, &[1, 41, 32, 7]);
        s.must(Op::CreateNotification, &[1, 42]);
        s.must(Op::Delegate, &[31, 30, 2, ALL]);
        s.must(Op::Delegate, &[RAM as u64, 1, 40, ALL, 0, 4 * PAGE]);
        s.must(Op::Delegate, &[40, 20, 5, ALL, 0, 2 * PAGE]);
        s.must(Op::Delegate, &[42, 20, 6, ALL, 3]);
        s.must(Op::Delegate, &[41, 20, 7, ALL]);
        s.opens(0, Window { base: 9, slots: 2 });
        s.does(0, Call, &[7]);
        s.opens(0, Window { base: 9, slots: 2 });
        s.does(0, ReplyWait, &[0]);
        s
    }

    const fn item(source: u32, rights: u64, flags: u16, first: u64, second: u64) -> Item {
        Item { source: Selector(source), rights: rights as u16, flags, first, second }
    }

    const MEMORY: Item = item(5, ALL, 0, PAGE, PAGE);
    const GRANTED: Item = item(5, 0, 1, 0, 0);
    const SIGNAL: Item = item(6, ALL, 0, 1, 0);
    const TOO_MUCH: Item = item(6, ALL, 0, 4, 0);
    /// What arrived first, and second.
    const BACK: Item = item(9, ALL, 0, 0, PAGE);
    const OTHER_BACK: Item = item(10, 0, 1, 0, 0);

    const EVENTS: [Event; 20] = {
        use Event::{Does, Opens, Root, Sends};
        [
            Sends(0, Call, 7, &[MEMORY]),
            Sends(0, Call, 7, &[GRANTED]),
            Sends(0, Call, 7, &[SIGNAL, MEMORY]),
            Sends(0, Call, 7, &[SIGNAL, TOO_MUCH]),
            Sends(0, Call, 7, &[MEMORY, GRANTED]),
            Sends(0, Call, 9, &[BACK]),
            Sends(0, ReplyWait, 0, &[]),
            Sends(0, ReplyWait, 0, &[BACK]),
            Sends(0, ReplyWait, 0, &[OTHER_BACK, BACK]),
            Opens(0, 9, 1),
            Opens(0, 10, 4),
            Does(0, Map, [9, 2, 12, 0, PAGE, PAGE, 1]),
            Does(0, Map, [5, 2, 13, PAGE, PAGE, PAGE, 3]),
            Does(0, Revoke, [5, 0, 0, 0, 0, 0, 0]),
            Does(0, Delete, [9, 0, 0, 0, 0, 0, 0]),
            Does(0, Delete, [10, 0, 0, 0, 0, 0, 0]),
            Event::Faults(0),
            Root(0, Revoke, [42, 0, 0, 0, 0, 0, 0]),
            Root(0, Revoke, [40, 0, 0, 0, 0, 0, 0]),
            Root(0, Delete, [30, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn all_capabilities_or_none() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}

/// A thread and a vCPU that move between two CPUs, each with a monitor and somebody who asks. Interrupts are late.
mod migration {
    use super::*;
    use Op::{Delete, Migrate, Signal, Wait};

    /// The thread is at 28, the vCPU at 34, its portals from 5 and 16 on; they wait for 42 and 41.
    fn start() -> System {
        let mut s = System::new(2, 60);
        s.must(Op::CreateDomain, &[1, 20, 40, 32]);
        s.must(Op::CreateSpace, &[20, 21, 0]);
        s.must(Op::CreateSpace, &[20, 22, 1]);
        s.must(Op::CreateNotification, &[1, 41]);
        s.must(Op::CreateNotification, &[1, 42]);
        for cpu in 0..2 {
            // A monitor, and the one that asks.
            for (at, page) in [(23, 0x7000), (25, 0x9000)] {
                let args = [20, at + cpu, 20, 21, cpu, page + cpu * PAGE, 0x2000];
                s.must(Op::CreateThread, &args);
            }
            s.must(Op::CreatePortal, &[1, 43 + cpu, 23 + cpu, 7 + cpu]);
            for kind in [ExitKind::Kick, ExitKind::Startup, ExitKind::Halt] {
                let to = [5, 16][cpu as usize] + kind as u64;
                s.must(Op::Delegate, &[43 + cpu, 20, to, ALL]);
            }
            s.must(Op::CreateSched, &[1, 45 + cpu, cpu, 3, 0, 0, TIME as u64]);
            s.must(Op::BindSched, &[45 + cpu, 25 + cpu]);
        }
        s.must(Op::CreateThread, &[20, 28, 20, 21, 0, 0xb000, 0x2000]);
        s.must(Op::CreateVcpu, &[20, 34, 20, 22, 0, 21, 0xc000, 5]);
        s.must(Op::BindKick, &[34, 41]);
        s.must(Op::CreateSched, &[1, 47, 0, 6, 10, 20, TIME as u64]);
        s.must(Op::CreateSched, &[1, 48, 0, 4, 0, 0, TIME as u64]);
        s.must(Op::BindOverrun, &[47, 41]);
        s.must(Op::BindSched, &[47, 28]);
        s.must(Op::BindSched, &[48, 34]);
        s.must(Op::Delegate, &[TIME as u64, 20, 1, ALL, 3, 6]);
        s.must(Op::Delegate, &[28, 20, 2, ALL]);
        s.must(Op::Delegate, &[34, 20, 3, ALL]);
        s.must(Op::Delegate, &[42, 20, 4, ALL, 1]);
        s.late = true;
        s
    }

    const EVENTS: [Event; 20] = {
        use Event::{Does, Exits, Interrupts, Passes, Replies, Root};
        [
            Does(0, Wait, [4, u64::MAX, 0, 0, 0, 0, 0]),
            Does(0, Wait, [4, 5, 0, 0, 0, 0, 0]),
            Does(1, Wait, [4, u64::MAX, 0, 0, 0, 0, 0]),
            Does(0, Migrate, [2, 1, 1, 0, 0, 0, 0]),
            Does(1, Migrate, [2, 0, 1, 0, 0, 0, 0]),
            Does(1, Migrate, [2, 1, 1, 0, 0, 0, 0]),
            Does(0, Migrate, [3, 1, 1, 16, 0, 0, 0]),
            Does(1, Migrate, [3, 1, 1, 16, 0, 0, 0]),
            Root(0, Migrate, [34, 0, TIME as u64, 5, 0, 0, 0]),
            Root(0, Signal, [41, 0, 0, 0, 0, 0, 0]),
            Root(1, Signal, [41, 0, 0, 0, 0, 0, 0]),
            Root(0, Signal, [42, 0, 0, 0, 0, 0, 0]),
            Root(1, Signal, [42, 0, 0, 0, 0, 0, 0]),
            Exits(0),
            Replies(0, true, Some(5)),
            Replies(1, true, None),
            Interrupts(0),
            Interrupts(1),
            Passes(10),
            Root(0, Delete, [28, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn no_wakeup_is_lost_on_the_way() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}

/// Two partitions of a CPU, and a thread on another one that sets its schedule.
mod schedules {
    use super::*;
    use Op::{Delete, Migrate, Signal, Wait, Yield};

    /// Threads at 31 to 33, of which the first two are of partitions 1 and 2; a notification at 43.
    fn start() -> System {
        let mut s = System::new(2, 60);
        s.must(Op::CreateDomain, &[1, 20, 24, 16]);
        s.must(Op::CreateSpace, &[20, 21, 0]);
        s.must(Op::CreateNotification, &[1, 43]);
        for i in 1..4 {
            let (thread, sched, time) = (30 + i, 34 + i, 50 + i);
            let (cpu, partition) = (i / 3, i % 3);
            let args = [20, thread, 20, 21, cpu, 0x7000 + i * PAGE, 0x2000];
            s.must(Op::CreateThread, &args);
            let limit = 6 | partition << 8;
            s.must(Op::Delegate, &[TIME as u64, 1, time, ALL, 3, limit]);
            let (budget, period) = [(0, 0), (30, 70), (0, 0)][i as usize - 1];
            s.must(Op::CreateSched, &[1, sched, cpu, 6 - i, budget, period, time]);
            s.must(Op::BindSched, &[sched, thread]);
        }
        s.must(Op::Delegate, &[TIME as u64, 20, 1, ALL, 3, 6]);
        s.must(Op::Delegate, &[31, 20, 2, ALL]);
        s.must(Op::Delegate, &[43, 20, 4, ALL, 1]);
        s.must(Op::BindOverrun, &[36, 43]);
        s
    }

    const EVENTS: [Event; 16] = {
        use Event::{Does, Passes, Root, Schedules};
        [
            Schedules(1, 100, &[0, 40, 1, 50, 30, 2]),
            Schedules(1, 60, &[10, 20, 2, 30, 30, 1]),
            Schedules(1, 100, &[0, 40, 1, 30, 30, 2]),
            Schedules(1, 0, &[]),
            Passes(10),
            Passes(35),
            Passes(SLICE),
            Does(0, Yield, [0; 7]),
            Does(0, Wait, [4, 30, 0, 0, 0, 0, 0]),
            Does(0, Wait, [4, u64::MAX, 0, 0, 0, 0, 0]),
            Does(1, Signal, [4, 0, 0, 0, 0, 0, 0]),
            Does(1, Migrate, [2, 1, 1, 0, 0, 0, 0]),
            Root(1, Migrate, [31, 0, TIME as u64, 0, 0, 0, 0]),
            // With time of the other partition.
            Root(1, Migrate, [32, 1, 51, 0, 0, 0, 0]),
            Root(1, Delete, [31, 0, 0, 0, 0, 0, 0]),
            Root(1, Delete, [36, 0, 0, 0, 0, 0, 0]),
        ]
    };

    #[test]
    fn windows_and_who_runs_in_them() {
        assert!(explore(start, &EVENTS, 5) > 1000);
    }
}
