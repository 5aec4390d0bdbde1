//! Time as a capability, and cyclic schedules.

use super::world::{self, SLICE, World};
use super::{Object, Running};
use crate::arch;
use crate::thread::Thread;
use abi::cap::TimeLimit;
use abi::syscall::WINDOW_WORDS;
use abi::{Op, Rights, Status};
use proptest::prelude::*;

const ROOT_TIME: u64 = world::TIME as u64;

/// A capability to the root's time of `cpus`, up to `priority`, of `partition`.
fn time(w: &World, cpus: u64, priority: u8, partition: u8) -> u64 {
    let at = w.selector() as u64;
    let limit = TimeLimit { priority, partition };
    let all = Rights::all().bits() as u64;
    let args = [ROOT_TIME, world::DOMAIN as u64, at, all, cpus, limit.pack()];
    w.root(Op::Delegate, &args);
    at
}

#[test]
fn time_can_be_narrowed_and_no_more() {
    let w = World::new(2);
    let all = Rights::all().bits() as u64;
    let narrow = time(&w, 0b10, 50, 3);
    let create = |cpu: u64, priority: u64, time: u64| {
        let at = w.selector() as u64;
        w.try_root(Op::CreateSched, &[1, at, cpu, priority, 0, 0, time]).map(|_| at)
    };
    let at = create(1, 50, narrow).unwrap();
    let made = w.object::<crate::sched::Sched>(at as u32).object;
    assert_eq!((made.priority, made.partition), (50, 3));
    assert_eq!(create(0, 50, narrow), Err(Status::Denied));
    assert_eq!(create(1, 51, narrow), Err(Status::Denied));
    for bad in [0, world::DOMAIN as u64, 900, 5000] {
        assert_eq!(create(0, 1, bad), Err(Status::BadCapability));
    }
    let delegate = |rights: u64, cpus: u64, limit: u64| {
        let at = w.selector() as u64;
        let args = [narrow, 1, at, rights, cpus, limit];
        w.try_root(Op::Delegate, &args).map(|_| at)
    };
    for (cpus, limit, status) in [
        (0b11, 0x332, Status::Denied),
        (0b10, 0x333, Status::Denied),
        (0b10, 0x032, Status::Denied),
        (0b10, 0x232, Status::Denied),
        (0b10, 0x380, Status::BadArgument),
        (0b10, 0x832, Status::BadArgument),
        (0b10, 0x1_0332, Status::BadArgument),
    ] {
        assert_eq!(delegate(all, cpus, limit), Err(status), "{limit:#x}");
    }
    let weak = delegate(Rights::DELEGATE.bits() as u64, 0b10, 0x331).unwrap();
    assert_eq!(create(1, 1, weak), Err(Status::Denied));
    let strong = delegate(all, 0b10, 0x331).unwrap();
    create(1, 49, strong).unwrap();
    assert_eq!(create(1, 50, strong), Err(Status::Denied));
    // What was made stays when the capability is taken back.
    w.root(Op::Revoke, &[ROOT_TIME]);
    assert_eq!(create(1, 1, strong), Err(Status::BadCapability));
    w.delete(at as u32);
}

/// A thread of `partition`, that is ready.
fn member(w: &World, cpu: u32, priority: u8, partition: u8) -> Object<Thread> {
    let thread = w.thread(cpu);
    let time = time(w, 1 << cpu, 127, partition) as u32;
    w.bind(w.sched_of(time, cpu, priority, 0, 0), thread);
    w.interrupts(cpu);
    w.on(0);
    thread
}

/// `thread`, which runs, sets the schedule of `cpu`.
fn set(
    w: &World,
    thread: Object<Thread>,
    time: u64,
    cpu: u64,
    length: u64,
    windows: &[[u64; WINDOW_WORDS]],
) -> Result<(), Status> {
    let head = abi::PAGE_SIZE / 8 - abi::utcb::WORDS;
    for (i, &word) in windows.concat().iter().enumerate() {
        thread.object.utcb.write(head + i, word);
    }
    let words = windows.len() * WINDOW_WORDS;
    let args = [time, cpu, length];
    w.begin(thread.object, Op::SetSchedule, words as u16, &args);
    w.result(thread).map(|_| ())
}

#[test]
fn only_the_partition_of_the_window_runs() {
    let w = World::new(2);
    let setter = w.client(1, 5);
    assert_eq!(w.run(1), Running::User(setter.object));
    let (high, low) = (member(&w, 0, 90, 1), member(&w, 0, 10, 2));
    let own = member(&w, 0, 5, 0);
    let at = |now: u64| {
        arch::set_now(now);
        w.run(0)
    };
    assert_eq!(at(50), Running::User(high.object));
    let windows = [[0, 100, 1], [100, 300, 2], [500, 100, 0]];
    assert_eq!(set(&w, setter, ROOT_TIME, 0, 1000, &windows), Ok(()));
    // It begins when the CPU has been told.
    assert_eq!(at(60), Running::User(high.object));
    for frame in 0..3 {
        for (from, to, runs) in [
            (0, 99, Running::User(high.object)),
            (100, 399, Running::User(low.object)),
            (400, 499, Running::Idle),
            (500, 599, Running::User(own.object)),
            (600, 999, Running::Idle),
        ] {
            assert_eq!(at(60 + frame * 1000 + from), runs, "{frame}: {from}");
            assert_eq!(at(60 + frame * 1000 + to), runs, "{frame}: {to}");
        }
    }
    // Another one waits for the boundary, the last one counts; the first frame can be over already.
    assert_eq!(at(3060), Running::User(high.object));
    assert_eq!(set(&w, setter, ROOT_TIME, 0, 300, &[[0, 300, 0]]), Ok(()));
    let next = [[0, 200, 2], [200, 100, 1]];
    assert_eq!(set(&w, setter, ROOT_TIME, 0, 300, &next), Ok(()));
    assert_eq!(at(3160), Running::User(low.object));
    assert_eq!(at(3560), Running::User(own.object));
    assert_eq!(at(4059), Running::Idle);
    assert_eq!(at(4060 + 500), Running::User(high.object));
    assert_eq!(at(4060 + 600), Running::User(low.object));
    // None.
    assert_eq!(set(&w, setter, ROOT_TIME, 0, 0, &[]), Ok(()));
    assert_eq!(at(4060 + 899), Running::User(high.object));
    assert_eq!(at(4060 + 900), Running::User(high.object));
    assert_eq!(at(1 << 40), Running::User(high.object));
}

#[test]
fn who_wakes_outside_its_window_waits_for_it() {
    let w = World::new(1);
    let (high, low) = (member(&w, 0, 90, 1), member(&w, 0, 10, 2));
    let n = w.notification();
    assert_eq!(w.run(0), Running::User(high.object));
    let windows = [[0, 100, 1], [100, 100, 2]];
    assert_eq!(set(&w, high, ROOT_TIME, 0, 200, &windows), Ok(()));
    assert_eq!(w.does(high, Op::Wait, &[n, 150]), Running::Idle);
    arch::set_now(100);
    assert_eq!(w.run(0), Running::User(low.object));
    arch::set_now(150);
    assert_eq!(w.run(0), Running::User(low.object));
    assert_eq!(super::world::state(high), crate::context::State::Ready);
    arch::set_now(200);
    assert_eq!(w.run(0), Running::User(high.object));
}

#[test]
fn hostile_schedules() {
    let w = World::new(2);
    let thread = w.client(0, 5);
    assert_eq!(w.run(0), Running::User(thread.object));
    let max = u64::MAX;
    let bad: [(u64, &[[u64; 3]]); 9] = [
        (100, &[]),
        (0, &[[0, 0, 0]]),
        (100, &[[0, 0, 0]]),
        (100, &[[0, 101, 0]]),
        (100, &[[1, max, 0]]),
        (100, &[[0, 50, 0], [49, 10, 0]]),
        (100, &[[50, 10, 0], [0, 10, 0]]),
        (100, &[[0, 10, 8]]),
        (100, &[[0, 1, 0]; 17]),
    ];
    for (length, windows) in bad {
        let status = set(&w, thread, ROOT_TIME, 0, length, windows);
        assert_eq!(status, Err(Status::BadArgument), "{length} {windows:?}");
    }
    w.begin(thread.object, Op::SetSchedule, 4, &[ROOT_TIME, 0, 100]);
    assert_eq!(w.result(thread), Err(Status::BadArgument));
    let windows = [[0, 10, 0]];
    let at = |time: u64, cpu: u64| set(&w, thread, time, cpu, 100, &windows);
    assert_eq!(at(ROOT_TIME, 2), Err(Status::BadArgument));
    assert_eq!(at(world::RAM as u64, 0), Err(Status::BadCapability));
    let (other, partition) = (time(&w, 0b10, 127, 0), time(&w, 0b11, 127, 4));
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(at(other, 0), Err(Status::Denied));
    assert_eq!(at(partition, 0), Err(Status::Denied));
    let weak = w.selector() as u64;
    let rights = (Rights::CREATE | Rights::DELEGATE).bits() as u64;
    w.root(Op::Delegate, &[ROOT_TIME, 1, weak, rights, 3, 127]);
    assert_eq!(w.run(0), Running::User(thread.object));
    assert_eq!(at(weak, 0), Err(Status::Denied));
    // The longest frame that there is.
    assert_eq!(set(&w, thread, ROOT_TIME, 0, max, &[[0, max, 0]]), Ok(()));
    arch::set_now(max - 1);
    assert_eq!(w.run(0), Running::User(thread.object));
}

#[test]
fn equals_of_different_partitions_take_turns() {
    let w = World::new(1);
    let threads = [0, 1, 1, 7].map(|partition| member(&w, 0, 5, partition));
    let mut ran = [0; 4];
    for _ in 0..120 {
        let Running::User(thread) = w.run(0) else { panic!() };
        ran[threads.iter().position(|t| t.object == thread).unwrap()] += 1;
        arch::set_now(arch::now() + SLICE);
    }
    // The partitions are equals, and those inside of each.
    assert_eq!(ran, [40, 20, 20, 40]);
}

/// What a test of schedules does: time that passes, and then perhaps a new schedule.
fn history() -> impl Strategy<Value = Vec<(u64, Option<Plan>)>> {
    prop::collection::vec((0..400u64, prop::option::of(plan())), 1..60)
}

type Plan = (u64, Vec<[u64; WINDOW_WORDS]>);

fn plan() -> impl Strategy<Value = Plan> {
    // Gaps and lengths of windows.
    let windows = prop::collection::vec((0..2u64, 1..40u64, 0..8u64), 0..6);
    (windows, 0..30u64).prop_map(|(windows, rest)| {
        let mut end = 0;
        let windows = windows.into_iter().map(|(gap, length, partition)| {
            let start = end + gap * 7;
            end = start + length;
            [start, length, partition]
        });
        let windows: Vec<_> = windows.collect();
        (if windows.is_empty() { 0 } else { end + rest }, windows)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn at_any_time_the_window_says_who_runs(history in history()) {
        let w = World::new(2);
        let setter = w.client(1, 5);
        assert_eq!(w.run(1), Running::User(setter.object));
        let members: Vec<_> = (0..8).map(|p| member(&w, 0, 20 - p, p)).collect();
        let (mut begun, mut plan, mut proposed): (u64, Plan, Option<Plan>) = (0, (0, vec![]), None);
        let mut now = 0;
        for (passes, new) in history {
            // The model goes tick by tick.
            for _ in 0..passes {
                now += 1;
                if plan.0 != 0 && now - begun == plan.0 {
                    begun = now;
                    plan = proposed.take().unwrap_or(plan);
                }
            }
            arch::set_now(now);
            w.run(0);
            if let Some(new) = new {
                prop_assert_eq!(set(&w, setter, ROOT_TIME, 0, new.0, &new.1), Ok(()));
                if plan.0 == 0 {
                    (begun, plan) = (now, new);
                } else {
                    proposed = Some(new);
                }
            }
            let expected = if plan.0 == 0 {
                Running::User(members[0].object)
            } else {
                let at = now - begun;
                let window = plan.1.iter().find(|w| w[0] <= at && at < w[0] + w[1]);
                window.map_or(Running::Idle, |w| Running::User(members[w[2] as usize].object))
            };
            prop_assert_eq!(w.run(0), expected);
        }
    }
}
