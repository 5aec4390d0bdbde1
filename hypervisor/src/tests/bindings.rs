//! Bindings and waits end with the capabilities that they were made with.

use super::Running;
use super::world::{LINES, LOG, Object, World, state};
use crate::arch;
use crate::context::State;
use crate::interrupt;
use crate::sched::Sched;
use crate::thread::Thread;
use abi::{Op, Status};
use core::sync::atomic::Ordering;

/// A capability that is derived from the root's at `at`.
fn copy(w: &World, at: u64) -> u64 {
    let to = w.selector() as u64;
    w.root(Op::Delegate, &[at, 1, to, 0xff, u64::MAX]);
    to
}

/// A vCPU of CPU `cpu` that was not started.
fn vcpu(w: &World, cpu: u64) -> u64 {
    let (guest, at) = (w.selector() as u64, w.selector() as u64);
    w.root(Op::CreateSpace, &[1, guest, 1]);
    w.root(Op::CreateVcpu, &[1, at, 1, guest, cpu, 2, w.page(), 90]);
    at
}

fn bits(w: &World, n: u64) -> u64 {
    let wait = w.try_root(Op::Wait, &[n, 0]);
    wait.map_or(0, |results| results[1])
}

#[test]
fn a_binding_ends_with_either_capability() {
    let w = World::new(2);
    let line = LINES as u64 + 1;
    let sched = |cpu| w.sched(cpu, 5, 10, 100).at as u64;
    let sources = [
        (Op::InterruptBind, line),
        (Op::LogBind, LOG as u64),
        (Op::BindOverrun, sched(0)),
        (Op::BindKick, vcpu(&w, 0)),
        (Op::BindKick, vcpu(&w, 1)),
    ];
    for (op, source) in sources {
        for (side, end) in [(0, Op::Revoke), (1, Op::Revoke), (0, Op::Delete), (1, Op::Delete)] {
            let originals = [source, w.notification()];
            let copies = originals.map(|at| copy(&w, at));
            let bind = |ends: [u64; 2]| w.try_root(op, &[ends[0], ends[1], 1]).map(|_| ());
            assert_eq!(bind(copies), Ok(()), "{op:?}");
            if op != Op::LogBind {
                assert_eq!(bind(originals), Err(Status::Busy), "{op:?}");
            }
            let ends = if end == Op::Delete { copies } else { originals };
            w.root(end, &[ends[side]]);
            // The line is masked and has forgotten what was pending, the log tells nobody.
            assert!(arch::LINES[1].masked.load(Ordering::SeqCst));
            w.root(Op::LogWrite, &[LOG as u64, 1]);
            assert_eq!(bits(&w, originals[1]), 0, "{op:?}");
            assert_eq!(bind(originals), Ok(()), "{op:?} {side} {end:?}");
            w.delete(originals[1] as u32);
        }
    }
}

#[test]
fn overruns_are_not_told_by_what_was_taken_back() {
    let w = World::new(1);
    let (greedy, n) = (w.thread(0), w.notification());
    let (sched, with): (Object<Sched>, _) = (w.sched(0, 100, 100, 1000), copy(&w, n));
    w.bind(sched, greedy);
    w.root(Op::BindOverrun, &[sched.at as u64, with]);
    for (period, expected) in [(0, u64::MAX), (1, 0)] {
        arch::set_now(period * 1000);
        assert_eq!(w.run(0), Running::User(greedy.object));
        arch::set_now(period * 1000 + 100);
        assert_eq!(w.run(0), Running::Idle);
        assert_eq!(bits(&w, n), expected);
        w.root(Op::Revoke, &[n]);
    }
}

#[test]
fn a_wait_ends_with_its_capability() {
    let w = World::new(2);
    for cpu in [0, 1] {
        let (waits, n) = (w.client(cpu, 5), w.notification());
        let with = copy(&w, n);
        let other = copy(&w, n);
        assert_eq!(w.run(cpu), Running::User(waits.object));
        assert_eq!(w.does(waits, Op::Wait, &[with, u64::MAX]), Running::Idle);
        // Another capability to the notification has nothing to do with it.
        w.delete(other as u32);
        w.run(cpu);
        assert_eq!(state(waits), State::Waiting);
        w.root(Op::Revoke, &[n]);
        assert_eq!(w.run(cpu), Running::User(waits.object));
        assert_eq!(w.result(waits), Err(Status::Aborted));
        // Bits stay for who may have them.
        w.root(Op::Signal, &[n]);
        assert_eq!(bits(&w, n), u64::MAX);
        w.delete(waits.at);
    }
}

#[test]
fn who_waits_and_migrates_learns_that_its_capability_is_gone() {
    let w = World::new(2);
    let (waits, n) = (w.client(1, 5), w.notification());
    let with = copy(&w, n);
    assert_eq!(w.run(1), Running::User(waits.object));
    w.does(waits, Op::Wait, &[with, u64::MAX]);
    let mover: Object<Thread> = w.client(0, 9);
    w.run(0);
    let to = [waits.at as u64, 0, super::world::TIME as u64, 0];
    w.begin(mover.object, Op::Migrate, 0, &to);
    w.interrupts(1);
    assert_eq!(state(waits), State::Moving);
    // It has not arrived: CPU 0 does not look into its inbox.
    let slot = w.root.slot(abi::Selector(n as u32)).unwrap();
    let tree = crate::slot::lock();
    while crate::destroy::revoke(&w.on(0), &tree, slot, false) != Ok(crate::space::Progress::Done) {
    }
    drop(tree);
    assert_eq!(state(waits), State::Moving);
    for _ in 0..3 {
        w.interrupts(0);
        w.again(mover.object);
    }
    assert_eq!(state(waits), State::Ready);
    assert_eq!(w.result(waits), Err(Status::Aborted));
}

#[test]
fn what_is_bound_is_not_granted_and_who_waits_goes_along() {
    let w = World::new(1);
    let (n, line) = (w.notification(), LINES as u64 + 1);
    let (with, source) = (copy(&w, n), copy(&w, line));
    w.root(Op::InterruptBind, &[source, with, 1]);
    let grant = |from: u64| {
        let to = w.selector() as u64;
        let granted = w.try_root(Op::Delegate, &[from, 1, to, 0, 0, 0, 1]);
        granted.map(|_| to)
    };
    assert_eq!(grant(with), Err(Status::Busy));
    assert_eq!(grant(source), Err(Status::Busy));
    w.root(Op::Revoke, &[line]);
    let with = grant(with).unwrap();
    let waits = w.client(0, 5);
    w.run(0);
    assert_eq!(w.does(waits, Op::Wait, &[with, u64::MAX]), Running::Idle);
    let to = grant(with).unwrap();
    assert_eq!(w.run(0), Running::Idle);
    // What takes the old place has nothing to do with it.
    w.root(Op::Delegate, &[n, 1, with, 0xff, 1]);
    w.delete(with as u32);
    assert_eq!(w.run(0), Running::Idle);
    w.delete(to as u32);
    assert_eq!(w.run(0), Running::User(waits.object));
    assert_eq!(w.result(waits), Err(Status::Aborted));
}

#[test]
fn many_bindings_end_in_steps_and_no_new_ones_come() {
    let w = World::new(1);
    let killer = w.client(0, 5);
    let (n, line) = (w.notification(), LINES as u64 + 1);
    let with = copy(&w, n);
    let scheds: Vec<u64> = (0..100).map(|_| w.sched(0, 5, 10, 100).at as u64).collect();
    w.root(Op::InterruptBind, &[line, with, 1]);
    for &sched in &scheds {
        w.root(Op::BindOverrun, &[sched, with]);
    }
    assert_eq!(w.run(0), Running::User(killer.object));
    w.begin(killer.object, Op::Delete, 0, &[with]);
    assert!(w.restarts(killer.object));
    let other = w.notification();
    let bound = |&&sched: &&u64| {
        let probe = w.try_root(Op::BindOverrun, &[sched, with]);
        assert_eq!(probe, Err(Status::BadCapability));
        w.object::<Sched>(sched as u32).object.overrun.lock().is_some()
    };
    let left = scheds.iter().filter(bound).count();
    assert!(0 < left && left < scheds.len(), "{left}");
    w.root(Op::Delete, &[with]);
    assert_eq!(scheds.iter().filter(bound).count(), 0);
    interrupt::deliver(&w.on(0), 1);
    assert_eq!(bits(&w, n), 0);
    for &sched in &scheds {
        w.root(Op::BindOverrun, &[sched, other]);
    }
    // A scheduling context ends with its binding.
    scheds.iter().for_each(|&sched| w.delete(sched as u32));
    w.delete(other as u32);
}
