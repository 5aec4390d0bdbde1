//! What meets a thread or vCPU on its way to another CPU.

use super::{
    Act, Vm, act, check_freed, completes, in_all_schedules, machine, together, vm, waiting,
};
use crate::cell::Ref;
use crate::context::State;
use crate::notification::Notification;
use crate::sched::Sched;
use crate::thread::Thread;
use crate::world::{self, Running, World};
use abi::vcpu::x86_64::Groups;
use abi::{Op, Status};

/// Has `thread` move the other one to CPU 1.
fn moves(thread: Ref<Thread>, other: u32) -> Act {
    act(move |w| {
        let args = [other as u64, 1, world::TIME as u64, 0];
        let result = completes(w, thread, Op::Migrate, &args).map(|_| ());
        assert!(matches!(result, Ok(()) | Err(Status::BadCapability)));
    })
}

/// CPU 2 does `other` while `mover`, of CPU 1, moves the context at `moved` from CPU 0 to its own.
pub(super) fn while_it_moves(w: &World, mover: Ref<Thread>, moved: u32, other: Act) {
    together(w, vec![act(|_| ()), moves(mover, moved), other]);
}

/// CPU `from`, 1 or 2, does `other` while the thread of the other one moves the context at `moved` from CPU 0 to CPU 1: from
/// where it goes to, or from elsewhere.
fn while_it_comes(w: &World, threads: [Ref<Thread>; 3], moved: u32, from: usize, other: Act) {
    let mut acts = vec![act(|_| ()), moves(threads[3 - from], moved), other];
    if from == 1 {
        acts.swap(1, 2);
    }
    together(w, acts);
}

#[test]
fn a_migration_meets_a_signal() {
    for from in [1, 2] {
        in_all_schedules(1, move || {
            let (w, threads) = machine();
            let (waiter, n) = waiting(&w);
            let signals = act(move |w| w.begin(threads[from], Op::Signal, 0, &[n]));
            while_it_comes(&w, threads, waiter.at, from, signals);
            assert_eq!(world::result(waiter.object).unwrap()[1], u64::MAX);
            assert_eq!(w.run(1), Running::User(waiter.object));
        });
    }
}

#[test]
fn a_migration_meets_the_end_of_what_is_waited_for() {
    for from in [1, 2] {
        in_all_schedules(1, move || {
            let (w, threads) = machine();
            let (waiter, n) = waiting(&w);
            let address = w.object::<Notification>(n as u32).object.address();
            let ends = act(move |w| {
                assert!(completes(w, threads[from], Op::Delete, &[n]).is_ok());
            });
            while_it_comes(&w, threads, waiter.at, from, ends);
            assert_eq!(world::result(waiter.object).map(|_| ()), Err(Status::Aborted));
            assert_eq!(w.run(1), Running::User(waiter.object));
            check_freed(address);
        });
    }
}

#[test]
fn a_migration_meets_the_end_of_what_moves() {
    in_all_schedules(1, || {
        let (w, [_, mover, killer]) = machine();
        let (waiter, n) = waiting(&w);
        let ends = act(move |w| {
            let args = [waiter.at as u64];
            assert!(completes(w, killer, Op::Delete, &args).is_ok());
        });
        while_it_moves(&w, mover, waiter.at, ends);
        // Another one can wait in its place.
        assert_eq!(w.run(1), Running::User(mover));
        w.begin(mover, Op::Wait, 0, &[n, u64::MAX]);
        w.root(Op::Signal, &[n]);
        assert_eq!(w.run(1), Running::User(mover));
        assert_eq!(world::result(mover).unwrap()[1], u64::MAX);
    });
}

/// Whoever takes a vCPU's capability back looks for the notification that kicks it, on any CPU and while it moves.
#[test]
fn a_kick_that_ends_on_the_way_meets_the_end_of_its_vcpu() {
    in_all_schedules(1, || {
        let (w, [_, killer, mover]) = machine();
        let Vm { vcpu, monitor, kick } = vm(&w);
        let address = w.object::<Notification>(kick as u32).object.address();
        w.begin(monitor, Op::ReplyWait, 0, &[0, Groups::EVENTS.bits()]);
        assert_eq!(w.run(0), Running::Guest(vcpu.object));
        w.begin(mover, Op::Migrate, 0, &[vcpu.at as u64, 1, world::TIME as u64, 0]);
        w.interrupts(0);
        assert_eq!(world::state(vcpu), State::Moving);
        together(
            &w,
            vec![
                act(|_| ()),
                act(move |w| assert!(completes(w, killer, Op::Delete, &[kick]).is_ok())),
                act(move |w| {
                    w.interrupts(2);
                    assert!(completes(w, mover, Op::Delete, &[vcpu.at as u64]).is_ok());
                }),
            ],
        );
        check_freed(address);
    });
}

#[test]
fn a_migration_meets_a_start() {
    in_all_schedules(2, || {
        let (w, [binder, mover]) = machine();
        let (thread, sched) = (w.thread(1), w.sched(1, 9, 0, 0));
        let (at, time) = (thread.at as u64, sched.at as u64);
        together(
            &w,
            vec![
                act(move |w| {
                    let _ = completes(w, binder, Op::BindSched, &[time, at]);
                }),
                act(move |w| {
                    let _ = completes(w, mover, Op::Migrate, &[at, 0, world::TIME as u64, 0]);
                }),
            ],
        );
        // They are on one CPU, where the thread runs, or the one does not know of the other.
        let here = thread.object.context.cpu();
        match world::result(binder) {
            Ok(_) => assert_eq!(w.run(here), Running::User(thread.object)),
            Err(status) => assert!(matches!(status, Status::WrongCpu | Status::Busy)),
        }
        if world::result(binder).is_err() {
            w.bind(w.sched(here, 9, 0, 0), thread);
            assert_eq!(w.run(here), Running::User(thread.object));
            w.bind(sched, w.thread(1));
        }
        assert_ne!(w.run(1 - here), Running::User(thread.object));
    });
}

#[test]
fn a_migration_meets_a_call() {
    in_all_schedules(1, || {
        let (w, [_, _, mover]) = machine();
        let (server, caller) = (w.client(0, 9), w.client(1, 6));
        let (portal, n) = (w.portal(server, 7), w.notification());
        assert_eq!(w.run(0), Running::User(server.object));
        w.begin(server.object, Op::ReplyWait, 0, &[]);
        w.run(0);
        assert_eq!(w.run(1), Running::User(caller.object));
        together(
            &w,
            vec![
                act(|_| ()),
                act(move |w| w.begin(caller.object, Op::Call, 0, &[portal])),
                act(move |w| {
                    let args = [server.at as u64, 1, world::TIME as u64, 0];
                    let _ = completes(w, mover, Op::Migrate, &args);
                }),
            ],
        );
        if world::state(server) == State::Ready {
            // It has its own time there.
            assert_eq!(w.run(1), Running::User(server.object));
            w.begin(server.object, Op::Wait, 0, &[n, u64::MAX]);
            w.run(1);
            w.delete(caller.at);
            w.root(Op::Signal, &[n]);
            assert_eq!(w.run(1), Running::User(server.object));
        }
    });
}

#[test]
fn a_migration_meets_the_end_of_its_time() {
    in_all_schedules(1, || {
        let (w, [killer, mover, _]) = machine();
        let (thread, new) = (w.thread(2), w.sched(2, 9, 0, 0));
        // It ends with a domain, whose end goes through user mode in between.
        let (domain, old) = (w.selector() as u64, w.selector());
        let time = world::TIME as u64;
        w.root(Op::CreateDomain, &[1, domain, 4, 8]);
        w.root(Op::CreateSched, &[domain, old.into(), 2, 9, 0, 0, time]);
        w.bind(w.object::<Sched>(old), thread);
        assert_eq!(w.run(2), Running::User(thread.object));
        let at = thread.at as u64;
        together(
            &w,
            vec![
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[domain]).is_ok());
                }),
                act(move |w| {
                    w.begin(mover, Op::Migrate, 0, &[at, 0, time, 0]);
                    shuttle::thread::yield_now();
                    w.begin(mover, Op::BindSched, 0, &[new.at as u64, at]);
                }),
                act(|w| w.interrupts(2)),
            ],
        );
        // What it was given is where it is.
        if world::result(mover).is_ok() {
            let here = thread.object.context.cpu();
            assert_eq!(new.object.cpu(), here);
            assert_eq!(w.run(here), Running::User(thread.object));
            assert_ne!(w.run(2 - here), Running::User(thread.object));
        }
    });
}
