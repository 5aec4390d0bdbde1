//! Ends of objects, while other CPUs use them.

use super::Running;
use super::world::{DEVICE, DEVICE_BASE, TIME, World, result, state};
use crate::arch;
use crate::context::State;
use crate::domain::Domain;
use crate::mem;
use crate::thread::Thread;
use abi::syscall::SpaceKind;
use abi::{Op, Rights, Status};
use core::sync::atomic::Ordering;

#[test]
fn nobody_finds_what_is_ending() {
    let w = World::new(2);
    let (killer, other) = (w.client(0, 5), w.client(0, 5));
    let (victim, sched) = (w.client(1, 5), w.sched(1, 5, 0, 0));
    let n = w.notification();
    assert_eq!(w.run(1), Running::User(victim.object));
    w.does(victim, Op::Wait, &[n, u64::MAX]);
    for at in [n, victim.at as u64] {
        assert_eq!(w.run(0), Running::User(killer.object));
        // The other CPU has not let go of it yet.
        w.begin(killer.object, Op::Delete, 0, &[at]);
        assert!(w.restarts(killer.object));
        w.cpu(0).yielded.set(true);
        w.cpu(0).reschedule.set(true);
        assert_eq!(w.step(0), Some(Running::User(other.object)));
        for (op, args) in [
            (Op::CreatePortal, vec![1, 99, at]),
            (Op::BindSched, vec![sched.at as u64, at]),
            (Op::InterruptBind, vec![8, at, 1]),
            (Op::LogBind, vec![5, at]),
            (Op::Wait, vec![at, u64::MAX]),
            (Op::Signal, vec![at]),
            (Op::Delegate, vec![at, 1, 99, 0xff]),
        ] {
            w.begin(other.object, op, 0, &args);
            assert_eq!(w.result(other), Err(Status::BadCapability), "{op:?}");
        }
        w.begin(other.object, Op::CreateNotification, 0, &[1, at]);
        assert_eq!(w.result(other), Err(Status::Occupied));
        // Its CPU does, and the other one goes on.
        w.interrupts(1);
        w.cpu(0).yielded.set(true);
        w.cpu(0).reschedule.set(true);
        for _ in 0..10 {
            w.interrupts(1);
            w.interrupts(0);
            w.step(0);
        }
        assert_eq!(w.result(killer).map(|_| ()), Ok(()));
        w.begin(killer.object, Op::CreateNotification, 0, &[1, at]);
        assert_eq!(w.result(killer).map(|_| ()), Ok(()));
    }
    assert_eq!(w.run(1), Running::Idle);
}

#[test]
fn what_was_posted_to_a_cpu_is_not_freed_before_it_arrives() {
    // A scheduling context that ends on its CPU while its start is on the way there.
    let w = World::new(2);
    let (thread, sched) = (w.thread(1), w.sched(1, 5, 0, 0));
    w.bind(sched, thread);
    w.try_root_on(1, Op::Delete, &[sched.at as u64]).unwrap();
    assert_eq!(w.run(1), Running::Idle);
    // A thread that does: the scheduling context is free for another one.
    let sched = w.sched(1, 5, 0, 0);
    w.bind(sched, thread);
    w.try_root_on(1, Op::Delete, &[thread.at as u64]).unwrap();
    assert_eq!(w.run(1), Running::Idle);
    let thread = w.thread(1);
    w.bind(sched, thread);
    assert_eq!(w.run(1), Running::User(thread.object));
    // A signal whose notification ends.
    let n = w.notification();
    assert_eq!(w.does(thread, Op::Wait, &[n, u64::MAX]), Running::Idle);
    w.root(Op::Signal, &[n]);
    w.try_root_on(1, Op::Delete, &[n]).unwrap();
    assert_eq!(w.run(1), Running::User(thread.object));
    let taken = result(thread.object);
    assert!(taken == Err(Status::Aborted) || taken.unwrap()[1] == u64::MAX);
    // A thread that waits, ended from the CPU that has just signalled.
    let n = w.notification();
    assert_eq!(w.does(thread, Op::Wait, &[n, u64::MAX]), Running::Idle);
    w.root(Op::Signal, &[n]);
    w.delete(thread.at);
    w.delete(n as u32);
    w.delete(sched.at);
    assert_eq!(w.run(1), Running::Idle);
}

#[test]
fn nobody_ends_what_it_runs_on() {
    let w = World::new(1);
    let thread = w.client(0, 5);
    w.run(0);
    let user = Running::User(thread.object);
    assert_eq!(w.does(thread, Op::Delete, &[thread.at as u64]), user);
    assert_eq!(w.result(thread), Err(Status::Busy));
    assert_eq!(w.does(thread, Op::Delete, &[2]), user);
    // The capability to the space is not the first one: it goes, the space stays.
    assert_eq!(w.result(thread).map(|_| ()), Ok(()));
    assert_eq!(w.does(thread, Op::Yield, &[]), user);
}

/// A domain of its own, with everything in it, on all CPUs; the root's selector.
fn busy_domain(w: &World) -> u32 {
    let all = Rights::all().bits() as u64;
    let (domain, space) = (w.selector() as u64, w.selector() as u64);
    w.root(Op::CreateDomain, &[1, domain, 120, 70]);
    w.root(Op::CreateSpace, &[domain, space, 0]);
    w.root(Op::Delegate, &[domain, domain, 1, all]);
    w.root(Op::Delegate, &[space, domain, 2, all]);
    w.root(Op::Delegate, &[3, domain, 3, all, 0, 1 << 20]);
    let time = TIME as u64;
    w.root(Op::Delegate, &[time, domain, 4, all, 3, 9]);
    let threads: Vec<_> = (0..4u64)
        .map(|i| {
            let at = w.selector();
            let args = [domain, at as u64, domain, space, i % 2, (i + 1) << 20, 0x2000, 0, 20];
            w.root(Op::CreateThread, &args);
            w.root(Op::Delegate, &[at as u64, domain, 10 + i, all]);
            w.object::<Thread>(at)
        })
        .collect();
    for i in 0..2 {
        w.bind(w.sched(i, 9, 0, 0), threads[i as usize]);
    }
    // One calls its server, which waits; the other waits for ever. Both made things before.
    for (i, thread) in threads[..2].iter().enumerate() {
        let i = i as u64;
        assert_eq!(w.run(i as u32), Running::User(thread.object));
        let does = |op, args: &[u64]| {
            w.begin(thread.object, op, 0, args);
            while w.restarts(thread.object) {
                w.interrupts(1 - i as u32);
                w.on(i as u32);
                w.again(thread.object);
            }
            assert_eq!(result(thread.object).map(|_| ()), Ok(()), "{op:?} {args:?}");
        };
        let base = 30 + 15 * i;
        does(Op::CreateNotification, &[1, base]);
        does(Op::CreatePortal, &[1, base + 1, 12 + i, 5, !0]);
        does(Op::CreateSpace, &[1, base + 2, 1]);
        does(Op::Map, &[3, base + 2, base + 3, 0, 0, 1 << 20, 7]);
        does(Op::Map, &[3, 2, base + 4, 0, (i + 1) << 30, 64 << 12, 3]);
        does(Op::CreateVcpu, &[1, base + 5, 1, base + 2, i, 2, (10 + i) << 20, 200]);
        does(Op::BindKick, &[base + 5, base]);
        does(Op::CreateSched, &[1, base + 6, i, 3, 10, 100, 4]);
        does(Op::BindSched, &[base + 6, base + 5]);
        does(Op::CreateDomain, &[1, base + 7, 2, 3]);
        does(Op::CreateNotification, &[base + 7, base + 8]);
        does(Op::CreateNotification, &[1, base + 9]);
    }
    domain as u32
}

#[test]
fn a_domain_ends_with_all_it_has() {
    let w = World::new(2);
    let before = (w.root.quota().1, mem::free_pages());
    let mut after = before;
    for round in 0..3 {
        let domain = busy_domain(&w);
        assert!(w.object::<Domain>(domain).object.quota().1 > 40);
        w.try_root_on(round % 2, Op::Delete, &[domain as u64]).unwrap();
        assert_eq!((w.run(0), w.run(1)), (Running::Idle, Running::Idle));
        // The root's own cells stay; nothing else does.
        let now = (w.root.quota().1, mem::free_pages());
        assert_eq!(before.0 + before.1, now.0 + now.1);
        assert!(now.0 <= before.0 + 1 && (round == 0 || now == after), "{before:?} {now:?}");
        after = now;
    }
    assert_eq!(crate::arch::space_tags(), 1);
}

#[test]
fn a_domain_ends_whose_space_others_use() {
    // A domain makes a space at a neighbour's cost, and a thread in it: the space comes first in its table.
    let w = World::new(1);
    let all = Rights::all().bits() as u64;
    let (neighbour, domain) = (w.selector() as u64, w.selector() as u64);
    w.root(Op::CreateDomain, &[1, neighbour, 30, 10]);
    w.root(Op::CreateDomain, &[1, domain, 30, 10]);
    w.root(Op::Delegate, &[domain, domain, 1, all]);
    w.root(Op::Delegate, &[neighbour, domain, 3, all]);
    let (space, at) = (w.selector() as u64, w.selector());
    w.root(Op::CreateSpace, &[domain, space, 0]);
    w.root(Op::CreateThread, &[domain, at as u64, domain, space, 0, 0x1_0000, 0x2000]);
    let thread = w.object::<Thread>(at);
    w.bind(w.sched(0, 5, 0, 0), thread);
    w.run(0);
    w.does(thread, Op::CreateSpace, &[3, 5, 0]);
    w.does(thread, Op::CreateThread, &[3, 6, 3, 5, 0, 0x2_0000, 0x2000]);
    assert_eq!(w.result(thread).map(|_| ()), Ok(()));
    w.does(thread, Op::Delete, &[5]);
    assert_eq!(w.result(thread), Err(Status::Busy));
    w.delete(domain as u32);
    // Its cells and pages stay with it; the thread's two and the space's table and tables are back.
    assert_eq!(w.root(Op::QuotaQuery, &[neighbour])[2], 1);
    assert_eq!(state(w.client(0, 1)), State::Ready);
}

#[test]
fn time_that_was_bound_can_be_bound_again() {
    let w = World::new(1);
    let (first, sched) = (w.thread(0), w.sched(0, 5, 100, 1000));
    w.bind(sched, first);
    assert_eq!(w.run(0), Running::User(first.object));
    crate::arch::set_now(99);
    w.delete(first.at);
    // What was used of the budget stays used.
    let second = w.thread(0);
    w.bind(sched, second);
    assert_eq!(w.run(0), Running::User(second.object));
    crate::arch::set_now(100);
    assert_eq!(w.run(0), Running::Idle);
    w.delete(second.at);
    let third = w.thread(0);
    w.bind(sched, third);
    assert_eq!(w.run(0), Running::Idle);
    crate::arch::set_now(1000);
    assert_eq!(w.run(0), Running::User(third.object));
}

#[test]
fn an_epoch_waits_for_what_is_under_way() {
    // The interrupts of CPU 1 are late. What was posted to it ends, by its own hand.
    let w = World::new(2);
    let killer = w.client(1, 9);
    let (thread, sched, n) = (w.thread(1), w.sched(1, 5, 0, 0), w.notification());
    let waiter = w.client(1, 10);
    assert_eq!(w.run(1), Running::User(waiter.object));
    assert_eq!(w.does(waiter, Op::Wait, &[n, 5]), Running::User(killer.object));
    w.bind(sched, thread);
    w.root(Op::Signal, &[n]);
    for at in [sched.at as u64, n] {
        w.begin(killer.object, Op::Delete, 0, &[at]);
        for _ in 0..5 {
            w.interrupts(0);
            assert!(w.restarts(killer.object));
            w.on(1);
            w.again(killer.object);
        }
        w.interrupts(1);
        w.interrupts(0);
        assert_eq!(w.run(1), Running::User(waiter.object));
        if at != n {
            // For the second turn, as before.
            assert_eq!(w.does(waiter, Op::Wait, &[n, u64::MAX]), Running::User(killer.object));
            w.root(Op::Signal, &[n]);
        } else {
            w.delete(waiter.at);
            assert_eq!(w.run(1), Running::User(killer.object));
        }
        assert_eq!(w.result(killer).map(|_| ()), Ok(()));
    }
}

#[test]
fn what_cannot_be_made_costs_nothing() {
    let w = World::new(1);
    let domain = w.selector() as u64;
    w.root(Op::CreateDomain, &[1, domain, 1, 1]);
    let (tags, free) = (crate::arch::space_tags(), mem::free_pages());
    for _ in 0..50 {
        assert_eq!(w.try_root(Op::CreateSpace, &[domain, 99, 0]), Err(Status::Quota));
    }
    assert_eq!((crate::arch::space_tags(), mem::free_pages()), (tags, free - 1));
    w.root(Op::CreateNotification, &[domain, 99]);
    assert_eq!(w.root(Op::QuotaQuery, &[domain])[1..3], [1, 1]);
    // A thread or vCPU whose page cannot be mapped.
    let (domain, space, guest) = (w.selector() as u64, w.selector() as u64, w.selector() as u64);
    w.root(Op::CreateDomain, &[1, domain, 12, 1]);
    w.root(Op::CreateSpace, &[domain, space, 0]);
    w.root(Op::CreateSpace, &[domain, guest, 1]);
    let used = w.root(Op::QuotaQuery, &[domain])[2];
    for (page, status) in
        [(1, Status::BadArgument), (0, Status::BadArgument), (abi::USER_END, Status::BadArgument)]
    {
        let thread = [domain, 98, domain, space, 0, page, 0x2000];
        let vcpu = [domain, 98, domain, guest, 0, space, page, 0];
        assert_eq!(w.try_root(Op::CreateThread, &thread), Err(status));
        assert_eq!(w.try_root(Op::CreateVcpu, &vcpu), Err(status));
    }
    assert_eq!(w.root(Op::QuotaQuery, &[domain])[2], used);
    // Three tables for the first page, then the pages alone.
    w.root(Op::CreateThread, &[domain, 98, domain, space, 0, 0x1000, 0x2000]);
    assert_eq!(w.root(Op::QuotaQuery, &[domain])[2], used + 5);
    let vcpu = [domain, 97, domain, guest, 0, space, 0x1000, 0];
    assert_eq!(w.try_root(Op::CreateVcpu, &vcpu), Err(Status::Occupied));
    let vcpu = [domain, 97, domain, guest, 0, space, 1 << 36, 0];
    assert_eq!(w.try_root(Op::CreateVcpu, &vcpu), Err(Status::Quota));
    w.delete(98);
    w.delete(domain as u32);
    assert_eq!(crate::arch::space_tags(), tags);
}

#[test]
fn ports_are_mapped_once_and_taken_back() {
    let w = World::new(1);
    let (domain, space, part) = (w.selector() as u64, w.selector() as u64, w.selector() as u64);
    w.root(Op::CreateDomain, &[1, domain, 12, 4]);
    w.root(Op::CreateSpace, &[domain, space, 0]);
    w.root(Op::Delegate, &[4, 1, part, 0x83, 0x3f8, 200]);
    let (at, other) = (w.selector() as u64, w.selector() as u64);
    let map = |memory: u64, at, port: u64, first: u64, count: u64| {
        w.try_root(Op::Map, &[memory, space, at, port, first, count, 3]).map(|_| ())
    };
    assert_eq!(map(part, at, 0, 0x3f9, 8), Err(Status::BadArgument));
    assert_eq!(map(part, at, 0, 0x3f8, 201), Err(Status::BadArgument));
    assert_eq!(map(part, at, 0, 0x3f8, 200), Ok(()));
    assert_eq!(map(4, other, 0x3f8 + 199, 0x3f8 + 199, 1), Err(Status::Occupied));
    assert_eq!(map(4, other, 0x3f8 + 200, 0x3f8 + 200, 0x10000 - 0x3f8 - 200), Ok(()));
    let allowed = || {
        let [low, high] =
            w.object::<crate::space::Space>(space as u32).object.port_bitmap().unwrap();
        let denied: u32 =
            (0..512).map(|i| low.read(i).count_ones() + high.read(i).count_ones()).sum();
        0x10000 - denied
    };
    assert_eq!(allowed(), 0x10000 - 0x3f8);
    w.root(Op::Revoke, &[part]);
    assert_eq!(allowed(), 0x10000 - 0x3f8 - 200);
    w.root(Op::Revoke, &[4]);
    assert_eq!(allowed(), 0);
    w.delete(domain as u32);
    // What is mapped before a failure is there for who runs.
    let map = |first: u64, count: u64| {
        let args = [4, 2, w.selector() as u64, first, first, count, 3];
        w.try_root(Op::Map, &args).map(|_| ())
    };
    assert_eq!(map(0x180, 16), Ok(()));
    let flushes = w.cpu(0).arch.flushes.load(Ordering::SeqCst);
    assert_eq!(map(0x100, 0x100), Err(Status::Occupied));
    w.interrupts(0);
    assert!(w.cpu(0).arch.flushes.load(Ordering::SeqCst) > flushes);
}

#[test]
fn registers_of_guests_are_for_guests_only() {
    let w = World::new(1);
    let only = arch::GUEST_ONLY;
    let map = |kind: SpaceKind, first: u64, size: u64| {
        let [domain, space, mapping] = [(); 3].map(|()| w.selector() as u64);
        w.root(Op::CreateDomain, &[1, domain, 12, 4]);
        w.root(Op::CreateSpace, &[domain, space, kind as u64]);
        let offset = first - DEVICE_BASE;
        let args = [DEVICE as u64, space, mapping, offset, 0x4000, size, 3];
        let result = w.try_root(Op::Map, &args).map(|_| ());
        w.delete(domain as u32);
        result
    };
    let page = 0x1000;
    for (first, size, touches) in [
        (only.start, page, true),
        (only.start - page, 3 * page, true),
        (only.end - page, 2 * page, true),
        (only.start - page, page, false),
        (only.end, page, false),
    ] {
        let host = if touches { Err(Status::Denied) } else { Ok(()) };
        assert_eq!(map(SpaceKind::Host, first, size), host, "{first:#x}");
        assert_eq!(map(SpaceKind::Guest, first, size), Ok(()));
    }
}

#[test]
fn a_system_call_that_was_not_finished_excuses_no_other() {
    let w = World::new(2);
    let killer = w.client(0, 9);
    let (first, second) = (w.notification(), w.notification());
    w.run(0);
    // It is done but for the other CPU, and then something else happens.
    w.begin(killer.object, Op::Delete, 0, &[first]);
    assert!(w.restarts(killer.object));
    w.begin(killer.object, Op::Delete, 0, &[second]);
    w.interrupts(1);
    w.on(0);
    w.again(killer.object);
    assert_eq!(w.result(killer).map(|_| ()), Ok(()));
    assert_eq!(w.try_root(Op::Signal, &[second]), Err(Status::BadCapability));
}

#[test]
fn a_period_ends_while_the_start_is_on_its_way() {
    let w = World::new(2);
    let threads: Vec<_> = (0..3).map(|_| w.thread(1)).collect();
    let (spent, other) = (w.sched(1, 5, 10, 1000), w.sched(1, 6, 0, 0));
    w.bind(spent, threads[0]);
    assert_eq!(w.run(1), Running::User(threads[0].object));
    arch::set_now(arch::now() + 10);
    assert_eq!(w.run(1), Running::Idle);
    w.delete(threads[0].at);
    // Both starts are in the other CPU's inbox when its timer fires.
    w.bind(other, threads[1]);
    w.bind(spent, threads[2]);
    arch::set_now(arch::now() + 990);
    let cpu = w.on(1);
    cpu.arch.timer.store(u64::MAX, Ordering::SeqCst);
    cpu.timer_fired();
    cpu.note_inbox();
    for _ in 0..10 {
        cpu.serve_inbox();
    }
    assert!(cpu.is_inbox_empty());
    assert_eq!(w.run(1), Running::User(threads[1].object));
    w.delete(threads[1].at);
    assert_eq!(w.run(1), Running::User(threads[2].object));
    w.delete(threads[2].at);
    assert_eq!(w.run(1), Running::Idle);
}

#[test]
fn who_goes_on_delegating_does_not_keep_a_domain_from_its_end() {
    let w = World::new(2);
    let all = Rights::all().bits() as u64;
    let (domain, friend, space) = (w.selector(), w.selector(), w.selector());
    let [d, f, s] = [domain, friend, space].map(u64::from);
    let at = w.selector() as u64;
    w.root(Op::CreateDomain, &[1, d, 40, 64]);
    w.root(Op::CreateDomain, &[1, f, 10, 1000]);
    w.root(Op::CreateSpace, &[d, s, 0]);
    w.root(Op::CreateThread, &[d, at, d, s, 1, w.page(), 0x2000, 0, 0]);
    let hostile = w.object::<Thread>(at as u32);
    w.bind(w.sched(1, 5, 0, 0), hostile);
    w.root(Op::Delegate, &[d, d, 1, all]);
    w.root(Op::Delegate, &[f, d, 2, all]);
    let user = Running::User(hostile.object);
    assert_eq!(w.run(1), user);
    // Among what the domain made last, and what ends first with it.
    assert_eq!(w.does(hostile, Op::CreateNotification, &[1, 3]), user);
    assert_eq!(w.result(hostile).map(|_| ()), Ok(()));
    let mut place = 0;
    let mut delegate = || {
        place = place % 900 + 1;
        w.begin(hostile.object, Op::Delegate, 0, &[3, 2, place, all, u64::MAX]);
    };
    (0..20).for_each(|_| delegate());
    let killer = w.client(0, 5);
    assert_eq!(w.run(0), Running::User(killer.object));
    let mut runs = 0;
    w.begin(killer.object, Op::Delete, 0, &[d]);
    while w.restarts(killer.object) {
        runs += 1;
        assert!(runs < 1000, "the domain does not end");
        w.interrupts(1);
        w.step(1);
        if w.cpu(1).current.get() == Some(hostile.object.context()) {
            delegate();
        }
        w.interrupts(0);
        w.on(0);
        w.step(0);
    }
    assert_eq!(w.result(killer).map(|_| ()), Ok(()));
}
