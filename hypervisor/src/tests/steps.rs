//! Long operations proceed in steps: what comes between two of them.

use super::Running;
use super::world::{Object, World, state};
use crate::context::State;
use crate::domain::Domain;
use crate::mem;
use crate::sched;
use crate::slot;
use crate::space::Progress;
use crate::thread::Thread;
use abi::{Op, Rights, Selector, Status};

fn user(thread: Object<Thread>) -> Running {
    Running::User(thread.object)
}

/// Lets the system call of `thread`, which is current on CPU 0, come to its end, as what it waits for on CPU 1 does.
#[track_caller]
fn finish(w: &World, thread: Object<Thread>) {
    for _ in 0..1000 {
        w.interrupts(1);
        w.interrupts(0);
        if w.step(0) == Some(user(thread)) {
            assert_eq!(w.result(thread).map(|_| ()), Ok(()));
            return;
        }
    }
    panic!("it does not end");
}

/// More than any step takes.
const MANY: usize = 40;

#[test]
fn a_thread_loses_its_portals_in_steps() {
    let w = World::new(1);
    let (killer, other, server) = (w.client(0, 5), w.client(0, 5), w.thread(0));
    let portals: Vec<_> = (0..MANY as u64).map(|i| w.portal(server, i)).collect();
    let sched = w.sched(0, 4, 0, 0);
    assert_eq!(w.run(0), user(killer));
    w.begin(killer.object, Op::Delete, 0, &[server.at as u64]);
    assert!(w.restarts(killer.object));
    // The first step stopped it: whether a portal is bound to it still or not, calls get the same answer.
    assert_eq!(state(server), State::Stopped);
    assert!(portals.iter().any(|&p| handler(&w, p)) && portals.iter().any(|&p| !handler(&w, p)));
    w.cpu(0).yielded.set(true);
    w.cpu(0).reschedule.set(true);
    assert_eq!(w.step(0), Some(user(other)));
    for &portal in &portals {
        w.begin(other.object, Op::Call, 0, &[portal]);
        assert_eq!(w.result(other), Err(Status::Dead));
    }
    w.begin(other.object, Op::CreatePortal, 0, &[1, 99, server.at as u64]);
    assert_eq!(w.result(other), Err(Status::BadCapability));
    w.begin(other.object, Op::BindSched, 0, &[sched.at as u64, server.at as u64]);
    assert_eq!(w.result(other), Err(Status::BadCapability));
    w.does(other, Op::Wait, &[w.notification(), u64::MAX]);
    assert_eq!(w.run(0), user(killer));
    assert_eq!(w.result(killer).map(|_| ()), Ok(()));
    assert!(portals.iter().all(|&p| !handler(&w, p)));
}

/// Whether somebody handles a portal of the root's.
fn handler(w: &World, portal: u64) -> bool {
    let portal = w.object::<crate::portal::Portal>(portal as u32);
    portal.object.handler().is_some()
}

#[test]
fn time_that_was_on_its_way_to_an_ending_thread_is_taken_back() {
    // Another CPU binds it just before the end begins; it arrives between two steps of that.
    let w = World::new(2);
    let (killer, server, sched) = (w.client(0, 5), w.thread(0), w.sched(0, 9, 0, 0));
    for i in 0..MANY as u64 {
        w.portal(server, i);
    }
    assert_eq!(w.run(0), user(killer));
    let bind = [sched.at as u64, server.at as u64];
    w.root_alone(1, Op::BindSched, &bind);
    w.on(0);
    w.begin(killer.object, Op::Delete, 0, &[server.at as u64]);
    assert!(w.restarts(killer.object));
    w.interrupts(0);
    assert!(server.object.context.sched.get().is_some());
    finish(&w, killer);
    // It is free for another one.
    let other = w.thread(0);
    w.bind(sched, other);
    assert_eq!(w.run(0), user(other));
}

#[test]
fn another_cpus_thread_ends_in_steps_between_which_that_cpu_goes_on() {
    let w = World::new(2);
    let (server, bystander, n) = (w.thread(1), w.client(1, 7), w.notification());
    for i in 0..MANY as u64 {
        w.portal(server, i);
    }
    let killer = w.client(0, 5);
    assert_eq!((w.run(1), w.run(0)), (user(bystander), user(killer)));
    w.does(bystander, Op::Wait, &[n, u64::MAX]);
    w.on(0);
    w.begin(killer.object, Op::Delete, 0, &[server.at as u64]);
    assert!(w.restarts(killer.object));
    let cpu = w.on(1);
    cpu.note_inbox();
    assert!(cpu.serve_inbox() == Progress::Again);
    assert_eq!(state(server), State::Stopped);
    assert!(!server.object.portals.is_empty());
    // Somebody else asks for something: that comes before the rest, and the rest is not lost.
    w.root_alone(0, Op::Signal, &[n]);
    let cpu = w.on(1);
    assert!(cpu.serve_inbox() == Progress::Again);
    assert_eq!(state(bystander), State::Ready);
    assert!(!server.object.portals.is_empty());
    let mut steps = 0;
    while cpu.serve_inbox() == Progress::Again {
        steps += 1;
    }
    assert!(steps > 1 && server.object.portals.is_empty());
    finish(&w, killer);
}

#[test]
fn a_handler_with_many_helpers_ends() {
    let w = World::new(1);
    let (first, server) = (w.client(0, 5), w.thread(0));
    let portal = w.portal(server, 1);
    w.run(0);
    assert_eq!(w.does(first, Op::Call, &[portal]), user(server));
    let helpers: Vec<_> = (0..MANY)
        .map(|_| {
            let helper = w.client(0, 6);
            w.cpu(0).yielded.set(true);
            w.cpu(0).reschedule.set(true);
            while w.run(0) != user(helper) {
                w.cpu(0).yielded.set(true);
                w.cpu(0).reschedule.set(true);
            }
            w.does(helper, Op::Call, &[portal]);
            helper
        })
        .collect();
    let killer = w.client(0, 9);
    assert_eq!(w.run(0), user(killer));
    w.begin(killer.object, Op::Delete, 0, &[server.at as u64]);
    assert!(w.restarts(killer.object));
    let helping = |h: &&Object<Thread>| state(**h) == State::Helping;
    assert!(helpers.iter().filter(helping).count() < MANY);
    // One that still helps runs between the steps: it gets its answer, and is not found by the rest.
    let helper = *helpers.iter().find(helping).unwrap();
    w.delete(helper.at);
    let killed = helper.at;
    assert_eq!(w.run(0), user(killer));
    assert_eq!(w.result(killer).map(|_| ()), Ok(()));
    w.does(killer, Op::Wait, &[w.notification(), u64::MAX]);
    let mut answered = 0;
    while let Running::User(thread) = w.run(0) {
        let client = helpers.iter().chain([&first]).find(|c| c.object == thread);
        let client = *client.unwrap();
        assert_eq!(w.result(client), Err(Status::Dead));
        assert_ne!(client.at, killed);
        answered += 1;
        w.does(client, Op::Wait, &[w.notification(), u64::MAX]);
    }
    assert_eq!(answered, MANY);
}

/// A handler that waits for `n`, and clients of these priorities that wait for it.
fn waiting_clients(w: &World, n: u64, priorities: &[u8]) -> (Object<Thread>, Vec<Object<Thread>>) {
    let server = w.thread(0);
    let portal = w.portal(server, 1);
    let clients: Vec<_> = priorities.iter().map(|&p| w.client(0, p)).collect();
    for _ in &clients {
        let Running::User(client) = w.run(0) else {
            panic!("nobody runs");
        };
        w.begin(client, Op::Call, 0, &[portal]);
        if w.run(0) == user(server) {
            w.does(server, Op::Wait, &[n, u64::MAX]);
        }
    }
    assert_eq!(w.run(0), Running::Idle);
    (server, clients)
}

#[test]
fn those_released_are_taken_back_in_steps_and_the_best_of_them_runs() {
    let w = World::new(1);
    let n = w.notification();
    let priorities: Vec<u8> = (1..=MANY as u8).collect();
    let (server, clients) = waiting_clients(&w, n, &priorities);
    w.root_alone(0, Op::Signal, &[n]);
    let cpu = w.cpu(0);
    assert!(sched::schedule(&cpu) == Progress::Again && cpu.current.get().is_none());
    // One of those that are not taken back yet loses its time, another ends.
    let time = |client: &Object<Thread>| client.object.context.sched.get().unwrap();
    let mut released = clients.iter().filter(|c| time(c).waiting.is_linked());
    let (gone, ended) = (released.next().unwrap(), released.next().unwrap());
    sched::unbind(&cpu, time(gone));
    gone.object.context.sched.set(None);
    w.delete(ended.at);
    while sched::schedule(&cpu) == Progress::Again {}
    assert_eq!(w.run(0), user(server));
    assert_eq!(cpu.sched.get().unwrap().priority, MANY as u8);
    assert!(cpu.released.is_empty());
}

#[test]
fn a_change_of_the_tree_waits_in_user_mode_for_another_cpu() {
    let w = World::new(1);
    let (thread, sched, target) = (w.client(0, 5), w.sched(0, 5, 0, 0), w.thread(0));
    let (n, free) = (w.notification(), w.selector() as u64);
    assert_eq!(w.run(0), user(thread));
    for (op, args) in [
        (Op::CreateNotification, vec![1, free]),
        (Op::Delegate, vec![n, 1, free + 1, 0xff, 1]),
        (Op::Map, vec![3, 2, free + 2, 0, 0x7000_0000, 4096, 3]),
        (Op::Revoke, vec![3]),
        (Op::Delete, vec![free]),
        (Op::BindSched, vec![sched.at as u64, target.at as u64]),
        (Op::InterruptBind, vec![8, n, 1]),
        (Op::LogBind, vec![5, n]),
    ] {
        let locked = slot::lock();
        w.begin(thread.object, op, 0, &args);
        assert!(w.restarts(thread.object), "{op:?}");
        drop(locked);
        w.cpu(0).yielded.set(false);
        while w.restarts(thread.object) {
            w.again(thread.object);
            w.interrupts(0);
        }
        assert_eq!(w.result(thread).map(|_| ()), Ok(()), "{op:?}");
        w.run(0);
    }
}

#[test]
fn a_table_takes_its_pages_when_they_are_used() {
    let w = World::new(1);
    let (at, n) = (w.selector() as u64, w.notification());
    let (used, free) = (w.root.quota().1, mem::free_pages());
    let last = abi::MAX_SLOTS as u64 - 1;
    w.root(Op::CreateDomain, &[1, at, 3, last + 1]);
    assert_eq!(w.root.quota().1, used + 3 + Domain::overhead(abi::MAX_SLOTS));
    assert_eq!(mem::free_pages(), free - 2);
    let all = Rights::all().bits() as u64;
    for selector in [last, 70, 69] {
        w.root(Op::Delegate, &[n, at, selector, all, 1]);
    }
    assert_eq!(mem::free_pages(), free - 4);
    let again = w.try_root(Op::Delegate, &[n, at, last, all, 1]);
    assert_eq!(again, Err(Status::Occupied));
    w.delete(at as u32);
    assert_eq!((w.root.quota().1, mem::free_pages()), (used, free));
    let origin = w.root.slot(Selector(n as u32)).unwrap();
    assert!(origin.first_child(&slot::lock()).is_none());
}

#[test]
fn pages_are_clear_when_they_are_taken() {
    let _w = World::new(1);
    let pages = [mem::alloc().unwrap(), mem::alloc().unwrap()];
    for page in pages {
        page.fill(u64::MAX);
    }
    pages.into_iter().for_each(mem::free);
    for _ in pages {
        let page = mem::alloc().unwrap();
        assert!(pages.contains(&page) && (0..512).all(|i| page.read(i) == 0));
    }
}

#[test]
fn a_handler_keeps_its_own_time() {
    let w = World::new(1);
    let (server, client) = (w.client(0, 9), w.client(0, 5));
    let (portal, n) = (w.portal(server, 1), w.notification());
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), user(client));
    for _ in 0..2 {
        assert_eq!(w.does(client, Op::Call, &[portal]), user(server));
        assert_eq!(w.does(server, Op::ReplyWait, &[]), user(client));
    }
    assert_eq!(w.does(client, Op::Call, &[portal]), user(server));
    assert_eq!(w.does(server, Op::Wait, &[n, u64::MAX]), Running::Idle);
    w.delete(client.at);
    w.root(Op::Signal, &[n]);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.cpu(0).sched.get().unwrap().priority, 9);
}

#[test]
fn a_handler_goes_on_when_its_clients_time_ends_before_the_client() {
    let w = World::new(1);
    let (server, client, sched) = (w.client(0, 9), w.thread(0), w.sched(0, 5, 0, 0));
    let portal = w.portal(server, 1);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), Running::Idle);
    w.bind(sched, client);
    assert_eq!(w.run(0), user(client));
    assert_eq!(w.does(client, Op::Call, &[portal]), user(server));
    // As a handler does that ends its client: step by step, of which the first takes the time away that it runs on.
    w.begin(server.object, Op::Delete, 0, &[sched.at as u64]);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.result(server).map(|_| ()), Ok(()));
    w.begin(server.object, Op::Delete, 0, &[client.at as u64]);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.result(server).map(|_| ()), Ok(()));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), Running::Idle);
}

#[test]
fn tables_are_found_wherever_they_are() {
    let w = World::new(1);
    let (used, free) = (w.root.quota().1, mem::free_pages());
    let space = w.selector() as u64;
    w.root(Op::CreateSpace, &[1, space, 0]);
    // First, last and middle entries of tables of every level.
    let places = [
        0x1000,
        0x1f_f000,
        511 << 21,
        255 << 21 | 0x1000,
        511 << 30,
        (511 << 30) + (511 << 21) + (510 << 12),
        (256 << 30) + (256 << 21),
    ];
    for place in places {
        let mapping = w.selector() as u64;
        w.root(Op::Map, &[3, space, mapping, 0x1000, place, 4096, 3]);
    }
    w.root(Op::Revoke, &[3]);
    w.delete(space as u32);
    // A page of cells may stay.
    let left = w.root.quota().1 - used;
    assert!(left <= 1, "{left} pages are lost");
    assert_eq!(free - mem::free_pages(), left);
}
