//! What CPUs do at once. Each test goes through all schedules with so many switches, and says how many there were.

mod migrations;
mod revocations;

use crate::arch;
use crate::cell::Ref;
use crate::context::State;
use crate::domain::Domain;
use crate::epoch;
use crate::mem;
use crate::notification::Notification;
use crate::portal::Portal;
use crate::slot;
use crate::sync::{Bounded, become_cpu, explore};
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use crate::world::{self, Object, Running, World};
use abi::syscall::Tag;
use abi::utcb::{Item, Window};
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::{Op, Rights, Selector, Status};
use shuttle::{Config, Runner};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

const ALL: u64 = Rights::all().bits() as u64;

/// Runs `test` in every schedule with up to `switches` switches.
fn in_all_schedules(switches: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    let schedules = Runner::new(Bounded::new(switches), config).run(test);
    println!("{schedules} schedules");
    assert!(schedules > 50, "{schedules}");
}

/// The machine, as the CPUs share it.
#[derive(Clone, Copy)]
struct Shared(*const World);

// SAFETY: the checker's tasks take turns on one thread of the host, and the machine outlives them.
unsafe impl Send for Shared {}

type Act = Box<dyn FnOnce(&World) + Send>;

fn act(act: impl FnOnce(&World) + Send + 'static) -> Act {
    Box::new(act)
}

/// CPU `i` does `acts[i]`, all at once, and takes its interrupts until all are done. Then they come to rest.
fn together(w: &World, acts: Vec<Act>) {
    let count = acts.len();
    let left = Arc::new(AtomicUsize::new(count));
    explore(true);
    let tasks: Vec<_> = acts
        .into_iter()
        .enumerate()
        .map(|(cpu, act)| {
            let (shared, left) = (Shared(w), left.clone());
            shuttle::thread::spawn(move || {
                // The whole of it is captured, not the pointer alone.
                let shared = shared;
                // SAFETY: `together` waits for this task.
                let w = unsafe { &*shared.0 };
                become_cpu(w.cpu(cpu as u32));
                act(w);
                left.fetch_sub(1, Ordering::SeqCst);
                while left.load(Ordering::SeqCst) > 0 {
                    shuttle::thread::yield_now();
                    w.interrupts(cpu as u32);
                }
            })
        })
        .collect();
    for task in tasks {
        task.join().unwrap();
    }
    explore(false);
    for _ in 0..2 {
        for cpu in 0..count {
            w.run(cpu as u32);
        }
    }
    w.on(0);
}

/// `thread`, which runs, makes a system call and goes on until that returns.
fn completes(w: &World, thread: Ref<Thread>, op: Op, args: &[u64]) -> Result<[u64; 9], Status> {
    w.begin(thread, op, 0, args);
    while w.restarts(thread) {
        shuttle::thread::yield_now();
        w.interrupts(thread.context.cpu());
        w.again(thread);
    }
    world::result(thread)
}

/// A machine with a thread that runs on each of `N` CPUs.
fn machine<const N: usize>() -> (World, [Ref<Thread>; N]) {
    let w = World::new(N as u32);
    let threads = core::array::from_fn(|cpu| {
        let thread = w.client(cpu as u32, 5);
        assert_eq!(w.run(cpu as u32), Running::User(thread.object));
        thread.object
    });
    (w, threads)
}

/// Fails if something was written to a small object after it was freed. Its first word links it to others.
fn check_freed(address: u64) {
    let mut page = mem::KernelPage::from_virt(address & !0xfff);
    page.virt.0 = address & !0xfff;
    let first = (address & 0xfff) as usize / 8;
    for i in first + 1..first + 24 {
        assert_eq!(page.read(i), 0x6b6b_6b6b_6b6b_6b68, "word {}", i - first);
    }
}

#[test]
fn a_signal_meets_a_wait() {
    in_all_schedules(3, || {
        let (w, [waiter, other]) = machine();
        let n = w.notification();
        together(
            &w,
            vec![
                act(move |w| w.begin(waiter, Op::Wait, 0, &[n, u64::MAX])),
                act(move |w| w.begin(other, Op::Signal, 0, &[n])),
            ],
        );
        assert_eq!(world::result(waiter).unwrap()[1], u64::MAX);
        assert_eq!(w.run(0), Running::User(waiter));
    });
}

#[test]
fn signals_meet_waits_and_polls() {
    in_all_schedules(2, || {
        let (w, [waiter, other]) = machine();
        let (n, first, second) = (w.notification(), w.selector(), w.selector());
        let (first, second) = (first as u64, second as u64);
        w.root(Op::Delegate, &[n, 1, first, ALL, 1]);
        w.root(Op::Delegate, &[n, 1, second, ALL, 2]);
        let received = Arc::new(AtomicUsize::new(0));
        let (take, poll) = (received.clone(), received.clone());
        let note = |received: &AtomicUsize, result: Result<[u64; 9], Status>| {
            let bits = result.map_or(0, |results| results[1]);
            received.fetch_or(bits as usize, Ordering::SeqCst);
        };
        together(
            &w,
            vec![
                act(move |w| {
                    // The second wait begins when the first one has ended.
                    for _ in 0..2 {
                        w.begin(waiter, Op::Wait, 0, &[n, u64::MAX]);
                        while w.run(0) == Running::Idle {
                            shuttle::thread::yield_now();
                        }
                        note(&take, world::result(waiter));
                        if take.load(Ordering::SeqCst) == 3 {
                            return;
                        }
                    }
                }),
                act(move |w| {
                    w.begin(other, Op::Signal, 0, &[first]);
                    w.begin(other, Op::Wait, 0, &[n, 0]);
                    note(&poll, world::result(other));
                    w.begin(other, Op::Signal, 0, &[second]);
                    if poll.load(Ordering::SeqCst) != 0 {
                        // What it took itself is missing there.
                        w.begin(other, Op::Signal, 0, &[first]);
                    }
                }),
            ],
        );
        assert_eq!(received.load(Ordering::SeqCst), 3);
    });
}

/// A vCPU on CPU 0 with its monitor, both before the reply that halts the vCPU or lets it run.
struct Vm {
    vcpu: Object<Vcpu>,
    monitor: Ref<Thread>,
    kick: u64,
}

fn vm(w: &World) -> Vm {
    let monitor = w.thread(0);
    let portal = w.portal(monitor, 7);
    let (guest, at, exits) = (w.selector() as u64, w.selector(), 300);
    for kind in [ExitKind::Kick, ExitKind::Startup] {
        w.root(Op::Delegate, &[portal, 1, exits + kind as u64, ALL]);
    }
    w.root(Op::CreateSpace, &[1, guest, 1]);
    w.root(Op::CreateVcpu, &[1, at as u64, 1, guest, 0, 2, w.page(), exits]);
    let (vcpu, kick) = (w.object(at), w.notification());
    w.root(Op::BindKick, &[at as u64, kick]);
    w.bind(w.sched(0, 9, 0, 0), vcpu);
    assert_eq!(w.run(0), Running::User(monitor.object));
    Vm { vcpu, monitor: monitor.object, kick }
}

#[test]
fn a_kick_meets_a_halt_or_an_entry() {
    for halt in [0, CONTROL_HALT] {
        in_all_schedules(3, move || {
            let (w, [_, other]) = machine();
            let Vm { vcpu, monitor, kick } = vm(&w);
            let page = vcpu.object.state_page;
            page.write(crate::arch::vcpu::CONTROLS, halt);
            together(
                &w,
                vec![
                    act(move |w| {
                        w.begin(monitor, Op::ReplyWait, 0, &[0, Groups::EVENTS.bits()]);
                        w.step(0);
                    }),
                    act(move |w| w.begin(other, Op::Signal, 0, &[kick])),
                ],
            );
            // Told, whatever came first.
            assert_eq!(world::state(vcpu), State::InCall);
            assert_eq!(w.run(0), Running::User(monitor));
            let args = world::result(monitor).unwrap();
            assert_eq!((args[1], args[2]), (ExitKind::Kick as u64, u64::MAX));
        });
    }
}

#[test]
fn two_cpus_post_to_a_third() {
    in_all_schedules(2, || {
        let (w, [waiter, first, second]) = machine();
        let other_waiter = w.client(0, 9).object;
        assert_eq!(w.run(0), Running::User(other_waiter));
        let (n, m) = (w.notification(), w.notification());
        w.begin(other_waiter, Op::Wait, 0, &[n, u64::MAX]);
        assert_eq!(w.run(0), Running::User(waiter));
        w.begin(waiter, Op::Wait, 0, &[m, u64::MAX]);
        assert_eq!(w.run(0), Running::Idle);
        together(
            &w,
            vec![
                act(move |w| {
                    w.interrupts(0);
                    w.interrupts(0);
                }),
                act(move |w| w.begin(first, Op::Signal, 0, &[n])),
                act(move |w| w.begin(second, Op::Signal, 0, &[m])),
            ],
        );
        for thread in [waiter, other_waiter] {
            assert_eq!(world::result(thread).unwrap()[1], u64::MAX);
        }
    });
}

/// The bits of a notification that nobody waits for.
fn bits(w: &World, at: u64) -> u64 {
    w.try_root(Op::Wait, &[at, 0]).map_or(0, |results| results[1])
}

#[test]
fn a_signal_meets_another_capability_in_its_slot() {
    in_all_schedules(3, || {
        let (w, [signaller, other]) = machine();
        let (n, m) = (w.notification(), w.notification());
        let at = w.selector() as u64;
        w.root(Op::Delegate, &[n, 1, at, ALL, 1]);
        together(
            &w,
            vec![
                act(move |w| w.begin(signaller, Op::Signal, 0, &[at])),
                act(move |w| {
                    // It does not wait until nobody uses the old one.
                    w.begin(other, Op::Delete, 0, &[at]);
                    w.begin(other, Op::Delegate, 0, &[m, 1, at, ALL, 2]);
                    assert_eq!(world::result(other).map(|_| ()), Ok(()));
                }),
            ],
        );
        let (old, new) = (bits(&w, n), bits(&w, m));
        match world::result(signaller) {
            Ok(_) => assert!((old, new) == (1, 0) || (old, new) == (0, 2), "{old} {new}"),
            Err(status) => assert_eq!((status, old, new), (Status::BadCapability, 0, 0)),
        }
    });
}

#[test]
fn a_signal_meets_its_own_capability_again() {
    in_all_schedules(3, || {
        let (w, [signaller, other]) = machine();
        let (n, at) = (w.notification(), w.selector() as u64);
        let (memory, aside) = (w.selector() as u64, w.selector() as u64);
        w.root(Op::Delegate, &[n, 1, at, ALL, 1]);
        let ram = [world::RAM as u64, 1, memory, ALL, 0x7000, 0x1000];
        w.root(Op::Delegate, &ram);
        together(
            &w,
            vec![
                act(move |w| w.begin(signaller, Op::Signal, 0, &[at])),
                act(move |w| {
                    // Memory is there for a moment, whose address would be a fine badge.
                    for (from, to) in [(at, aside), (memory, at), (at, memory), (aside, at)] {
                        w.begin(other, Op::Delegate, 0, &[from, 1, to, 0, 0, 0, 1]);
                        assert_eq!(world::result(other).map(|_| ()), Ok(()));
                    }
                }),
            ],
        );
        let signalled = world::result(signaller).is_ok();
        assert_eq!(bits(&w, n), u64::from(signalled));
    });
}

#[test]
fn a_signal_meets_the_end_of_its_notification() {
    in_all_schedules(1, || {
        let (w, [signaller, killer]) = machine();
        let n = w.notification();
        let address = w.object::<Notification>(n as u32).object.address();
        together(
            &w,
            vec![
                act(move |w| w.begin(signaller, Op::Signal, 0, &[n])),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[n]).is_ok());
                    check_freed(address);
                }),
            ],
        );
        check_freed(address);
    });
}

#[test]
fn who_reclaims_spares_what_ended_later() {
    in_all_schedules(1, || {
        let (w, [signaller, killer, reclaimer]) = machine();
        let (n, other) = (w.notification(), w.notification());
        let address = w.object::<Notification>(n as u32).object.address();
        // One end is done but for its last step when another one begins.
        w.begin(reclaimer, Op::Delete, 0, &[other]);
        (0..3).for_each(|cpu| w.interrupts(cpu));
        together(
            &w,
            vec![
                act(move |w| w.begin(signaller, Op::Signal, 0, &[n])),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[n]).is_ok());
                }),
                act(move |w| {
                    w.on(2);
                    w.again(reclaimer);
                    assert!(!w.restarts(reclaimer));
                }),
            ],
        );
        check_freed(address);
    });
}

#[test]
fn an_epoch_begins_while_another_is_passed() {
    in_all_schedules(1, || {
        let (w, _threads) = machine::<3>();
        epoch::unlinked();
        let wait = |cpu: u32| {
            act(move |w| {
                let round = epoch::begin();
                while !epoch::is_over(round) {
                    shuttle::thread::yield_now();
                    w.interrupts(cpu);
                }
            })
        };
        together(&w, vec![wait(0), wait(1), act(|_| ())]);
    });
}

#[test]
fn a_waiter_meets_the_end_of_its_notification() {
    in_all_schedules(1, || {
        let (w, [waiter, killer]) = machine();
        let n = w.notification();
        let address = w.object::<Notification>(n as u32).object.address();
        together(
            &w,
            vec![
                act(move |w| {
                    w.begin(waiter, Op::Wait, 0, &[n, u64::MAX]);
                    w.run(0);
                }),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[n]).is_ok());
                }),
            ],
        );
        let status = world::result(waiter).unwrap_err();
        assert!(matches!(status, Status::Aborted | Status::BadCapability));
        assert_eq!(w.run(0), Running::User(waiter));
        check_freed(address);
    });
}

#[test]
fn a_signal_arrives_whole_or_not_at_all_at_the_end() {
    in_all_schedules(1, || {
        let (w, [killer, signaller]) = machine();
        let waiter = w.client(1, 6).object;
        let n = w.notification();
        assert_eq!(w.run(1), Running::User(waiter));
        w.begin(waiter, Op::Wait, 0, &[n, u64::MAX]);
        assert_eq!(w.run(1), Running::User(signaller));
        together(
            &w,
            vec![
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[n]).is_ok());
                }),
                act(move |w| w.begin(signaller, Op::Signal, 0, &[n])),
            ],
        );
        match world::result(waiter) {
            Ok(results) => assert_eq!(results[1], u64::MAX),
            Err(status) => assert_eq!(status, Status::Aborted),
        }
    });
}

#[test]
fn a_portal_is_bound_to_a_thread_that_ends() {
    in_all_schedules(2, || {
        let (w, [caller, killer]) = machine();
        let handler = w.thread(1);
        let at = w.selector() as u64;
        let args = [1, at, handler.at as u64, 5, 0];
        together(
            &w,
            vec![
                act(move |w| w.begin(caller, Op::CreatePortal, 0, &args)),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[handler.at as u64]).is_ok());
                }),
            ],
        );
        match world::result(caller) {
            Ok(_) => assert!(w.object::<Portal>(at as u32).object.handler().is_none()),
            Err(status) => assert_eq!(status, Status::BadCapability),
        }
    });
}

#[test]
fn time_is_bound_to_a_thread_that_ends() {
    in_all_schedules(2, || {
        let (w, [binder, killer]) = machine();
        let (thread, sched) = (w.thread(1), w.sched(1, 9, 0, 0));
        let args = [sched.at as u64, thread.at as u64];
        together(
            &w,
            vec![
                act(move |w| w.begin(binder, Op::BindSched, 0, &args)),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[thread.at as u64]).is_ok());
                }),
            ],
        );
        // It can be bound again.
        let next = w.thread(1);
        w.bind(sched, next);
        assert_eq!(w.run(1), Running::User(next.object));
    });
}

#[test]
fn a_delegation_meets_the_end_of_its_source() {
    for op in [Op::Revoke, Op::Delete] {
        in_all_schedules(2, move || {
            let (w, [giver, taker]) = machine();
            let (n, source, child, grandchild) =
                (w.notification(), w.selector(), w.selector(), w.selector());
            let [source, child, grandchild] = [source, child, grandchild].map(u64::from);
            w.root(Op::Delegate, &[n, 1, source, ALL, 3]);
            w.root(Op::Delegate, &[source, 1, child, ALL, 3]);
            together(
                &w,
                vec![
                    act(move |w| w.begin(giver, Op::Delegate, 0, &[child, 1, grandchild, ALL, 1])),
                    act(move |w| {
                        assert!(completes(w, taker, op, &[source]).is_ok());
                        let slot = |at: u64| w.root.slot(Selector(at as u32)).unwrap();
                        assert!(slot(child).is_free());
                    }),
                ],
            );
            let gone = w.try_root(Op::Signal, &[grandchild]);
            assert_eq!(gone, Err(Status::BadCapability));
            let tree = slot::lock();
            let origin = w.root.slot(Selector(n as u32)).unwrap();
            assert_eq!(origin.first_child(&tree).is_some(), op == Op::Revoke);
        });
    }
}

/// A thread that waits for a notification on CPU 0: itself, and the notification.
fn waiting(w: &World) -> (Object<Thread>, u64) {
    let (waiter, n) = (w.client(0, 9), w.notification());
    assert_eq!(w.run(0), Running::User(waiter.object));
    w.begin(waiter.object, Op::Wait, 0, &[n, u64::MAX]);
    w.run(0);
    (waiter, n)
}

#[test]
fn a_call_with_capabilities_meets_the_end_of_its_portal() {
    in_all_schedules(1, || {
        let (w, [caller, killer]) = machine();
        let server = w.thread(0);
        let (portal, n) = (w.portal(server, 7), w.notification());
        let base = w.selector();
        let window = Window { base, slots: 1 };
        server.object.utcb.write(0, window.to_word());
        let item = Item {
            source: Selector(n as u32),
            rights: Rights::SIGNAL.bits(),
            flags: 0,
            first: 1,
            second: 0,
        };
        for (i, word) in item.to_words().into_iter().enumerate() {
            caller.utcb.write(8 + Item::place(0) + i, word);
        }
        together(
            &w,
            vec![
                act(move |w| {
                    w.begin_with(caller, Tag::new(Op::Call, 0).with_items(1), &[portal]);
                    while w.restarts(caller) {
                        shuttle::thread::yield_now();
                        w.interrupts(0);
                        w.again(caller);
                    }
                }),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[portal]).is_ok());
                }),
            ],
        );
        // Both have arrived, or none.
        let called = world::state(server) == State::Ready;
        let slot = w.root.slot(Selector(base)).unwrap();
        assert_eq!(called, !slot.is_free());
    });
}

#[test]
fn a_line_is_bound_anew_while_its_notification_ends() {
    in_all_schedules(1, || {
        let (w, [_, killer, binder]) = machine();
        // Its CPU takes the line away.
        let (_, n) = waiting(&w);
        let (line, m) = (world::LINES as u64, w.notification());
        w.root(Op::InterruptBind, &[line, n, 1]);
        together(
            &w,
            vec![
                act(|_| ()),
                act(move |w| {
                    assert!(completes(w, killer, Op::Delete, &[n]).is_ok());
                }),
                act(move |w| {
                    let bind = || completes(w, binder, Op::InterruptBind, &[line, m, 1]);
                    while bind().err() == Some(Status::Busy) {
                        shuttle::thread::yield_now();
                    }
                }),
            ],
        );
        assert!(world::result(binder).is_ok());
        assert!(!arch::LINES[0].masked.load(Ordering::SeqCst));
    });
}

#[test]
fn two_ends_of_one_thing() {
    in_all_schedules(1, || {
        let (w, [first, second]) = machine();
        let domain = w.selector() as u64;
        w.root(Op::CreateDomain, &[1, domain, 4, 8]);
        world::use_table(w.object(domain as u32).object, 8);
        w.root(Op::CreateNotification, &[domain, w.selector() as u64]);
        let (used, free) = (w.root.quota().1, mem::free_pages());
        together(
            &w,
            vec![
                act(move |w| {
                    let _ = completes(w, first, Op::Delete, &[domain]);
                }),
                act(move |w| {
                    let _ = completes(w, second, Op::Delete, &[domain]);
                }),
            ],
        );
        let cost = Domain::overhead(8) + 4;
        assert_eq!(w.root.quota().1, used - cost);
        // A page of its quota had been taken.
        assert_eq!(mem::free_pages(), free + Domain::overhead(8) + 1);
        for thread in [first, second] {
            let status = world::result(thread).err();
            assert!(matches!(status, None | Some(Status::BadCapability)));
        }
    });
}

#[test]
fn a_quota_is_not_exceeded() {
    in_all_schedules(3, || {
        let (w, [first, second]) = machine();
        let (domain, a, b) = (w.selector() as u64, w.selector(), w.selector());
        w.root(Op::CreateDomain, &[1, domain, 5, 8]);
        // Each takes a page and those of its table; both do not fit.
        let create = |thread, at: u32| {
            act(move |w| w.begin(thread, Op::CreateDomain, 0, &[domain, at as u64, 0, 8]))
        };
        together(&w, vec![create(first, a), create(second, b)]);
        let done = [first, second].map(|thread| world::result(thread).is_ok());
        assert!(done == [true, false] || done == [false, true], "{done:?}");
        assert_eq!(w.object::<Domain>(domain as u32).object.quota(), (5, 3));
    });
}
