//! Threads and vCPUs that go from one CPU to another, in all states.

use super::world::{self, World, result, state};
use super::{Object, Running};
use crate::arch;
use crate::context::{HasContext, State};
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use abi::cap::TimeLimit;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Op, Rights, Status};

const TIME: u64 = world::TIME as u64;

fn try_move<T: HasContext>(w: &World, what: Object<T>, to: u64) -> Result<(), Status> {
    w.try_root(Op::Migrate, &[what.at as u64, to, TIME, 0]).map(|_| ())
}

/// Moves it; afterwards both CPUs know.
#[track_caller]
fn moves<T: HasContext>(w: &World, what: Object<T>, to: u64) {
    assert_eq!(try_move(w, what, to), Ok(()));
    assert_eq!(what.object.context().cpu() as u64, to);
}

/// A thread on CPU 1 that is ready, and one below it on each CPU.
fn three(w: &World) -> [Object<Thread>; 3] {
    let threads = [w.client(1, 9), w.client(0, 1), w.client(1, 1)];
    assert_eq!(w.run(1), Running::User(threads[0].object));
    threads
}

#[test]
fn who_is_ready_runs_where_it_goes() {
    let w = World::new(2);
    let [thread, low0, low1] = three(&w);
    for _ in 0..3 {
        moves(&w, thread, 0);
        assert_eq!(w.run(0), Running::User(thread.object));
        assert_eq!(w.run(1), Running::User(low1.object));
        moves(&w, thread, 1);
        assert_eq!(w.run(0), Running::User(low0.object));
        assert_eq!(w.run(1), Running::User(thread.object));
        moves(&w, thread, 1);
    }
    // Itself.
    w.begin(thread.object, Op::Migrate, 0, &[thread.at as u64, 0, TIME]);
    assert_eq!(w.run(1), Running::User(low1.object));
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(result(thread.object).map(|_| ()), Ok(()));
    w.delete(thread.at);
    assert_eq!(w.run(0), Running::User(low0.object));
}

#[test]
fn who_waits_is_woken_where_it_went() {
    let w = World::new(2);
    let [thread, low0, low1] = three(&w);
    let n = w.notification();
    assert_eq!(w.does(thread, Op::Wait, &[n, 500]), Running::User(low1.object));
    moves(&w, thread, 0);
    assert_eq!(state(thread), State::Waiting);
    assert_eq!(w.run(0), Running::User(low0.object));
    arch::set_now(500);
    assert_eq!(w.run(1), Running::User(low1.object));
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(w.result(thread), Err(Status::Timeout));
    w.does(thread, Op::Wait, &[n, u64::MAX]);
    moves(&w, thread, 1);
    w.root(Op::Signal, &[n]);
    assert_eq!(w.run(1), Running::User(thread.object));
    assert_eq!(w.result(thread).unwrap()[1], u64::MAX);
}

/// Asks for `thread` to go from CPU 1 to CPU 0, and lets only CPU 1 do its part. Who asks is `asker`, which runs on CPU 0.
fn on_its_way<T: HasContext>(w: &World, asker: Object<Thread>, what: Object<T>) {
    assert_eq!(w.run(0), Running::User(asker.object));
    w.begin(asker.object, Op::Migrate, 0, &[what.at as u64, 0, TIME, 0]);
    assert!(w.restarts(asker.object));
    w.run(1);
    assert_eq!(what.object.context().state.get(), State::Moving);
}

#[test]
fn nothing_is_lost_on_the_way() {
    for event in 0..8 {
        let w = World::new(2);
        let [thread, asker, low1] = three(&w);
        let n = w.notification();
        w.does(thread, Op::Wait, &[n, 500]);
        on_its_way(&w, asker, thread);
        match event {
            // From either side, or its deadline.
            0 | 1 => {
                w.try_root_on(event, Op::Signal, &[n]).unwrap();
            }
            2 => arch::set_now(600),
            // Somebody else cannot have it meanwhile.
            3 => {
                w.on(1);
                w.begin(low1.object, Op::Migrate, 0, &[thread.at as u64, 1, TIME, 0]);
                assert_eq!(w.result(low1), Err(Status::Busy));
                w.root(Op::Signal, &[n]);
            }
            // Ends, asked for by either.
            4 | 5 => {
                w.try_root_on(event - 4, Op::Delete, &[n]).unwrap();
            }
            _ => {
                let end = [thread.at as u64];
                w.try_root_on(event - 6, Op::Delete, &end).unwrap();
            }
        }
        w.run(1);
        let running = w.run(0);
        assert_eq!(w.run(1), Running::User(low1.object));
        if event < 6 {
            assert_eq!(running, Running::User(thread.object));
            let expected = match event {
                2 => Err(Status::Timeout),
                4 | 5 => Err(Status::Aborted),
                _ => Ok(u64::MAX),
            };
            assert_eq!(w.result(thread).map(|results| results[1]), expected);
            let n = w.notification();
            w.run(0);
            w.does(thread, Op::Wait, &[n, u64::MAX]);
        }
        assert_eq!(w.run(0), Running::User(asker.object));
        let known = if event < 6 { Ok(()) } else { Err(Status::BadCapability) };
        assert_eq!(w.result(asker).map(|_| ()), known);
    }
}

#[test]
fn what_ends_is_followed() {
    let w = World::new(2);
    let [thread, asker, low1] = three(&w);
    let n = w.notification();
    w.does(thread, Op::Wait, &[n, u64::MAX]);
    assert_eq!(w.run(0), Running::User(asker.object));
    // CPU 1 is to end the wait, and finds the thread gone.
    w.begin(asker.object, Op::Delete, 0, &[n]);
    assert!(w.restarts(asker.object));
    moves(&w, thread, 0);
    assert_eq!(w.run(1), Running::User(low1.object));
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(w.result(thread), Err(Status::Aborted));
}

#[test]
fn what_ends_comes_after_who_waits_for_it() {
    let w = World::new(2);
    let [thread, asker, low1] = three(&w);
    let n = w.notification();
    w.does(thread, Op::Wait, &[n, u64::MAX]);
    on_its_way(&w, asker, thread);
    // Another one comes to the same inbox, and is found there first.
    let other = w.thread(1);
    let args = [other.at as u64, 0, TIME];
    assert_eq!(w.run(1), Running::User(low1.object));
    w.begin(low1.object, Op::Migrate, 0, &args);
    w.interrupts(1);
    assert_eq!(state(other), State::Moving);
    w.try_root_on(1, Op::Delete, &[n]).unwrap();
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(w.result(thread), Err(Status::Aborted));
    assert_eq!(w.run(1), Running::User(low1.object));
    assert_eq!(w.result(low1).map(|_| ()), Ok(()));
}

#[test]
fn a_spent_budget_stays_spent() {
    let w = World::new(2);
    let low = [w.client(0, 1), w.client(1, 1)];
    let thread = w.thread(1);
    w.bind(w.sched(1, 9, 100, 1000), thread);
    assert_eq!(w.run(1), Running::User(thread.object));
    arch::set_now(60);
    moves(&w, thread, 0);
    assert_eq!(w.run(0), Running::User(thread.object));
    arch::set_now(99);
    assert_eq!(w.run(0), Running::User(thread.object));
    arch::set_now(100);
    assert_eq!(w.run(0), Running::User(low[0].object));
    moves(&w, thread, 1);
    for now in [100, 999] {
        arch::set_now(now);
        assert_eq!(w.run(0), Running::User(low[0].object));
        assert_eq!(w.run(1), Running::User(low[1].object));
    }
    arch::set_now(1000);
    assert_eq!(w.run(1), Running::User(thread.object));
    // It ends at the moment at which it goes.
    arch::set_now(1100);
    moves(&w, thread, 0);
    assert_eq!(w.run(0), Running::User(low[0].object));
    arch::set_now(2000);
    assert_eq!(w.run(0), Running::User(thread.object));
}

#[test]
fn a_spent_budget_stays_spent_when_who_moves_ends() {
    for killer in [0, 1] {
        let w = World::new(2);
        let asker = w.client(0, 5);
        let thread = w.thread(1);
        let sched = w.sched(1, 9, 100, 1000);
        w.bind(sched, thread);
        assert_eq!(w.run(1), Running::User(thread.object));
        arch::set_now(100);
        assert_eq!(w.run(1), Running::Idle);
        on_its_way(&w, asker, thread);
        w.try_root_on(killer, Op::Delete, &[thread.at as u64]).unwrap();
        let next = w.thread(0);
        w.bind(sched, next);
        assert_eq!(w.run(0), Running::User(asker.object));
        arch::set_now(1000);
        assert_eq!(w.run(0), Running::User(next.object));
    }
}

#[test]
fn a_handler_takes_its_portals_along() {
    let w = World::new(2);
    let clients = [w.client(0, 5), w.client(1, 5)];
    let server = w.thread(1);
    let portal = w.portal(server, 7);
    // Before its first call, and after it.
    for _ in 0..2 {
        for here in [0, 1] {
            moves(&w, server, here as u64);
            let (near, far) = (clients[here], clients[1 - here]);
            assert_eq!(w.run(1 - here as u32), Running::User(far.object));
            w.does(far, Op::Call, &[portal]);
            assert_eq!(w.result(far), Err(Status::WrongCpu));
            assert_eq!(w.run(here as u32), Running::User(near.object));
            let serves = Running::User(server.object);
            assert_eq!(w.does(near, Op::Call, &[portal, 5]), serves);
            // Neither of the two can go now.
            assert_eq!(try_move(&w, server, 1 - here as u64), Err(Status::Busy));
            assert_eq!(try_move(&w, near, 1 - here as u64), Err(Status::Busy));
            assert_eq!(w.run(here as u32), serves);
            let back = w.does(server, Op::ReplyWait, &[0, 6]);
            assert_eq!(back, Running::User(near.object));
            assert_eq!(w.result(near).unwrap()[1], 6);
        }
    }
}

#[test]
fn what_cannot_go_says_why() {
    let w = World::new(2);
    let narrow = w.selector() as u64;
    let all = Rights::all().bits() as u64;
    let limit = TimeLimit { priority: 8, partition: 0 };
    w.root(Op::Delegate, &[TIME, 1, narrow, all, 0b01, limit.pack()]);
    let thread = w.client(1, 9);
    let at = thread.at as u64;
    let try_with = |to: u64, time: u64| w.try_root(Op::Migrate, &[at, to, time, 0]).map(|_| ());
    assert_eq!(try_with(0, narrow), Err(Status::Denied));
    assert_eq!(try_with(1, narrow), Err(Status::Denied));
    assert_eq!(try_with(0, 0), Err(Status::BadCapability));
    assert_eq!(try_with(2, TIME), Err(Status::BadArgument));
    assert_eq!(
        w.try_root(Op::Migrate, &[world::SPACE as u64, 0, TIME]),
        Err(Status::BadCapability)
    );
    let weak = w.selector() as u64;
    w.root(Op::Delegate, &[at, 1, weak, Rights::DELEGATE.bits() as u64]);
    assert_eq!(w.try_root(Op::Migrate, &[weak, 0, TIME]), Err(Status::Denied));
    assert_eq!(try_with(0, TIME), Ok(()));
    // Who helps; those who help whom that goes are told.
    let (server, helper) = (w.client(1, 3), w.client(1, 4));
    let portal = w.portal(server, 7);
    assert_eq!(w.run(1), Running::User(helper.object));
    let helped = w.does(helper, Op::Call, &[portal]);
    assert_eq!(helped, Running::User(server.object));
    assert_eq!(state(helper), State::Helping);
    assert_eq!(try_move(&w, helper, 0), Err(Status::Busy));
    moves(&w, server, 0);
    assert_eq!(w.run(1), Running::User(helper.object));
    assert_eq!(w.result(helper), Err(Status::WrongCpu));
    // Who has been given a scheduling context that its CPU does not know of yet.
    let fresh = w.thread(1);
    w.bind(w.sched(1, 2, 0, 0), fresh);
    assert_eq!(try_move(&w, fresh, 0), Ok(()));
    let stopped = w.client(1, 20);
    stopped.object.context.state.set(State::Stopped);
    assert_eq!(try_move(&w, stopped, 0), Err(Status::Dead));
}

/// A vCPU on CPU 1 whose guest runs, its monitors on CPU 0 and 1, and the portals of both.
fn vm(w: &World) -> (Object<Vcpu>, [Object<Thread>; 2], [u64; 2], u64) {
    let monitors = [w.thread(0), w.thread(1)];
    let portals = monitors.map(|monitor| {
        let first = w.selector() as u64;
        for kind in 0..EXIT_KINDS as u64 {
            let at = if kind == 0 { first } else { w.selector() as u64 };
            let args = [1, at, monitor.at as u64, 1000 + kind, u64::MAX];
            w.root(Op::CreatePortal, &args);
        }
        first
    });
    let (guest, at, kick) = (w.selector() as u64, w.selector(), w.notification());
    w.root(Op::CreateSpace, &[1, guest, 1]);
    let args = [1, at as u64, 1, guest, 1, 2, w.page(), portals[1]];
    w.root(Op::CreateVcpu, &args);
    w.root(Op::BindKick, &[at as u64, kick]);
    let vcpu = w.object::<Vcpu>(at);
    w.bind(w.sched(1, 5, 0, 0), vcpu);
    assert_eq!(w.run(1), Running::User(monitors[1].object));
    (vcpu, monitors, portals, kick)
}

#[test]
fn a_vcpu_leaves_nothing_behind() {
    let w = World::new(2);
    let (vcpu, monitors, portals, kick) = vm(&w);
    let go = |to: usize| {
        let args = [vcpu.at as u64, to as u64, TIME, portals[to]];
        w.try_root(Op::Migrate, &args).map(|_| ())
    };
    let runs = Running::Guest(vcpu.object);
    let tells = |to: usize| Running::User(monitors[to].object);
    assert_eq!(go(0), Err(Status::Busy));
    assert_eq!(w.run(1), tells(1));
    assert_eq!(w.does(monitors[1], Op::ReplyWait, &[0, 0]), runs);
    for to in [0, 1, 0] {
        let resident = || vcpu.object.arch.with_mut(|arch| arch.resident);
        assert!(resident());
        assert_eq!(go(to), Ok(()));
        assert_eq!(w.run(1 - to as u32), Running::Idle);
        assert_eq!(w.run(to as u32), runs);
        // A kick, a halt with a deadline that passes after the next move.
        w.root(Op::Signal, &[kick]);
        assert_eq!(w.run(to as u32), tells(to));
        let told = w.result(monitors[to]).unwrap();
        assert_eq!(told[1] & 0xff, ExitKind::Kick as u64);
        assert_eq!(told[2], u64::MAX);
        let now = arch::now();
        vcpu.object.state_page.write(arch::vcpu::CONTROLS, CONTROL_HALT);
        vcpu.object.state_page.write(arch::vcpu::DEADLINE, now + 100);
        let groups = (Groups::EVENTS | Groups::DEADLINE).bits();
        let halts = w.does(monitors[to], Op::ReplyWait, &[0, groups]);
        assert_eq!(halts, Running::Idle);
        let back = 1 - to;
        assert_eq!(go(back), Ok(()));
        assert!(!resident());
        assert_eq!(w.run(back as u32), Running::Idle);
        arch::set_now(now + 100);
        assert_eq!(w.run(to as u32), Running::Idle);
        assert_eq!(w.run(back as u32), tells(back));
        assert_eq!(w.result(monitors[back]).unwrap()[3], 1);
        vcpu.object.state_page.write(arch::vcpu::CONTROLS, 0);
        vcpu.object.state_page.write(arch::vcpu::DEADLINE, u64::MAX);
        assert_eq!(w.does(monitors[back], Op::ReplyWait, &[0, groups]), runs);
        assert_eq!(go(to), Ok(()));
        assert_eq!(w.run(to as u32), runs);
    }
}

#[test]
fn a_kick_on_the_way_ends_the_halt() {
    for kicker in [0, 1] {
        let w = World::new(2);
        let (vcpu, monitors, portals, kick) = vm(&w);
        let asker = w.client(0, 1);
        vcpu.object.state_page.write(arch::vcpu::CONTROLS, CONTROL_HALT);
        let groups = Groups::EVENTS.bits();
        assert_eq!(w.does(monitors[1], Op::ReplyWait, &[0, groups]), Running::Idle);
        assert_eq!(w.run(0), Running::User(asker.object));
        let args = [vcpu.at as u64, 0, TIME, portals[0]];
        w.begin(asker.object, Op::Migrate, 0, &args);
        w.run(1);
        assert_eq!(state(vcpu), State::Moving);
        w.try_root_on(kicker, Op::Signal, &[kick]).unwrap();
        assert_eq!(w.run(0), Running::User(monitors[0].object));
        assert_eq!(w.result(monitors[0]).unwrap()[2], u64::MAX);
    }
}
