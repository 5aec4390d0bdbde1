//! The life of a call, in all its endings.

use super::world::{self, World, state};
use super::{Object, Running};
use crate::context::State;
use crate::ipc;
use crate::thread::{Exception, Thread};
use abi::utcb::exception::{ExceptionReply, GPRS};
use abi::{Op, Status, Tag};

fn user(thread: Object<Thread>) -> Running {
    Running::User(thread.object)
}

#[test]
fn call_and_reply() {
    let w = World::new(1);
    let (client, server) = (w.client(0, 10), w.thread(0));
    let portal = w.portal(server, 77);
    assert_eq!(w.run(0), user(client));
    // The server has never run: the message is what it starts with.
    assert_eq!(w.does(client, Op::Call, &[portal, 1, 2, 3, 4, 5, 6, 7, 8]), user(server));
    assert_eq!(
        server.object.with_frame(|f| (f.ip(), f.args())),
        (0x2000, [77, 1, 2, 3, 4, 5, 6, 7, 8])
    );
    assert_eq!(w.does(server, Op::ReplyWait, &[0, 9, 8, 7, 6, 5, 4, 3, 2]), user(client));
    assert_eq!(w.result(client), Ok([0, 9, 8, 7, 6, 5, 4, 3, 2]));
    // Now it waits in a system call; words of the UTCB go along.
    for i in 0..512 {
        client.object.utcb.write(i, 1000 + i as u64);
    }
    w.begin(client.object, Op::Call, 504, &[portal]);
    assert_eq!(w.run(0), user(server));
    assert_eq!(server.object.with_frame(|f| f.tag().utcb_words()), 504);
    assert_eq!((server.object.utcb.read(7), server.object.utcb.read(8)), (0, 1008));
    assert_eq!(server.object.utcb.read(511), 1511);
    w.begin(server.object, Op::ReplyWait, 505, &[]);
    assert_eq!(w.result(server), Err(Status::BadArgument));
    w.does(server, Op::ReplyWait, &[]);
    assert_eq!(w.result(client), Ok([0; 9]));
    assert_eq!(state(server), State::Idle);
    let _ = world::SLICE;
}

#[test]
fn the_portals_selector_has_32_bits() {
    let w = World::new(1);
    let (client, server) = (w.client(0, 10), w.thread(0));
    let portal = w.portal(server, 77);
    w.run(0);
    let args = [portal | 1 << 32];
    assert_eq!(w.does(client, Op::Call, &args), user(client));
    assert_eq!(w.result(client), Err(Status::BadArgument));
}

/// The root signals all bits of a notification.
fn signal(w: &World, notification: u64) {
    w.root(Op::Signal, &[notification]);
}

/// `thread`, which runs, waits for a notification for ever.
fn wait(w: &World, thread: Object<Thread>, notification: u64) -> Running {
    w.does(thread, Op::Wait, &[notification, u64::MAX])
}

#[test]
fn calls_nest_so_deep_and_no_deeper() {
    let w = World::new(1);
    let client = w.client(0, 10);
    let servers: Vec<_> = (0..abi::MAX_CALL_DEPTH + 1).map(|_| w.thread(0)).collect();
    let portals: Vec<_> = servers.iter().map(|&s| w.portal(s, 0)).collect();
    w.run(0);
    let mut caller = client;
    for (i, (&server, &portal)) in servers.iter().zip(&portals).enumerate() {
        let next = w.does(caller, Op::Call, &[portal]);
        if i == abi::MAX_CALL_DEPTH {
            assert_eq!((next, w.result(caller)), (user(caller), Err(Status::Depth)));
            break;
        }
        assert_eq!(next, user(server));
        caller = server;
    }
    for pair in servers[..abi::MAX_CALL_DEPTH].windows(2).rev() {
        assert_eq!(w.does(pair[1], Op::ReplyWait, &[]), user(pair[0]));
    }
    assert_eq!(w.does(servers[0], Op::ReplyWait, &[]), user(client));
    // Depth ends with the call.
    assert_eq!(
        w.does(client, Op::Call, &[portals[abi::MAX_CALL_DEPTH]]),
        user(servers[abi::MAX_CALL_DEPTH])
    );
}

#[test]
fn a_busy_handler_is_helped() {
    let w = World::new(1);
    let (low, server) = (w.client(0, 5), w.thread(0));
    let portal = w.portal(server, 1);
    w.run(0);
    assert_eq!(w.does(low, Op::Call, &[portal, 50]), user(server));
    let middle = w.client(0, 6);
    assert_eq!(w.run(0), user(middle));
    let high = w.client(0, 9);
    assert_eq!(w.run(0), user(high));
    // The server goes on, on the time of the high one: the middle one has no chance.
    assert_eq!(w.does(high, Op::Call, &[portal, 90]), user(server));
    assert_eq!(w.cpu(0).sched.get().unwrap().priority, 9);
    // Its reply makes the low one ready, but the high one's call comes first.
    assert_eq!(w.does(server, Op::ReplyWait, &[0, 51]), user(server));
    assert_eq!(w.result(server), Ok([1, 90, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(w.does(server, Op::ReplyWait, &[0, 91]), user(high));
    assert_eq!(w.result(high).unwrap()[1], 91);
    let never = w.notification();
    assert_eq!(wait(&w, high, never), user(middle));
    assert_eq!(wait(&w, middle, w.notification()), user(low));
    assert_eq!(w.result(low).unwrap()[1], 51);
}

#[test]
fn a_handler_that_waits_makes_its_callers_wait() {
    let w = World::new(1);
    let (first, server, n) = (w.client(0, 5), w.thread(0), w.notification());
    let portal = w.portal(server, 1);
    w.run(0);
    w.does(first, Op::Call, &[portal]);
    assert_eq!(wait(&w, server, n), Running::Idle);
    let second = w.client(0, 6);
    assert_eq!(w.run(0), user(second));
    assert_eq!(w.does(second, Op::Call, &[portal, 60]), Running::Idle);
    signal(&w, n);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.result(server).unwrap()[1], u64::MAX);
    assert_eq!(w.cpu(0).sched.get().unwrap().priority, 6);
    assert_eq!(w.does(server, Op::ReplyWait, &[]), user(server));
    assert_eq!(w.result(server).unwrap()[1], 60);
}

#[test]
fn a_call_that_would_wait_for_itself() {
    let w = World::new(1);
    let client = w.client(0, 5);
    let servers = [w.thread(0), w.thread(0), w.thread(0)];
    let portals = servers.map(|s| w.portal(s, 0));
    w.run(0);
    w.does(client, Op::Call, &[portals[0]]);
    assert_eq!(w.does(servers[0], Op::Call, &[portals[0]]), user(servers[0]));
    assert_eq!(w.result(servers[0]), Err(Status::Deadlock));
    w.does(servers[0], Op::Call, &[portals[1]]);
    w.does(servers[1], Op::Call, &[portals[2]]);
    for portal in portals {
        assert_eq!(w.does(servers[2], Op::Call, &[portal]), user(servers[2]));
        assert_eq!(w.result(servers[2]), Err(Status::Deadlock));
    }
    // By way of somebody who helps: another client calls 2 for 1, which 0 then calls.
    let w = {
        drop(w);
        World::new(1)
    };
    let (a, b) = (w.client(0, 5), w.thread(0));
    let (s, t) = (w.thread(0), w.thread(0));
    let (to_s, to_t) = (w.portal(s, 0), w.portal(t, 0));
    w.run(0);
    w.does(a, Op::Call, &[to_s]);
    w.bind(w.sched(0, 9, 0, 0), b);
    assert_eq!(w.run(0), user(b));
    w.does(b, Op::Call, &[to_t]);
    // t, for b, helps s, for a.
    assert_eq!(w.does(t, Op::Call, &[to_s]), user(s));
    assert_eq!(state(t), State::Helping);
    assert_eq!(w.does(s, Op::Call, &[to_t]), user(s));
    assert_eq!(w.result(s), Err(Status::Deadlock));
}

#[test]
fn a_portal_of_another_cpu() {
    let w = World::new(2);
    let (client, server) = (w.client(0, 5), w.thread(1));
    let portal = w.portal(server, 0);
    w.run(0);
    assert_eq!(w.does(client, Op::Call, &[portal]), user(client));
    assert_eq!(w.result(client), Err(Status::WrongCpu));
}

#[test]
fn the_client_ends_during_its_call() {
    let w = World::new(1);
    let (client, server) = (w.client(0, 5), w.thread(0));
    let portal = w.portal(server, 1);
    w.run(0);
    assert_eq!(w.does(client, Op::Call, &[portal]), user(server));
    w.delete(client.at);
    assert_eq!((w.run(0), state(server)), (Running::Idle, State::Ready));
    // The server finishes on the time of the next caller.
    let next = w.client(0, 6);
    w.run(0);
    assert_eq!(w.does(next, Op::Call, &[portal, 60]), user(server));
    assert_eq!(w.result(server).unwrap()[1], 0);
    assert_eq!(w.does(server, Op::ReplyWait, &[0, 11]), user(server));
    assert_eq!(w.result(server).unwrap()[1], 60);
    assert_eq!(w.does(server, Op::ReplyWait, &[0, 61]), user(next));
    assert_eq!(w.result(next).unwrap()[1], 61);
}

#[test]
fn the_client_and_its_time_end_while_the_server_waits() {
    let w = World::new(1);
    let (client, server, n) = (w.thread(0), w.thread(0), w.notification());
    let (portal, sched) = (w.portal(server, 1), w.sched(0, 5, 0, 0));
    w.bind(sched, client);
    w.run(0);
    w.does(client, Op::Call, &[portal]);
    assert_eq!(wait(&w, server, n), Running::Idle);
    w.delete(client.at);
    w.delete(sched.at);
    signal(&w, n);
    assert_eq!((w.run(0), state(server)), (Running::Idle, State::Ready));
    let next = w.client(0, 6);
    w.run(0);
    assert_eq!(w.does(next, Op::Call, &[portal, 60]), user(server));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), user(server));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), user(next));
}

#[test]
fn registers_that_calls_do_not_preserve_are_scrubbed_whatever_comes_of_them() {
    let w = World::new(1);
    let client = w.client(0, 5);
    let server = w.thread(0);
    let portal = w.portal(server, 1);
    w.run(0);
    let fill = |value| {
        client.object.with_frame(|frame| {
            for at in [3, 5, 15] {
                frame.gpr[at] = value;
            }
        });
    };
    let kept = || client.object.with_frame(|frame| [3, 5, 15].map(|at| frame.gpr[at]));
    for (op, args, expected) in [
        (Op::Signal, [999, 0], 7),
        (Op::Call, [999, 0], 0),
        (Op::Call, [portal | 1 << 32, 0], 0),
        (Op::ReplyWait, [0, 0], 0),
    ] {
        fill(7);
        // Of ReplyWait, one that fails: it has a capability for nobody.
        let items = usize::from(op == Op::ReplyWait);
        w.begin_with(client.object, Tag::new(op, 0).with_items(items), &args);
        w.run(0);
        assert_eq!(kept(), [expected; 3], "{op:?}");
    }
    // The fast path does not touch the frame: it is as an earlier system call left it.
    assert_eq!(w.does(client, Op::Call, &[portal, 50]), user(server));
    fill(7);
    w.delete(server.at);
    assert_eq!(w.run(0), user(client));
    assert_eq!((w.result(client), kept()), (Err(Status::Dead), [0; 3]));
}

#[test]
fn the_server_ends() {
    for waits in [false, true] {
        let w = World::new(1);
        let client = w.client(0, 5);
        let (outer, inner, n) = (w.thread(0), w.thread(0), w.notification());
        let (to_outer, to_inner) = (w.portal(outer, 1), w.portal(inner, 2));
        w.run(0);
        w.does(client, Op::Call, &[to_outer]);
        assert_eq!(w.does(outer, Op::Call, &[to_inner]), user(inner));
        if waits {
            assert_eq!(wait(&w, inner, n), Running::Idle);
        }
        // In the middle of the chain: the client goes on at once, the inner server when somebody calls it.
        w.delete(outer.at);
        assert_eq!(w.run(0), user(client), "waits: {waits}");
        assert_eq!(w.result(client), Err(Status::Dead));
        assert_eq!(w.does(client, Op::Call, &[to_outer]), user(client));
        assert_eq!(w.result(client), Err(Status::Dead));
        let next = w.does(client, Op::Call, &[to_inner, 50]);
        if waits {
            assert_eq!(next, Running::Idle);
            signal(&w, n);
        }
        assert_eq!(w.run(0), user(inner));
        assert_eq!(w.does(inner, Op::ReplyWait, &[]), user(inner));
        assert_eq!(w.result(inner).unwrap()[1], 50);
        w.delete(inner.at);
        assert_eq!((w.run(0), w.result(client)), (user(client), Err(Status::Dead)));
    }
}

#[test]
fn the_handler_ends_that_somebody_helps() {
    let w = World::new(1);
    let (low, server) = (w.client(0, 5), w.thread(0));
    let portal = w.portal(server, 1);
    w.run(0);
    w.does(low, Op::Call, &[portal]);
    let (helper, high) = (w.client(0, 6), w.client(0, 9));
    assert_eq!(w.run(0), user(high));
    wait(&w, high, w.notification());
    assert_eq!(w.run(0), user(helper));
    assert_eq!(w.does(helper, Op::Call, &[portal]), user(server));
    // While the helper is not running, the server goes.
    let other = w.client(0, 10);
    assert_eq!(w.run(0), user(other));
    w.delete(server.at);
    wait(&w, other, w.notification());
    assert_eq!((w.run(0), w.result(helper)), (user(helper), Err(Status::Dead)));
    wait(&w, helper, w.notification());
    assert_eq!((w.run(0), w.result(low)), (user(low), Err(Status::Dead)));
}

#[test]
fn the_helper_ends() {
    let w = World::new(1);
    let (low, server) = (w.client(0, 5), w.thread(0));
    let portal = w.portal(server, 1);
    w.run(0);
    w.does(low, Op::Call, &[portal]);
    let helper = w.client(0, 6);
    w.run(0);
    assert_eq!(w.does(helper, Op::Call, &[portal]), user(server));
    w.delete(helper.at);
    assert_eq!(w.run(0), user(server));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), user(low));
    assert_eq!(w.does(low, Op::Call, &[portal]), user(server));
}

#[test]
fn a_long_line_of_helpers() {
    // Each pair holds a server that helps the next one: longer than any chain that the kernel follows at once.
    const N: usize = 60;
    let w = World::new(1);
    let servers: Vec<_> = (0..N).map(|_| w.thread(0)).collect();
    let portals: Vec<_> = servers.iter().map(|&s| w.portal(s, 0)).collect();
    let mut clients = Vec::new();
    for i in (0..N).rev() {
        let client = w.client(0, (N - i) as u8);
        clients.push(client);
        assert_eq!(w.run(0), user(client));
        assert_eq!(w.does(client, Op::Call, &[portals[i]]), user(servers[i]));
        if i + 1 < N {
            w.begin(servers[i].object, Op::Call, 0, &[portals[i + 1]]);
            w.run(0);
        }
    }
    // However it is scheduled, everybody who got no status gets an answer in the end.
    let mut turns = 0;
    while let Running::User(thread) = w.run(0) {
        turns += 1;
        assert!(turns < 10 * N);
        if servers.iter().any(|s| s.object == thread) {
            w.begin(thread, Op::ReplyWait, 0, &[]);
        } else {
            w.begin(thread, Op::Wait, 0, &[w.notification(), u64::MAX]);
        }
    }
    assert!(servers.iter().all(|&s| state(s) == State::Idle));
    assert!(clients.iter().all(|&c| state(c) == State::Waiting));
    for object in clients.iter().chain(&servers) {
        w.delete(object.at);
    }
}

/// `thread`, which runs, raises an exception.
fn fault(w: &World, thread: Object<Thread>, vector: u64) -> Running {
    let exception = Exception { vector, error: 5, address: 0xbad };
    assert_eq!(w.run(0), user(thread));
    ipc::raise(&w.cpu(0), thread.object, exception);
    w.run(0)
}

#[test]
fn exceptions_and_the_answers_to_them() {
    let w = World::new(1);
    let handler = w.thread(0);
    let portal = w.portal(handler, 7);
    let thread = w.thread_with(0, portal as u32);
    w.bind(w.sched(0, 5, 0, 0), thread);
    w.run(0);
    thread.object.with_frame(|frame| {
        frame.gpr = core::array::from_fn(|i| 100 + i as u64);
        frame.set_user(0x5000, 0x6000, 0x2);
    });
    let before = thread.object.with_frame(|frame| *frame);
    assert_eq!(fault(&w, thread, 13), user(handler));
    let (tag, args) = handler.object.with_frame(|frame| (frame.tag(), frame.args()));
    assert_eq!((tag.utcb_words(), args), (16, [7, 13, 5, 0xbad, 0x5000, 0x6000, 2, 0, 0]));
    assert_eq!((handler.object.utcb.read(8), handler.object.utcb.read(23)), (100, 115));
    // Resumed as it was, whatever else the answer says.
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, 1, 2, 3, 4, 5, 6, 7, 8]), user(thread));
    assert!(thread.object.with_frame(|frame| *frame) == before);
    // With other registers; addresses outside user space are not taken.
    fault(&w, thread, 14);
    handler.object.utcb.write(8 + 3, 1234);
    let end = abi::USER_END;
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, 7, 0, 0, 0x7000, end, 9, 0, 0]), user(thread));
    assert_eq!(thread.object.with_frame(|f| (f.ip(), f.sp(), f.gpr[3])), (0x7000, end, 1234));
    fault(&w, thread, 14);
    w.does(handler, Op::ReplyWait, &[0, 3, 0, 0, end, 8, 9, 0, 0]);
    assert_eq!(thread.object.with_frame(|f| (f.ip(), f.sp(), f.gpr[3])), (0, 8, 1234));
    // Not resumed.
    fault(&w, thread, 14);
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, 6]), Running::Idle);
    assert_eq!((state(thread), state(handler)), (State::Stopped, State::Idle));
}

#[test]
fn who_is_taken_out_of_a_system_call_makes_the_next_one_anew() {
    // Elsewhere, or where it is with another system call.
    for action in [ExceptionReply::SET_FRAME, ExceptionReply::SET_GPRS] {
        is_taken_out_of_a_system_call(action);
    }
}

fn is_taken_out_of_a_system_call(action: ExceptionReply) {
    let w = World::new(2);
    let handler = w.thread(0);
    let portal = w.portal(handler, 7);
    let thread = w.thread_with(0, portal as u32);
    w.bind(w.sched(0, 5, 0, 0), thread);
    assert_eq!(w.run(0), user(thread));
    let n = w.notification();
    // It waits for the other CPU only.
    w.begin(thread.object, Op::Delete, 0, &[n]);
    w.interrupts(0);
    w.again(thread.object);
    assert!(w.restarts(thread.object));
    let exception = Exception { vector: 14, error: 0, address: 0 };
    ipc::raise(&w.cpu(0), thread.object, exception);
    assert_eq!(w.run(0), user(handler));
    if action == ExceptionReply::SET_GPRS {
        (8..8 + GPRS).for_each(|i| handler.object.utcb.write(i, 0));
    }
    let action = (ExceptionReply::RESUME | action).bits();
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, action, 0, 0, 0x7000, 0, 0]), user(thread));
    w.root(Op::CreateNotification, &[1, n]);
    w.run(1);
    w.begin(thread.object, Op::Delete, 0, &[n]);
    while w.restarts(thread.object) {
        (0..2).for_each(|cpu| w.interrupts(cpu));
        w.again(thread.object);
    }
    assert!(w.result(thread).is_ok());
    assert!(w.root.slot(abi::Selector(n as u32)).unwrap().is_free());
}

#[test]
fn an_exception_whose_handler_is_busy() {
    let w = World::new(1);
    let handler = w.thread(0);
    let portal = w.portal(handler, 7);
    let client = w.client(0, 5);
    let thread = w.thread_with(0, portal as u32);
    w.run(0);
    w.does(client, Op::Call, &[portal]);
    w.bind(w.sched(0, 6, 0, 0), thread);
    assert_eq!(fault(&w, thread, 3), user(handler));
    assert_eq!(w.cpu(0).sched.get().unwrap().priority, 6);
    assert_eq!(w.does(handler, Op::ReplyWait, &[]), user(handler));
    assert_eq!(w.result(handler).unwrap()[..2], [7, 3]);
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, 1]), user(thread));
}

#[test]
fn who_stops_leaves_no_caller_waiting() {
    // A server's exception: without a handler, not resumed by it, or its handler ends.
    for ending in 0..3 {
        let w = World::new(1);
        let (client, handler) = (w.client(0, 5), w.thread(0));
        let portal = w.portal(handler, 7);
        let server = w.thread_with(0, if ending == 0 { 99 } else { portal as u32 });
        let to_server = w.portal(server, 1);
        w.run(0);
        assert_eq!(w.does(client, Op::Call, &[to_server]), user(server));
        let next = fault(&w, server, 6);
        match ending {
            0 => assert_eq!(next, user(client)),
            1 => assert_eq!(w.does(handler, Op::ReplyWait, &[]), user(client)),
            _ => {
                assert_eq!(next, user(handler));
                w.delete(handler.at);
                assert_eq!(w.run(0), user(client));
            }
        }
        assert_eq!((w.result(client), state(server)), (Err(Status::Dead), State::Stopped));
        w.does(client, Op::Call, &[to_server]);
        assert_eq!(w.result(client), Err(Status::Dead));
        // A stopped thread can be given time, which does nothing, and both can go.
        let sched = w.sched(0, 9, 0, 0);
        w.bind(sched, server);
        assert_eq!(w.run(0), user(client));
        w.delete(server.at);
        w.delete(sched.at);
        assert_eq!(w.run(0), user(client));
    }
}
