//! Who runs, and for how long.

use super::world::{self, SLICE, World, state};
use super::{Object, Running};
use crate::arch;
use crate::context::State;
use crate::thread::Thread;
use crate::timeout::{Expiry, Timeout, TimeoutQueue};
use abi::{Op, Status};
use core::sync::atomic::Ordering;
use proptest::prelude::*;

const TIME: u64 = world::TIME as u64;

/// Lets time pass in steps until `end`; how long each of `threads` ran. What runs for a step does `act` at its end.
fn simulate(
    w: &World,
    end: u64,
    step: u64,
    threads: &[Object<Thread>],
    mut act: impl FnMut(Object<Thread>),
) -> Vec<u64> {
    let mut ran = vec![0; threads.len()];
    while arch::now() < end {
        let running = w.run(0);
        arch::set_now(arch::now() + step);
        if let Running::User(thread) = running {
            let i = threads.iter().position(|t| t.object == thread).unwrap();
            ran[i] += step;
            act(threads[i]);
        }
    }
    ran
}

#[test]
fn equals_take_turns_and_the_highest_goes_first() {
    let w = World::new(1);
    let threads = [w.client(0, 5), w.client(0, 5), w.client(0, 5), w.client(0, 4)];
    let ran = simulate(&w, 30 * SLICE, SLICE / 10, &threads, |_| {});
    assert_eq!(ran, [10 * SLICE, 10 * SLICE, 10 * SLICE, 0]);
    // Who yields is last; who is pre-empted stays first.
    let mut order = Vec::new();
    for _ in 0..6 {
        let Running::User(thread) = w.run(0) else { panic!() };
        let thread = *threads.iter().find(|t| t.object == thread).unwrap();
        let high = w.client(0, 9);
        assert_eq!(w.run(0), Running::User(high.object));
        w.delete(high.at);
        assert_eq!(w.run(0), Running::User(thread.object));
        order.push(thread.at);
        w.does(thread, Op::Yield, &[]);
    }
    assert_eq!(order[..3], order[3..]);
    assert!(order[0] != order[1] && order[1] != order[2] && order[0] != order[2]);
}

#[test]
fn nobody_exceeds_its_budget() {
    const BUDGET: u64 = 100;
    const PERIOD: u64 = 1000;
    // Spins; gives up its turn; sleeps for a moment whenever its budget is about to end, or has just ended.
    for behaviour in 0..4 {
        let w = World::new(1);
        let (greedy, low) = (w.thread(0), w.client(0, 1));
        let n = w.notification();
        w.bind(w.sched(0, 100, BUDGET, PERIOD), greedy);
        let end = 200 * PERIOD;
        let ran = simulate(&w, end, 10, &[greedy, low], |thread| {
            if thread.at != greedy.at {
                return;
            }
            let now = arch::now();
            let left = w.cpu(0).slice_end.get().saturating_sub(now);
            match behaviour {
                1 => w.begin(thread.object, Op::Yield, 0, &[]),
                2 if left <= 10 => w.begin(thread.object, Op::Wait, 0, &[n, now + 1]),
                3 if left == 0 => w.begin(thread.object, Op::Wait, 0, &[n, now + 1]),
                _ => {}
            }
        });
        let share = end / PERIOD * BUDGET;
        assert!(ran[0] <= share + BUDGET, "behaviour {behaviour}: {} of {share}", ran[0]);
        // It gets what it was promised, too.
        assert!(ran[0] + 2 * BUDGET >= share, "behaviour {behaviour}: {} of {share}", ran[0]);
        assert_eq!(ran[0] + ran[1], end);
    }
}

#[test]
fn the_budget_of_a_client_ends_in_its_server() {
    let w = World::new(1);
    let (client, server, low) = (w.thread(0), w.thread(0), w.client(0, 1));
    let portal = w.portal(server, 0);
    w.bind(w.sched(0, 9, 100, 1000), client);
    assert_eq!(w.run(0), Running::User(client.object));
    assert_eq!(w.does(client, Op::Call, &[portal]), Running::User(server.object));
    arch::set_now(100);
    assert_eq!(w.run(0), Running::User(low.object));
    // Another caller's time finishes it.
    assert_eq!(w.does(low, Op::Call, &[portal, 5]), Running::User(server.object));
    assert_eq!(w.does(server, Op::ReplyWait, &[]), Running::User(server.object));
    assert_eq!(w.result(server).unwrap()[1], 5);
    arch::set_now(999);
    assert_eq!(w.run(0), Running::User(server.object));
    arch::set_now(1000);
    assert_eq!(w.run(0), Running::User(client.object));
}

/// The bits that a notification has collected.
fn bits(w: &World, n: u64) -> u64 {
    w.try_root(Op::Wait, &[n, 0]).map_or(0, |results| results[1])
}

#[test]
fn an_overrun_is_told_once_in_a_period() {
    let w = World::new(1);
    let (greedy, low) = (w.thread(0), w.client(0, 1));
    let (sched, n) = (w.sched(0, 100, 100, 1000), w.notification());
    w.bind(sched, greedy);
    w.root(Op::BindOverrun, &[sched.at as u64, n]);
    assert_eq!(w.try_root(Op::BindOverrun, &[sched.at as u64, n]), Err(Status::Busy));
    for period in 0..3 {
        arch::set_now(period * 1000);
        assert_eq!(w.run(0), Running::User(greedy.object));
        arch::set_now(period * 1000 + 99);
        assert_eq!(w.run(0), Running::User(greedy.object));
        assert_eq!(bits(&w, n), 0);
        arch::set_now(period * 1000 + 100);
        assert_eq!(w.run(0), Running::User(low.object));
        assert_eq!(bits(&w, n), u64::MAX);
        arch::set_now(period * 1000 + 999);
        assert_eq!(w.run(0), Running::User(low.object));
        assert_eq!(bits(&w, n), 0);
    }
    // Nor is another thread's, in the same period.
    w.delete(greedy.at);
    let greedy = w.thread(0);
    w.bind(sched, greedy);
    assert_eq!(w.run(0), Running::User(low.object));
    assert_eq!(bits(&w, n), 0);
    // Nobody is told when either has ended.
    w.delete(n as u32);
    arch::set_now(3000);
    assert_eq!(w.run(0), Running::User(greedy.object));
    arch::set_now(3100);
    assert_eq!(w.run(0), Running::User(low.object));
    let n = w.notification();
    w.root(Op::BindOverrun, &[sched.at as u64, n]);
    w.delete(sched.at);
    w.delete(n as u32);
}

#[test]
fn who_blocks_with_its_budget_spent_overruns_when_it_wakes() {
    let w = World::new(1);
    let (greedy, low) = (w.thread(0), w.client(0, 1));
    let (sched, told, n) = (w.sched(0, 100, 100, 1000), w.notification(), w.notification());
    w.bind(sched, greedy);
    w.root(Op::BindOverrun, &[sched.at as u64, told]);
    assert_eq!(w.run(0), Running::User(greedy.object));
    arch::set_now(100);
    w.begin(greedy.object, Op::Wait, 0, &[n, u64::MAX]);
    assert_eq!(w.run(0), Running::User(low.object));
    assert_eq!(bits(&w, told), 0);
    w.root(Op::Signal, &[n]);
    assert_eq!(w.run(0), Running::User(low.object));
    assert_eq!(bits(&w, told), u64::MAX);
    arch::set_now(1000);
    assert_eq!(w.run(0), Running::User(greedy.object));
    // Awake again only when the budget has come back.
    arch::set_now(1100);
    w.begin(greedy.object, Op::Wait, 0, &[n, 2500]);
    assert_eq!(w.run(0), Running::User(low.object));
    arch::set_now(2400);
    assert_eq!(w.run(0), Running::User(low.object));
    arch::set_now(2500);
    assert_eq!(w.run(0), Running::User(greedy.object));
    assert_eq!(bits(&w, told), 0);
}

#[test]
fn overruns_wake_each_other_and_many_end_with_their_notification() {
    let w = World::new(1);
    let low = w.client(0, 1);
    let ring: Vec<_> =
        (0..70).map(|_| (w.thread(0), w.sched(0, 50, 10, 100_000), w.notification())).collect();
    let all = w.notification();
    for (i, &(thread, sched, own)) in ring.iter().enumerate() {
        w.bind(sched, thread);
        assert_eq!(w.run(0), Running::User(thread.object));
        // Its budget ends while it waits for its own notification, which is told of the next one's overrun.
        arch::set_now(arch::now() + 10);
        w.begin(thread.object, Op::Wait, 0, &[own, u64::MAX]);
        assert_eq!(w.run(0), Running::User(low.object));
        let told = ring.get(i + 1).map_or(own, |next| next.2);
        w.root(Op::BindOverrun, &[sched.at as u64, told]);
    }
    w.root(Op::Signal, &[ring[0].2]);
    assert_eq!(w.run(0), Running::User(low.object));
    let awake = |thread: Object<Thread>| state(thread) == State::Ready;
    assert!(ring.iter().all(|&(thread, ..)| awake(thread)));
    for &(.., own) in &ring {
        w.delete(own as u32);
    }
    for n in [all, w.notification()] {
        for &(_, sched, _) in &ring {
            w.root(Op::BindOverrun, &[sched.at as u64, n]);
        }
        w.delete(n as u32);
    }
}

#[test]
fn hostile_times() {
    let w = World::new(1);
    let max = u64::MAX;
    for (budget, period) in [(1, 0), (0, 1), (2, 1)] {
        let args = [1, 99, 0, 5, budget, period, TIME];
        assert_eq!(w.try_root(Op::CreateSched, &args), Err(abi::Status::BadArgument));
    }
    arch::set_now(max - 5);
    for (budget, period) in [(1, max), (max, max), (max - 1, max), (1, 1)] {
        let (thread, sched) = (w.thread(0), w.sched(0, 5, budget, period));
        w.bind(sched, thread);
        assert_eq!(w.run(0), Running::User(thread.object));
        w.delete(thread.at);
        w.delete(sched.at);
    }
    assert_eq!(
        w.try_root(Op::CreateSched, &[1, 99, 1, 5, 0, 0, TIME]),
        Err(abi::Status::BadArgument)
    );
    assert_eq!(
        w.try_root(Op::CreateSched, &[1, 99, 0, 128, 0, 0, TIME]),
        Err(abi::Status::BadArgument)
    );
}

#[test]
fn the_timer_ends_a_few_waits_at_a_time() {
    let w = World::new(1);
    let sleepers: Vec<_> = (0..50).map(|_| w.client(0, 5)).collect();
    while let Running::User(sleeper) = w.run(0) {
        let n = w.notification();
        w.run(0);
        w.begin(sleeper, Op::Wait, 0, &[n, 500]);
    }
    let asleep = || {
        let waits = |t: &&Object<Thread>| state(**t) == State::Waiting;
        sleepers.iter().filter(waits).count()
    };
    assert_eq!((asleep(), w.cpu(0).timeouts.check()), (50, 50));
    arch::set_now(500);
    for left in [34, 18, 2, 0] {
        // It fires again at once, until nothing is left to do.
        assert!(w.cpu(0).arch.timer.load(Ordering::SeqCst) <= 500);
        w.interrupts(0);
        assert_eq!(asleep(), left);
        while w.step(0).is_none() {}
    }
    assert!(w.cpu(0).arch.timer.load(Ordering::SeqCst) > 500);
}

/// Timeouts of the property test.
const TIMEOUTS: usize = 40;

#[derive(Clone, Copy, Debug)]
enum Action {
    Arm(usize, u64),
    Disarm(usize),
    Pop(u64),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let time = || prop_oneof![4 => 0..20u64, 1 => Just(u64::MAX)];
    prop::collection::vec(
        prop_oneof![
            5 => (0..TIMEOUTS, time()).prop_map(|(i, t)| Action::Arm(i, t)),
            2 => (0..TIMEOUTS).prop_map(Action::Disarm),
            1 => time().prop_map(Action::Pop),
        ],
        0..300,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn timeouts_expire_in_order(actions in actions()) {
        let queue = TimeoutQueue::empty();
        let timeouts: [_; TIMEOUTS] = core::array::from_fn(|_| Timeout::new(Expiry::Context));
        let mut model = [None; TIMEOUTS];
        for action in actions {
            match action {
                Action::Arm(i, deadline) => {
                    queue.arm(&timeouts[i], deadline);
                    model[i] = Some(deadline);
                }
                Action::Disarm(i) => {
                    prop_assert_eq!(queue.disarm(&timeouts[i]), model[i].take());
                }
                Action::Pop(now) => {
                    let first = model.iter().flatten().min().copied().filter(|&t| t <= now);
                    let expired = queue.pop_expired(now).map(|expired| {
                        let is = |t: &Timeout| &raw const *t as u64 == expired.address();
                        timeouts.iter().position(is).unwrap()
                    });
                    prop_assert_eq!(expired.and_then(|i| model[i]), first);
                    if let Some(i) = expired {
                        model[i] = None;
                    }
                }
            }
            prop_assert_eq!(queue.check(), model.iter().flatten().count());
            let earliest = model.iter().flatten().min();
            prop_assert_eq!(queue.earliest(), earliest.copied().unwrap_or(u64::MAX));
            for (timeout, deadline) in timeouts.iter().zip(model) {
                prop_assert_eq!(timeout.is_armed(), deadline.is_some());
            }
        }
    }
}
