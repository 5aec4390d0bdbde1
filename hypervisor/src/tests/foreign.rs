//! Threads whose system calls go to a handler.

use super::world::{SPACE, SYNDROME, World, state};
use super::{Object, Running};
use crate::context::{ReplyPath, State};
use crate::thread::Thread;
use abi::syscall::ThreadFlags;
use abi::utcb::exception::SYSTEM_CALL;
use abi::{Op, Status};

/// The words of an answer that resumes a thread.
const RESUME: [u64; 2] = [0, 1];

fn user(thread: Object<Thread>) -> Running {
    Running::User(thread.object)
}

/// A foreign thread that runs, and the one that handles its system calls with identity 7.
fn foreign(w: &World) -> (Object<Thread>, Object<Thread>) {
    let handler = w.thread(0);
    let portal = w.portal(handler, 7);
    let thread = w.marked_thread(0, ThreadFlags::FOREIGN, portal as u32);
    w.bind(w.sched(0, 5, 0, 0), thread);
    assert_eq!(w.run(0), user(thread));
    (thread, handler)
}

#[test]
fn no_operation_of_a_foreign_thread_is_the_kernels() {
    let w = World::new(1);
    let (thread, handler) = foreign(&w);
    let n = w.notification();
    let quota = w.root.quota();
    for number in (0..=u8::MAX).rev() {
        // Each with arguments that some operation would take, had the kernel been asked.
        let gprs = core::array::from_fn(|i| if i == 0 { number as u64 } else { n });
        thread.object.with_frame(|frame| frame.set_gprs(&gprs));
        w.again(thread.object);
        assert_eq!(w.run(0), user(handler), "operation {number}");
        let (tag, args) = handler.object.with_frame(|frame| (frame.tag(), frame.args()));
        assert_eq!((tag.status(), tag.utcb_words()), (Status::Success, 16));
        assert_eq!(args[..4], [7, SYSTEM_CALL, SYNDROME, 0]);
        for (i, &value) in gprs.iter().enumerate() {
            assert_eq!(handler.object.utcb.read(8 + i), value);
        }
        assert_eq!(w.does(handler, Op::ReplyWait, &RESUME), user(thread));
        assert_eq!(thread.object.with_frame(|frame| frame.gprs()), gprs);
        let path = thread.object.context.reply_path.get();
        assert_eq!(path, ReplyPath::General);
    }
    assert_eq!(w.root.quota(), quota);
    assert_eq!(w.try_root(Op::Wait, &[n]), Err(Status::Timeout));
}

#[test]
fn the_answer_sets_the_registers() {
    let w = World::new(1);
    let (thread, handler) = foreign(&w);
    w.does(thread, Op::Wait, &[1, 2, 3]);
    for i in 0..16 {
        handler.object.utcb.write(8 + i, 70 + i as u64);
    }
    let answer = [0, 7, 0, 0, 0x7000, 0x8000, 2];
    assert_eq!(w.does(handler, Op::ReplyWait, &answer), user(thread));
    let (gprs, ip, sp) = thread.object.with_frame(|frame| (frame.gprs(), frame.ip(), frame.sp()));
    assert_eq!(gprs, core::array::from_fn(|i| 70 + i as u64));
    assert_eq!((ip, sp), (0x7000, 0x8000));
    // Or ends it.
    w.does(thread, Op::Wait, &[1, 2, 3]);
    assert_eq!(w.does(handler, Op::ReplyWait, &[0, 0]), Running::Idle);
    assert_eq!(state(thread), State::Stopped);
}

#[test]
fn a_call_whose_handler_is_busy_waits() {
    let w = World::new(1);
    let (thread, handler) = foreign(&w);
    let portal = w.portal(handler, 8);
    let client = w.client(0, 6);
    assert_eq!(w.run(0), user(client));
    let n = w.notification();
    w.does(client, Op::Call, &[portal]);
    assert_eq!(w.does(handler, Op::Wait, &[n, u64::MAX]), user(thread));
    thread.object.with_frame(|frame| frame.set_gprs(&[3; 16]));
    w.again(thread.object);
    assert_eq!((w.run(0), state(thread)), (Running::Idle, State::Helping));
    w.root(Op::Signal, &[n]);
    assert_eq!(w.run(0), user(handler));
    w.does(handler, Op::ReplyWait, &[]);
    // The client goes on, for it has the higher priority; then the call is told.
    w.does(client, Op::Wait, &[n, u64::MAX]);
    assert_eq!(w.run(0), user(handler));
    assert_eq!(w.result(handler).unwrap()[..3], [7, SYSTEM_CALL, SYNDROME]);
    assert_eq!(handler.object.utcb.read(8 + 15), 3);
    assert_eq!(w.does(handler, Op::ReplyWait, &RESUME), user(thread));
}

#[test]
fn a_foreign_thread_without_a_handler_stops_alone() {
    for handler_ends in [false, true] {
        let w = World::new(1);
        let (thread, handler) = foreign(&w);
        let other = w.client(0, 4);
        if handler_ends {
            assert_eq!(w.does(thread, Op::Yield, &[]), user(handler));
        }
        w.delete(handler.at);
        if !handler_ends {
            assert_eq!(w.run(0), user(thread));
            w.does(thread, Op::Yield, &[]);
        }
        assert_eq!((w.run(0), state(thread)), (user(other), State::Stopped));
        w.delete(thread.at);
    }
}

#[test]
fn a_foreign_thread_handles_nothing_and_unknown_flags_are_refused() {
    let w = World::new(1);
    let (thread, _) = foreign(&w);
    let at = w.selector() as u64;
    let args = [1, at, thread.at as u64];
    assert_eq!(w.try_root(Op::CreatePortal, &args), Err(Status::BadArgument));
    for flags in [1 << 33, 1 << 63, 3 << 32] {
        let args = [1, at, 1, SPACE as u64, flags, w.page(), 0x2000, 0, 0];
        assert_eq!(w.try_root(Op::CreateThread, &args), Err(Status::BadArgument));
    }
    let args = [1, at, 1, SPACE as u64, 1 << 32 | 1, w.page(), 0x2000, 0, 0];
    assert_eq!(w.try_root(Op::CreateThread, &args), Err(Status::BadArgument), "there is no CPU 1");
}
