//! Quotas: given, taken back, exhausted; and books that balance whatever happens.

use super::world::{DOMAIN, RAM, World, use_table};
use crate::cell::Ref;
use crate::domain::Domain;
use crate::mem::{self, PAGE};
use crate::thread::Thread;
use abi::{Op, Rights, Status};
use proptest::prelude::*;

const ROOT: u64 = DOMAIN as u64;
const SLOTS: u64 = 4;

fn domain(w: &World, payer: u64, quota: u64) -> u64 {
    let at = w.selector() as u64;
    w.root(Op::CreateDomain, &[payer, at, quota, SLOTS]);
    use_table(w.object(at as u32).object, SLOTS as u32);
    at
}

fn quota(w: &World, at: u64) -> (u64, u64) {
    let r = w.root(Op::QuotaQuery, &[at]);
    (r[1], r[2])
}

fn status(w: &World, op: Op, args: &[u64]) -> Result<(), Status> {
    w.try_root(op, args).map(|_| ())
}

#[test]
fn what_is_free_moves_between_a_domain_and_its_payer() {
    let w = World::new(1);
    let outer = domain(&w, ROOT, 30);
    let inner = domain(&w, outer, 5);
    let overhead = Domain::overhead(SLOTS as u32);
    assert_eq!(quota(&w, outer), (30, 5 + overhead));
    w.root(Op::QuotaGive, &[outer, inner, 7]);
    assert_eq!(quota(&w, outer), (30, 12 + overhead));
    assert_eq!(quota(&w, inner), (12, 0));
    let before = quota(&w, ROOT);
    w.root(Op::CreateSpace, &[inner, 99, 0]);
    // One page of small objects and the root of the tables are used.
    assert_eq!(status(&w, Op::QuotaTake, &[outer, inner, 11]), Err(Status::Quota));
    w.root(Op::QuotaTake, &[outer, inner, 10]);
    assert_eq!(quota(&w, inner), (2, 2));
    assert_eq!(quota(&w, outer), (30, 2 + overhead));
    assert_eq!(quota(&w, ROOT), before, "what is within a quota is nobody else's");
    w.delete(inner as u32);
    assert_eq!(quota(&w, outer), (30, 0));
}

#[test]
fn quota_moves_only_along_what_was_paid_and_with_the_right_to_it() {
    let w = World::new(1);
    let (first, second) = (domain(&w, ROOT, 10), domain(&w, ROOT, 10));
    let inner = domain(&w, first, 1);
    let weak = w.selector() as u64;
    let rights = (Rights::all() - Rights::CREATE).bits() as u64;
    w.root(Op::Delegate, &[first, ROOT, weak, rights]);
    for op in [Op::QuotaGive, Op::QuotaTake] {
        for (args, expected) in [
            ([first, second, 1], Status::BadArgument),
            ([ROOT, inner, 1], Status::BadArgument),
            ([first, first, 1], Status::BadArgument),
            ([inner, first, 1], Status::BadArgument),
            ([ROOT, ROOT, 1], Status::BadArgument),
            ([ROOT, weak, 1], Status::Denied),
            ([weak, inner, 1], Status::Denied),
            ([ROOT, RAM as u64, 1], Status::BadCapability),
            ([ROOT, first, u64::MAX], Status::Quota),
        ] {
            assert_eq!(status(&w, op, &args), Err(expected), "{op:?} {args:?}");
        }
    }
    assert_eq!(quota(&w, second), (10, 0));
}

#[test]
fn nothing_is_given_to_a_domain_that_ends() {
    let w = World::new(2);
    let (killer, other) = (w.client(0, 5), w.client(0, 5));
    let victim = domain(&w, ROOT, 10);
    w.root(Op::CreateSpace, &[victim, 98, 0]);
    w.root(Op::CreateThread, &[victim, 97, victim, 98, 1, 0x7000, 0x2000]);
    let held: Ref<Domain> = w.object(victim as u32).object;
    w.run(0);
    // A thread of it is still to be detached by the other CPU.
    w.begin(killer.object, Op::Delete, 0, &[victim]);
    assert!(w.restarts(killer.object) && held.is_dying());
    w.cpu(0).yielded.set(true);
    w.cpu(0).reschedule.set(true);
    w.step(0);
    let tree = crate::slot::lock();
    assert_eq!(w.root.give(&tree, &held, 1), Err(Status::Dead));
    assert_eq!(w.root.take_back(&tree, &held, 1), Err(Status::Dead));
    drop(tree);
    w.begin(other.object, Op::QuotaGive, 0, &[ROOT, victim, 1]);
    assert_eq!(w.result(other), Err(Status::BadCapability));
}

/// `a1` after a call of `thread` that fails for want of quota.
fn payer(w: &World, thread: Ref<Thread>, op: Op, args: &[u64]) -> u64 {
    w.begin(thread, op, 0, args);
    while w.restarts(thread) {
        w.interrupts(0);
        w.again(thread);
    }
    assert_eq!(super::world::result(thread), Err(Status::Quota), "{op:?}");
    thread.with_frame(|frame| frame.args()[1])
}

#[test]
fn exhaustion_names_who_has_to_pay() {
    let w = World::new(1);
    let client = w.client(0, 9);
    let poor = domain(&w, ROOT, 2);
    let empty = domain(&w, ROOT, 0);
    w.root(Op::CreateSpace, &[poor, 90, 0]);
    w.run(0);
    let call = |op, args: &[u64]| payer(&w, client.object, op, args);
    assert_eq!(call(Op::CreateNotification, &[empty, 91]), 0);
    assert_eq!(call(Op::CreateSpace, &[empty, 91, 0]), 0);
    assert_eq!(call(Op::CreateDomain, &[poor, 91, 9, 1]), 0);
    // The caller holds space and memory; tables are its maker's to pay.
    let map = [RAM as u64, 90, 92, 0, 0x4000, PAGE, 1];
    assert_eq!(call(Op::Map, &map), 1);
    assert_eq!(call(Op::QuotaGive, &[ROOT, poor, u64::MAX]), 0);
    assert_eq!(call(Op::QuotaTake, &[ROOT, poor, 1]), 1);
}

/// A domain of a random history.
struct Node {
    at: u64,
    parent: Option<usize>,
    spaces: u64,
}

/// What all domains use beside what they gave to others, and what is free: all of the kernel's memory.
fn total(w: &World, nodes: &[Node]) -> u64 {
    let mut total = mem::free_pages();
    for node in nodes {
        let (limit, used) = quota(w, node.at);
        assert!(used <= limit);
        total += used;
        if node.parent.is_some() {
            // In its payer's books, too, where it is only promised.
            total -= limit;
        }
    }
    total
}

/// A step: what, where, with whom, how much.
type Step = (u8, u8, u8, u64);

fn apply(w: &World, nodes: &mut Vec<Node>, step: Step) {
    let (what, first, second, pages) = step;
    let first = first as usize % nodes.len();
    let second = second as usize % nodes.len();
    let (payer, other) = (nodes[first].at, nodes[second].at);
    let free = |at| {
        let (limit, used) = quota(w, at);
        limit - used
    };
    match what {
        0 => {
            let at = w.selector() as u64;
            if status(w, Op::CreateDomain, &[payer, at, pages, SLOTS]).is_ok() {
                use_table(w.object(at as u32).object, SLOTS as u32);
                nodes.push(Node { at, parent: Some(first), spaces: 0 });
            }
        }
        1 | 2 => {
            let op = [Op::QuotaGive, Op::QuotaTake][what as usize - 1];
            let expected = if nodes[second].parent != Some(first) {
                Err(Status::BadArgument)
            } else if free(if what == 1 { payer } else { other }) < pages {
                Err(Status::Quota)
            } else {
                Ok(())
            };
            assert_eq!(status(w, op, &[payer, other, pages]), expected);
        }
        3 => {
            let _ = status(w, Op::CreateNotification, &[payer, w.selector() as u64]);
        }
        4 => {
            let at = w.selector() as u64;
            if status(w, Op::CreateSpace, &[payer, at, pages % 2]).is_ok() {
                nodes[first].spaces = at;
            }
        }
        5 => {
            let map = [
                RAM as u64,
                nodes[first].spaces,
                w.selector() as u64,
                0,
                pages << 30 | PAGE,
                40 * PAGE,
                3,
            ];
            let _ = status(w, Op::Map, &map);
        }
        6 => {
            // With all that it paid for; its objects of other kinds go with it.
            let mut gone = vec![first];
            for (i, node) in nodes.iter().enumerate() {
                if node.parent.is_some_and(|parent| gone.contains(&parent)) {
                    gone.push(i);
                }
            }
            w.root(Op::Delete, &[payer]);
            let place: Vec<Option<usize>> = (0..nodes.len())
                .scan(0, |next, i| {
                    let stays = !gone.contains(&i);
                    let at = stays.then_some(*next);
                    *next += stays as usize;
                    Some(at)
                })
                .collect();
            let mut index = 0;
            nodes.retain(|_| {
                index += 1;
                !gone.contains(&(index - 1))
            });
            for node in nodes {
                node.parent = node.parent.and_then(|parent| place[parent]);
            }
        }
        _ => {
            let at = nodes[first].spaces;
            if at != 0 && status(w, Op::Delete, &[at]).is_ok() {
                nodes[first].spaces = 0;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn books_balance_after_any_history(
        history in prop::collection::vec((0..8u8, any::<u8>(), any::<u8>(), 0..30u64), 1..60),
    ) {
        let w = World::new(1);
        // A page of small objects is there whatever comes.
        w.notification();
        let start = (quota(&w, ROOT), mem::free_pages());
        let mut nodes = vec![Node { at: ROOT, parent: None, spaces: 0 }];
        let top = domain(&w, ROOT, 100);
        nodes.push(Node { at: top, parent: Some(0), spaces: 0 });
        let sum = total(&w, &nodes);
        for mut step in history {
            // What the root itself pays for stays until its end, and one domain of it does.
            if step.0 >= 3 && (step.1 as usize).is_multiple_of(nodes.len()) {
                step.1 = 1;
            }
            if step.0 == 6 && step.1 as usize % nodes.len() == 1 {
                continue;
            }
            apply(&w, &mut nodes, step);
            prop_assert_eq!(total(&w, &nodes), sum);
        }
        for node in nodes.iter().skip(1).filter(|node| node.parent == Some(0)) {
            w.root(Op::Delete, &[node.at]);
        }
        prop_assert_eq!((quota(&w, ROOT), mem::free_pages()), start);
    }
}
