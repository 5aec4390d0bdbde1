//! Each operation returns each status that the ABI declares for it. That it returns no other is asserted wherever a test
//! makes a system call (`Frame::set_result_tag`).
//!
//! What follows from the types of arguments is made from the ABI's table: each argument of a call that would succeed is
//! spoilt in turn.

use super::items::{granted, memory, open, put};
use super::world::{DOMAIN, LINES, LOG, PORTS, RAM, SPACE, TIME, World};
use super::{Object, Running};
use crate::context::State;
use crate::domain::Domain;
use crate::mem::PAGE;
use crate::notification::Notification;
use crate::slot::{self, CapWord};
use crate::sync::atomic::Ordering;
use crate::thread::Thread;
use abi::argument::Form;
use abi::cap::Kind;
use abi::syscall::Tag;
use abi::utcb::{Item, Window};
use abi::{Op, Rights, Selector, Status};
use std::collections::BTreeSet;

/// A selector of the root's that is empty.
const EMPTY: u64 = 1000;
/// The first one outside of its table.
const OUTSIDE: u64 = 1024;

/// What was returned: operations and statuses.
#[derive(Default)]
struct Seen(BTreeSet<(u8, u8)>);

impl Seen {
    #[track_caller]
    fn see(&mut self, op: Op, result: Result<[u64; 9], Status>, expected: Status) {
        let status = result.err().unwrap_or(Status::Success);
        assert_eq!(status, expected, "{op:?}");
        self.0.insert((op as u8, status as u8));
    }

    /// The root makes a system call.
    #[track_caller]
    fn root(&mut self, w: &World, op: Op, args: &[u64], expected: Status) {
        self.see(op, w.try_root(op, args), expected);
    }

    /// `thread`, which runs, makes a system call that returns at once.
    #[track_caller]
    fn thread(&mut self, w: &World, thread: Object<Thread>, (tag, args): (Tag, &[u64]), s: Status) {
        w.begin_with(thread.object, tag, args);
        w.run(thread.object.context.cpu());
        self.see(Op::from_code(tag.op()).unwrap(), w.result(thread), s);
    }
}

fn create(w: &World, op: Op, rest: &[u64]) -> u64 {
    let at = w.selector() as u64;
    w.root(op, &[&[DOMAIN as u64, at][..], rest].concat());
    at
}

fn vcpu(w: &World) -> u64 {
    let guest = create(w, Op::CreateSpace, &[1]);
    let space = SPACE as u64;
    create(w, Op::CreateVcpu, &[1, guest, 0, space, w.page(), 50])
}

/// The root's capability to the machine's power.
fn platform(w: &World) -> u64 {
    let at = w.selector();
    let slot = w.root.slot(Selector(at)).unwrap();
    let word = CapWord::new(Kind::Platform, Rights::all(), 0);
    slot.fill(&slot::lock(), word, [u64::MAX, 0], 0);
    at.into()
}

/// Arguments with which `op` succeeds: new ones each time.
fn good(w: &World, op: Op) -> Vec<u64> {
    let [domain, space, ram, log, time] = [DOMAIN, SPACE, RAM, LOG, TIME].map(u64::from);
    let new = || w.selector() as u64;
    let sched = || w.sched(0, 5, 0, 0).at as u64;
    let thread = || w.thread(0).at as u64;
    let n = || w.notification();
    let guest = || create(w, Op::CreateSpace, &[1]);
    match op {
        Op::Call | Op::ReplyWait => panic!("they do not return at once"),
        Op::Wait => {
            let n = n();
            w.root(Op::Signal, &[n]);
            vec![n, 0]
        }
        Op::Yield => vec![],
        Op::Signal | Op::Revoke | Op::Delete => vec![n()],
        Op::CreateDomain => vec![domain, new(), 4, 8],
        Op::CreateSpace => vec![domain, new(), 0],
        Op::CreateThread => vec![domain, new(), domain, space, 0, w.page(), 0x1000, 0x2000, 0],
        Op::CreateVcpu => vec![domain, new(), domain, guest(), 0, space, w.page(), 50],
        Op::CreateSched => vec![domain, new(), 0, 5, 0, 0, time],
        Op::CreatePortal => vec![domain, new(), thread(), 1, 0],
        Op::CreateNotification => vec![domain, new()],
        Op::Delegate => vec![n(), domain, new(), 0xff, 1, 0, 0],
        Op::Map => vec![ram, space, new(), 0, w.page(), PAGE, 1],
        Op::BindSched => vec![sched(), thread()],
        Op::BindKick => vec![vcpu(w), n()],
        Op::InterruptBind => vec![LINES as u64, n(), 0],
        Op::InterruptAck => vec![LINES as u64],
        Op::QuotaQuery => vec![domain],
        Op::LogWrite => vec![log, 3],
        Op::LogRead => vec![log, 0],
        Op::LogBind => vec![log, n()],
        Op::Power => vec![platform(w), 0],
        Op::QuotaGive | Op::QuotaTake => vec![domain, create(w, Op::CreateDomain, &[4, 8]), 1],
        Op::BindDoorbell => vec![n(), guest(), new(), 0, PAGE, PAGE],
        Op::BindOverrun => vec![sched(), n()],
        Op::SetSchedule => vec![time, 0, 0],
        Op::Migrate => vec![thread(), 1, time, 0],
    }
}

/// The capability at `at`, without `right`.
fn without(w: &World, at: u64, right: Rights) -> u64 {
    let slot = w.root.slot(Selector(at as u32)).unwrap();
    let (first, second) = (slot.first.load(Ordering::Relaxed), slot.second.load(Ordering::Relaxed));
    let (new, rights) = (w.selector() as u64, (Rights::all() - right).bits());
    let first = if slot.word().is(Kind::Memory) { 0 } else { first };
    let args = [at, DOMAIN as u64, new, rights.into(), first, second, 0];
    w.root(Op::Delegate, &args);
    new
}

/// Something that is not of these kinds.
fn other(w: &World, kinds: &[Kind]) -> u64 {
    match kinds {
        kinds if !kinds.contains(&Kind::Log) => LOG.into(),
        [_] => DOMAIN.into(),
        // Of anything that can be delegated.
        _ => {
            let mapping = good(w, Op::Map);
            w.root(Op::Map, &mapping);
            mapping[2]
        }
    }
}

/// What the types of the arguments of `op` imply.
fn spoil_each_argument(seen: &mut Seen, op: Op) {
    let w = World::new(2);
    for field in op.description().arguments {
        let mut with = |word: u64, status| {
            let mut args = good(&w, op);
            args[field.register] = word;
            seen.root(&w, op, &args, status);
        };
        match field.form {
            Form::Word | Form::Words(_) => continue,
            Form::Capability { kinds, rights } => {
                with(EMPTY, Status::BadCapability);
                with(OUTSIDE, Status::BadCapability);
                if !kinds.is_empty() {
                    with(other(&w, kinds), Status::BadCapability);
                }
                for right in rights.iter() {
                    let whole = good(&w, op)[field.register];
                    with(without(&w, whole, right), Status::Denied);
                }
            }
            Form::Destination => {
                with(0, Status::BadSelector);
                with(OUTSIDE, Status::BadSelector);
                with(DOMAIN.into(), Status::Occupied);
            }
            _ => {}
        }
        with(u64::MAX, Status::BadArgument);
    }
    let client = w.client(0, 5);
    w.run(0);
    let reserved = Tag(op as u64 | 1 << 40);
    seen.thread(&w, client, (reserved, &[]), Status::BadArgument);
    // The machine goes on.
    let end = match op {
        Op::Power => Status::Unsupported,
        _ => Status::Success,
    };
    seen.root(&w, op, &good(&w, op), end);
}

/// A domain that can pay for nothing, with a host space, a guest space and a domain that it paid for.
fn poor(w: &World) -> [u64; 4] {
    let poor = create(w, Op::CreateDomain, &[60, 8]);
    let paid = [(Op::CreateSpace, 0, 0), (Op::CreateSpace, 1, 0), (Op::CreateDomain, 0, 8)];
    let [space, guest, child] = paid.map(|(op, what, slots)| {
        let at = w.selector() as u64;
        w.root(op, &[poor, at, what, slots]);
        at
    });
    let [_, pages, used, ..] = w.root(Op::QuotaQuery, &[poor]);
    w.root(Op::QuotaTake, &[DOMAIN as u64, poor, pages - used]);
    // What is left of the pages of small objects.
    let make = || w.try_root(Op::CreateNotification, &[poor, w.selector() as u64]);
    while make().is_ok() {}
    [poor, space, guest, child]
}

fn have_nobody_pay(seen: &mut Seen, op: Op) {
    let w = World::new(1);
    let [poor, space, guest, child] = poor(&w);
    let mut args = good(&w, op);
    match op {
        Op::Map => args[1] = space,
        Op::BindDoorbell => args[1] = guest,
        Op::QuotaTake => args[1] = poor,
        Op::QuotaGive => (args[0], args[1]) = (poor, child),
        Op::CreateThread => (args[0], args[2], args[3]) = (poor, poor, space),
        Op::CreateVcpu => {
            (args[0], args[2], args[3], args[5]) = (poor, poor, guest, space);
        }
        _ => args[0] = poor,
    }
    seen.root(&w, op, &args, Status::Quota);
}

/// The domain that matters is ending.
fn have_the_domain_end(seen: &mut Seen, op: Op) {
    let w = World::new(1);
    let args = good(&w, op);
    let ending = match op {
        Op::QuotaGive | Op::QuotaTake => w.object::<Domain>(args[1] as u32).object,
        _ => w.root,
    };
    ending.set_dying();
    seen.root(&w, op, &args, Status::Dead);
}

/// A client that runs, and a server with a portal for it.
fn pair(w: &World) -> (Object<Thread>, Object<Thread>, u64) {
    let (client, server) = (w.client(0, 10), w.thread(0));
    let portal = w.portal(server, 7);
    assert_eq!(w.run(0), Running::User(client.object));
    (client, server, portal)
}

/// Has `receiver` take capabilities where there is no slot, or an occupied one.
fn window(receiver: Object<Thread>, base: u64) {
    let (base, slots) = (base as u32, 1);
    receiver.object.utcb.write(0, Window { base, slots }.to_word());
}

/// Sends a bad capability, or a good one to a bad window: `send` sends what it is given and tells what it is told.
fn send_badly(w: &World, receiver: Object<Thread>, mut send: impl FnMut(Item, Status)) {
    let ram = memory(RAM.into(), 0);
    send(ram, Status::NoWindow);
    for (base, status) in [(OUTSIDE, Status::BadSelector), (1, Status::Occupied)] {
        window(receiver, base);
        send(ram, status);
    }
    open(w, receiver, 1);
    send(memory(EMPTY, 0), Status::BadCapability);
    let kept = without(w, RAM.into(), Rights::DELEGATE);
    send(memory(kept, 0), Status::Denied);
    send(granted(w.notification()), Status::Busy);
    send(memory(RAM.into(), 1 << 40), Status::BadArgument);
}

fn calls(seen: &mut Seen) {
    let call = Tag::new(Op::Call, 0);
    let w = World::new(2);
    let (client, server, portal) = pair(&w);
    send_badly(&w, server, |item, status| {
        put(client, &[item]);
        seen.thread(&w, client, (call.with_items(1), &[portal]), status);
    });
    seen.thread(&w, client, (call, &[EMPTY]), Status::BadCapability);
    let uncallable = without(&w, portal, Rights::CALL);
    seen.thread(&w, client, (call, &[uncallable]), Status::Denied);
    seen.thread(&w, client, (Tag::new(Op::Call, 505), &[portal]), Status::BadArgument);
    let far = w.portal(w.thread(1), 0);
    seen.thread(&w, client, (call, &[far]), Status::WrongCpu);
    let depth = abi::MAX_CALL_DEPTH as u8;
    client.object.context.depth.set(depth);
    seen.thread(&w, client, (call, &[portal]), Status::Depth);
    client.object.context.depth.set(0);
    w.does(client, Op::Call, &[portal]);
    seen.thread(&w, server, (call, &[portal]), Status::Deadlock);
    w.does(server, Op::ReplyWait, &[]);
    seen.see(Op::Call, w.result(client), Status::Success);
    w.delete(server.at);
    seen.thread(&w, client, (call, &[portal]), Status::Dead);
}

fn replies(seen: &mut Seen) {
    let reply = Tag::new(Op::ReplyWait, 0);
    let w = World::new(1);
    let (client, server, portal) = pair(&w);
    w.does(client, Op::Call, &[portal]);
    send_badly(&w, client, |item, status| {
        put(server, &[item]);
        seen.thread(&w, server, (reply.with_items(1), &[]), status);
    });
    open(&w, client, 1);
    put(server, &[memory(RAM.into(), 0)]);
    w.root.set_dying();
    seen.thread(&w, server, (reply.with_items(1), &[]), Status::Dead);
    w.does(server, Op::ReplyWait, &[]);
    assert_eq!(w.does(client, Op::Call, &[portal]), Running::User(server.object));
    seen.see(Op::ReplyWait, w.result(server), Status::Success);
}

/// What is in no type.
fn conditions(seen: &mut Seen) {
    use Status::*;
    let w = World::new(2);
    let n = w.notification();
    seen.root(&w, Op::Wait, &[n, 0], Timeout);
    let client = w.client(0, 5);
    w.run(0);
    w.does(client, Op::Wait, &[n, u64::MAX]);
    seen.root(&w, Op::Wait, &[n, 1], Busy);
    w.delete(n as u32);
    w.run(0);
    seen.see(Op::Wait, w.result(client), Aborted);

    let mut grant = good(&w, Op::Delegate);
    grant[6] = 1;
    seen.root(&w, Op::Delegate, &grant, Busy);
    let space = create(&w, Op::CreateSpace, &[0]);
    create(&w, Op::CreateThread, &[1, space, 0, PAGE, 0, 0, 0]);
    seen.root(&w, Op::Delete, &[space], Busy);
    for op in [Op::BindSched, Op::BindKick, Op::InterruptBind, Op::BindOverrun] {
        let args = good(&w, op);
        seen.root(&w, op, &args, Success);
        seen.root(&w, op, &args, Busy);
    }
    let far = [w.sched(1, 5, 0, 0).at as u64, w.thread(0).at as u64];
    seen.root(&w, Op::BindSched, &far, WrongCpu);
    let kick = good(&w, Op::BindKick);
    w.object::<Notification>(kick[1] as u32).object.close();
    seen.root(&w, Op::BindKick, &kick, Aborted);
    let n = w.notification();
    let absent = LINES as u64 + 3;
    seen.root(&w, Op::InterruptBind, &[absent, n, 0], Unsupported);
    for (state, status) in [(State::InCall, Busy), (State::Stopped, Dead)] {
        let thread = w.thread(0);
        thread.object.context.state.set(state);
        let args = [thread.at as u64, 1, TIME as u64, 0];
        seen.root(&w, Op::Migrate, &args, status);
        thread.object.context.state.set(State::New);
    }
    // The same memory twice, at the same place; the fixture's ports by another number.
    let mut map = good(&w, Op::Map);
    w.root(Op::Map, &map);
    map[2] = w.selector().into();
    seen.root(&w, Op::Map, &map, Occupied);
    (map[0], map[4]) = (PORTS.into(), 1);
    seen.root(&w, Op::Map, &map, BadArgument);
}

#[test]
fn each_operation_returns_each_of_its_statuses() {
    let mut seen = Seen::default();
    let spoilt = |op: &&Op| !matches!(op, Op::Call | Op::ReplyWait);
    for &op in Op::ALL.iter().filter(spoilt) {
        spoil_each_argument(&mut seen, op);
        if op.statuses().contains(Status::Quota) {
            have_nobody_pay(&mut seen, op);
        }
        // Migrate says it of a thread.
        if op.statuses().contains(Status::Dead) && op != Op::Migrate {
            have_the_domain_end(&mut seen, op);
        }
    }
    calls(&mut seen);
    replies(&mut seen);
    conditions(&mut seen);
    // A machine that ends says nothing, and the CPUs of the tests can virtualise.
    let unseen = [(Op::Power, Status::Success), (Op::CreateVcpu, Status::Unsupported)];
    for (op, status) in unseen {
        assert!(seen.0.insert((op as u8, status as u8)), "{op:?}: {status:?}");
    }
    for &op in Op::ALL {
        for status in op.statuses().iter() {
            assert!(seen.0.contains(&(op as u8, status as u8)), "{op:?}: {status:?}");
        }
    }
}
