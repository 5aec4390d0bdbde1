//! Whose time is used when a handler has time of its own.

use super::world::{SLICE, World};
use super::{Object, Running};
use crate::arch;
use crate::context::ReplyPath;
use crate::sched::Sched;
use crate::thread::Thread;
use abi::Op;

#[test]
fn a_reply_ends_what_the_handler_gives() {
    let w = World::new(1);
    let (client, server) = (w.client(0, 10), w.thread(0));
    let portal = w.portal(server, 7);
    assert_eq!(w.run(0), Running::User(client.object));
    let user = Running::User(server.object);
    assert_eq!(w.does(client, Op::Call, &[portal]), user);
    // The fast path could carry the reply out, as long as the handler runs on its client's time.
    assert_eq!(server.object.context.reply_path.get(), ReplyPath::Thread);
    let own = w.sched(0, 50, 0, 0);
    w.bind(own, server);
    assert_eq!(w.run(0), user);
    assert!(w.cpu(0).sched.get() == Some(own.object));
    // Not now: the client would go on with the handler's.
    assert_eq!(server.object.context.reply_path.get(), ReplyPath::General);
    assert_eq!(w.does(server, Op::ReplyWait, &[]), Running::User(client.object));
    assert!(w.cpu(0).sched.get() != Some(own.object));
}

#[test]
fn so_do_those_of_a_chain() {
    let w = World::new(1);
    let (client, first, second) = (w.client(0, 10), w.thread(0), w.thread(0));
    let (to_first, to_second) = (w.portal(first, 1), w.portal(second, 2));
    assert_eq!(w.run(0), Running::User(client.object));
    w.does(client, Op::Call, &[to_first]);
    let user = Running::User(second.object);
    assert_eq!(w.does(first, Op::Call, &[to_second]), user);
    let own = w.sched(0, 50, 0, 0);
    w.bind(own, first);
    // The one that is called by whoever has time of its own runs on that.
    assert_eq!(w.run(0), user);
    assert!(w.cpu(0).sched.get() == Some(own.object));
    assert_eq!(w.does(second, Op::ReplyWait, &[]), Running::User(first.object));
    assert_eq!(first.object.context.reply_path.get(), ReplyPath::General);
    assert_eq!(w.does(first, Op::ReplyWait, &[]), Running::User(client.object));
    assert!(w.cpu(0).sched.get() != Some(own.object));
}

/// A client, and a server with more important time of its own, which sleeps.
fn with_own_time(w: &World) -> (Object<Thread>, Object<Thread>, Object<Sched>) {
    let (client, server) = (w.client(0, 10), w.thread(0));
    let own = w.sched(0, 50, 0, 0);
    w.bind(own, server);
    assert_eq!(w.run(0), Running::User(server.object));
    let next = w.does(server, Op::ReplyWait, &[]);
    assert_eq!(next, Running::User(client.object));
    (client, server, own)
}

#[test]
fn a_call_does_not_wake_the_handlers_own_time() {
    let w = World::new(1);
    let (client, server, own) = with_own_time(&w);
    let portal = w.portal(server, 7);
    let user = Running::User(server.object);
    for _ in 0..2 {
        assert_eq!(w.does(client, Op::Call, &[portal]), user);
        arch::set_now(arch::now() + 2 * SLICE);
        assert_eq!(w.run(0), user);
        assert!(w.cpu(0).sched.get() != Some(own.object));
        let next = w.does(server, Op::ReplyWait, &[]);
        assert_eq!(next, Running::User(client.object));
    }
}

#[test]
fn a_handler_that_waits_goes_on_on_its_own_time() {
    let w = World::new(1);
    let (client, server, own) = with_own_time(&w);
    let portal = w.portal(server, 7);
    let bell = w.notification();
    let user = Running::User(server.object);
    assert_eq!(w.does(client, Op::Call, &[portal]), user);
    assert_eq!(w.does(server, Op::Wait, &[bell, u64::MAX]), Running::Idle);
    w.root(Op::Signal, &[bell]);
    assert_eq!(w.run(0), user);
    assert!(w.cpu(0).sched.get() == Some(own.object));
    let next = w.does(server, Op::ReplyWait, &[]);
    assert_eq!(next, Running::User(client.object));
    assert!(w.cpu(0).sched.get() != Some(own.object));
}
