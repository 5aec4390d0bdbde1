//! Which CPUs a revocation interrupts and waits for, and that none of them keeps a translation.

use super::Object;
use super::world::{DOMAIN, PORTS, RAM, World};
use crate::mem::PAGE;
use crate::thread::Thread;
use abi::Op;
use core::sync::atomic::Ordering;
use proptest::prelude::*;

const ROOT: u64 = DOMAIN as u64;

/// A space with a thread on each of `cpus`, of a domain of its own; which has some for more.
fn space(w: &World, cpus: &[u32]) -> u64 {
    let [domain, space] = [(); 2].map(|()| w.selector() as u64);
    w.root(Op::CreateDomain, &[ROOT, domain, 60, 4]);
    w.root(Op::CreateSpace, &[domain, space, 0]);
    for (i, &cpu) in cpus.iter().enumerate() {
        let (thread, utcb) = (w.selector() as u64, 0x7000 + i as u64 * PAGE);
        let args = [domain, thread, domain, space, cpu as u64, utcb, 0x2000];
        w.root(Op::CreateThread, &args);
    }
    space
}

/// Maps a page of the root's memory.
fn map(w: &World, space: u64, address: u64) -> u64 {
    let at = w.selector() as u64;
    w.root(Op::Map, &[RAM as u64, space, at, 0, address, PAGE, 3]);
    at
}

fn is_interrupted(w: &World, cpu: u32) -> bool {
    w.cpu(cpu).arch.interrupted.load(Ordering::SeqCst)
}

fn flushes(w: &World, cpu: u32) -> u64 {
    w.cpu(cpu).arch.flushes.load(Ordering::SeqCst)
}

/// The CPUs that a call of `thread`, on CPU 0, interrupts and waits for; it is over when they have passed.
fn waits_for(w: &World, thread: Object<Thread>, op: Op, args: &[u64]) -> Vec<u32> {
    let before: Vec<u64> = (0..4).map(|cpu| flushes(w, cpu)).collect();
    w.begin(thread.object, op, 0, args);
    // It restarts between its steps, too.
    let asked: Vec<u32> = loop {
        let asked: Vec<u32> = (0..4).filter(|&cpu| is_interrupted(w, cpu)).collect();
        if !asked.is_empty() || !w.restarts(thread.object) {
            break asked;
        }
        w.again(thread.object);
    };
    for &cpu in &asked {
        w.again(thread.object);
        assert!(w.restarts(thread.object), "{op:?} waits for CPU {cpu}");
        w.interrupts(cpu);
        w.on(0);
    }
    while w.restarts(thread.object) {
        w.again(thread.object);
    }
    assert_eq!(w.result(thread).map(|_| ()), Ok(()));
    for cpu in 1..4 {
        let flushed = flushes(w, cpu) != before[cpu as usize];
        assert_eq!(flushed, asked.contains(&cpu), "CPU {cpu}");
    }
    asked
}

fn killer(w: &World) -> Object<Thread> {
    let killer = w.client(0, 9);
    w.run(0);
    killer
}

#[test]
fn only_cpus_that_use_the_space_are_waited_for() {
    let w = World::new(4);
    let killer = killer(&w);
    let revoke = |cpus: &[u32]| {
        let space = space(&w, cpus);
        let mapping = map(&w, space, 0x10_0000);
        waits_for(&w, killer, Op::Delete, &[mapping])
    };
    assert_eq!(revoke(&[1]), [1]);
    assert_eq!(revoke(&[3, 1]), [1, 3]);
    assert_eq!(revoke(&[]), [0u32; 0]);
    assert_eq!(revoke(&[0]), [0u32; 0]);
    assert_eq!(revoke(&[0, 2]), [2]);
}

#[test]
fn a_guest_space_is_used_where_its_vcpus_are() {
    let w = World::new(4);
    let killer = killer(&w);
    let [domain, host, guest, vcpu] = [(); 4].map(|()| w.selector() as u64);
    w.root(Op::CreateDomain, &[ROOT, domain, 60, 4]);
    w.root(Op::CreateSpace, &[domain, host, 0]);
    w.root(Op::CreateSpace, &[domain, guest, 1]);
    let args = [domain, vcpu, domain, guest, 2, host, 0x9000, 0];
    w.root(Op::CreateVcpu, &args);
    let (in_guest, in_host) = (map(&w, guest, 0), map(&w, host, PAGE));
    assert_eq!(waits_for(&w, killer, Op::Delete, &[in_guest]), [2]);
    assert_eq!(waits_for(&w, killer, Op::Delete, &[in_host]), [0u32; 0]);
}

#[test]
fn ports_are_given_and_taken_where_they_are_used() {
    let w = World::new(4);
    let killer = killer(&w);
    let space = space(&w, &[1]);
    let at = w.selector() as u64;
    let args = [PORTS as u64, space, at, 0x3f8, 0x3f8, 8, 3];
    assert_eq!(waits_for(&w, killer, Op::Map, &args), [1]);
    assert_eq!(waits_for(&w, killer, Op::Delete, &[at]), [1]);
}

#[test]
fn what_any_cpu_may_have_found_is_unused_on_all() {
    let w = World::new(4);
    let killer = killer(&w);
    let notification = w.notification();
    let copy = w.selector() as u64;
    w.root(Op::Delegate, &[notification, ROOT, copy, 0xff, u64::MAX, 0, 0]);
    for args in [[copy], [notification]] {
        assert_eq!(waits_for(&w, killer, Op::Delete, &args), [1, 2, 3]);
    }
    // Memory is found with the tree locked: with it, nothing is left to wait for.
    let part = w.selector() as u64;
    let deeper = w.selector() as u64;
    w.root(Op::Delegate, &[RAM as u64, ROOT, part, 0xff, 0, PAGE]);
    w.root(Op::Delegate, &[part, ROOT, deeper, 0xff, 0, PAGE]);
    assert_eq!(waits_for(&w, killer, Op::Revoke, &[RAM as u64]), [0u32; 0]);
}

#[test]
fn a_revocation_waits_for_what_an_unfinished_one_took() {
    let w = World::new(4);
    let (first, second) = (w.client(0, 9), w.client(0, 9));
    let space = space(&w, &[1]);
    map(&w, space, 0x10_0000);
    w.run(0);
    w.begin(first.object, Op::Revoke, 0, &[RAM as u64]);
    assert!(w.restarts(first.object));
    // Whoever began it does not go on. CPU 1 has not taken the interrupt.
    w.cpu(0).yielded.set(true);
    w.cpu(0).reschedule.set(true);
    w.step(0);
    assert_eq!(waits_for(&w, second, Op::Revoke, &[RAM as u64]), [1]);
    assert_eq!(waits_for(&w, second, Op::Revoke, &[RAM as u64]), [0u32; 0]);
}

#[test]
fn an_interrupt_for_something_else_flushes_nothing() {
    let w = World::new(4);
    let killer = killer(&w);
    let space = space(&w, &[1]);
    let waiter = w.client(2, 5);
    w.run(2);
    let n = w.notification();
    w.does(waiter, Op::Wait, &[n, u64::MAX]);
    w.on(0);
    let before = flushes(&w, 2);
    let mapping = map(&w, space, 0x10_0000);
    w.begin(killer.object, Op::Delete, 0, &[mapping]);
    w.on(0);
    crate::notification::signal(&w.cpu(0), w.object(n as u32).object, 1);
    assert!(is_interrupted(&w, 2));
    w.run(2);
    assert_eq!(flushes(&w, 2), before);
    w.on(0);
}

/// A translation that a CPU has kept since its `flushes`-th flush.
struct Kept {
    cpu: u32,
    flushes: u64,
    mapping: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_stale_translation_remains(
        uses in prop::array::uniform3(prop::sample::subsequence(vec![0u32, 1, 2, 3], 0..4)),
        history in prop::collection::vec((0..5u8, 0..3usize, 0..4u32), 1..60),
    ) {
        let w = World::new(4);
        let client = w.client(0, 9);
        let spaces = uses.clone().map(|cpus| space(&w, &cpus));
        let mut mapped: Vec<(u64, usize)> = Vec::new();
        let mut kept: Vec<Kept> = Vec::new();
        let mut next = 0x10_0000;
        w.run(0);
        for (what, which, cpu) in history {
            match what {
                // Maps, and every CPU that can uses what is mapped.
                0 | 1 => {
                    mapped.push((map(&w, spaces[which], next), which));
                    next += PAGE;
                    for &(mapping, space) in &mapped {
                        for &cpu in &uses[space] {
                            kept.push(Kept { cpu, flushes: flushes(&w, cpu), mapping });
                        }
                    }
                    w.run(0);
                }
                // Takes the interrupts of one CPU.
                2 => w.interrupts(cpu),
                _ if mapped.is_empty() => {}
                // Somebody begins to take one back; before that is over, all is taken back.
                3 => {
                    let (mapping, _) = mapped[which % mapped.len()];
                    w.begin(client.object, Op::Delete, 0, &[mapping]);
                    w.interrupts(cpu);
                    w.root(Op::Revoke, &[RAM as u64]);
                    mapped.clear();
                    w.run(0);
                }
                _ => {
                    let (mapping, space) = mapped.swap_remove(which % mapped.len());
                    let before: Vec<u64> = (0..4).map(|cpu| flushes(&w, cpu)).collect();
                    let waiting: Vec<bool> = (0..4).map(|cpu| is_interrupted(&w, cpu)).collect();
                    w.root(Op::Delete, &[mapping]);
                    for cpu in 0..4 {
                        let flushed = flushes(&w, cpu) != before[cpu as usize];
                        let needs = uses[space].contains(&cpu) || waiting[cpu as usize];
                        prop_assert!(!flushed || needs, "CPU {}", cpu);
                    }
                }
            }
            let valid = |k: &&Kept| flushes(&w, k.cpu) == k.flushes;
            for k in kept.iter().filter(valid) {
                prop_assert!(
                    mapped.iter().any(|&(mapping, _)| mapping == k.mapping),
                    "CPU {} still has {}", k.cpu, k.mapping
                );
            }
        }
    }
}
