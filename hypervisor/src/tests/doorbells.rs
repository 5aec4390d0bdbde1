//! Doorbells: what a guest's write signals, and when it does not any more.

use super::world::{DOMAIN, World};
use super::{Object, Running};
use crate::doorbell::MAX_DOORBELLS;
use crate::space::{GUEST_END, Space};
use crate::thread::Thread;
use crate::vcpu::{Exit, Vcpu};
use abi::vcpu::{EXIT_KINDS, ExitKind, FAULT_READ, FAULT_WRITE};
use abi::{Op, Rights, Status};
use proptest::prelude::*;
use std::collections::BTreeMap;

const MEMORY: u64 = 0;
const PORTS: u64 = 1;
/// Words of [`ExitKind::Io`].
const OUT: u64 = 1 << 16;
const IN: u64 = OUT | 1 << 24;
const STRING: u64 = OUT | 1 << 25;

/// A vCPU on CPU 0 that runs, and its monitor's thread.
struct Vm {
    w: World,
    vcpu: Object<Vcpu>,
    monitor: Object<Thread>,
    guest: u64,
}

impl Vm {
    fn new(cpus: u32) -> Vm {
        let w = World::new(cpus);
        let monitor = w.thread(0);
        let guest = w.selector() as u64;
        w.root(Op::CreateSpace, &[DOMAIN as u64, guest, 1]);
        let first = w.portal(monitor, 0);
        for kind in 1..EXIT_KINDS as u64 {
            assert_eq!(w.portal(monitor, kind), first + kind);
        }
        let at = w.selector();
        let args = [1, at as u64, 1, guest, 0, 2, w.page(), first];
        w.root(Op::CreateVcpu, &args);
        let vcpu = w.object::<Vcpu>(at);
        w.bind(w.sched(0, 5, 0, 0), vcpu);
        assert_eq!(w.run(0), Running::User(monitor.object));
        w.does(monitor, Op::ReplyWait, &[0, 0]);
        Vm { w, vcpu, monitor, guest }
    }

    fn bind(&self, n: u64, kind: u64, first: u64, size: u64) -> Result<u64, Status> {
        let at = self.w.selector() as u64;
        let args = [n, self.guest, at, kind, first, size];
        self.w.try_root(Op::BindDoorbell, &args).map(|_| at)
    }

    /// The guest leaves with this exit; whether it goes on without the monitor.
    fn goes_on(&self, kind: ExitKind, length: u8, info: [u64; 3]) -> bool {
        let exit = Exit { kind, instruction_length: length, info };
        let arch = &self.vcpu.object.arch;
        arch.with_mut(|arch| arch.next_exit = Some(exit));
        match self.w.run(0) {
            Running::Guest(_) => true,
            told => {
                assert_eq!(told, Running::User(self.monitor.object));
                let args = self.w.result(self.monitor).unwrap();
                assert_eq!(args[0], kind as u64);
                assert_eq!([args[2], args[3], args[4]], info);
                self.w.does(self.monitor, Op::ReplyWait, &[0, 0]);
                false
            }
        }
    }

    fn writes(&self, at: u64) -> bool {
        self.goes_on(ExitKind::StageTwoFault, 4, [FAULT_WRITE, at, 0])
    }

    fn outputs(&self, port: u64) -> bool {
        self.goes_on(ExitKind::Io, 1, [OUT | port, 0, 0])
    }

    /// The bits of `n` that were set.
    fn bits(&self, n: u64) -> u64 {
        self.w.try_root(Op::Wait, &[n, 0]).map_or(0, |r| r[1])
    }

    fn skipped(&self) -> u64 {
        self.vcpu.object.arch.with_mut(|arch| arch.skipped)
    }

    /// A capability to `n` that signals `bits`.
    fn badge(&self, n: u64, bits: u64) -> u64 {
        let at = self.w.selector() as u64;
        let rights = Rights::SIGNAL.bits() as u64;
        self.w.root(Op::Delegate, &[n, DOMAIN as u64, at, rights, bits]);
        at
    }
}

#[test]
fn a_write_in_the_range_signals_and_the_guest_goes_on() {
    let vm = Vm::new(1);
    let n = vm.w.notification();
    vm.bind(vm.badge(n, 0b100), MEMORY, 0x1050, 4).unwrap();
    vm.bind(vm.badge(n, 0b010), PORTS, 0x1050, 2).unwrap();
    for (at, inside) in [(0x104f, false), (0x1050, true), (0x1053, true), (0x1054, false)] {
        assert_eq!(vm.writes(at), inside, "{at:#x}");
        assert_eq!(vm.bits(n), if inside { 0b100 } else { 0 });
    }
    assert_eq!(vm.skipped(), 8);
    for (at, inside) in [(0x104f, false), (0x1050, true), (0x1051, true), (0x1052, false)] {
        assert_eq!(vm.outputs(at), inside, "{at:#x}");
        assert_eq!(vm.bits(n), if inside { 0b010 } else { 0 });
    }
    assert_eq!(vm.skipped(), 10);
}

#[test]
fn all_else_there_is_the_monitors() {
    let vm = Vm::new(1);
    let n = vm.w.notification();
    vm.bind(n, MEMORY, 0x1000, 8).unwrap();
    vm.bind(n, PORTS, 0x10, 8).unwrap();
    use ExitKind::{Io, StageTwoFault};
    assert!(!vm.goes_on(StageTwoFault, 4, [FAULT_READ, 0x1000, 0]));
    // The length of the instruction is not known.
    assert!(!vm.goes_on(StageTwoFault, 0, [FAULT_WRITE, 0x1000, 0]));
    assert!(!vm.goes_on(Io, 1, [IN | 0x10, 0, 0]));
    assert!(!vm.goes_on(Io, 1, [STRING | 0x10, 0, 0]));
    assert!(!vm.goes_on(ExitKind::Hypercall, 3, [0; 3]));
    assert_eq!(vm.bits(n), 0);
    assert_eq!(vm.skipped(), 0);
}

#[test]
fn the_waiter_is_woken_wherever_it_is() {
    for cpu in [0, 1] {
        let vm = Vm::new(2);
        let waiter = vm.w.client(cpu, 9);
        let n = vm.w.notification();
        vm.bind(n, MEMORY, 0, 1).unwrap();
        assert_eq!(vm.w.run(cpu), Running::User(waiter.object));
        vm.w.does(waiter, Op::Wait, &[n, u64::MAX]);
        // On its own CPU it is the more important one, and runs instead of the guest.
        let here = cpu == 0;
        let exit = Exit {
            kind: ExitKind::StageTwoFault,
            instruction_length: 4,
            info: [FAULT_WRITE, 0, 0],
        };
        let arch = &vm.vcpu.object.arch;
        arch.with_mut(|arch| arch.next_exit = Some(exit));
        let next = vm.w.run(0);
        assert_eq!(next == Running::User(waiter.object), here, "{next:?}, CPU {cpu}");
        assert_eq!(vm.w.run(cpu), Running::User(waiter.object));
        assert_eq!(vm.w.result(waiter).unwrap()[1], u64::MAX);
    }
}

#[test]
fn a_doorbell_ends_with_its_capability_the_badge_and_the_notification() {
    let vm = Vm::new(2);
    let used = vm.w.root.quota().1;
    let n = vm.w.notification();
    let badge = vm.badge(n, 1);
    let bind = |from| vm.bind(from, MEMORY, 0x1000, 8).unwrap();
    let mapping = bind(badge);
    assert!(vm.writes(0x1000));
    let flushes = || {
        let arch = &vm.w.cpu(1).arch;
        arch.flushes.load(std::sync::atomic::Ordering::SeqCst)
    };
    let before = flushes();
    vm.w.delete(mapping as u32);
    assert!(!vm.writes(0x1000));
    // A CPU that had found it rings it no more.
    assert_ne!(flushes(), before);
    bind(badge);
    vm.w.root(Op::Revoke, &[badge]);
    assert!(!vm.writes(0x1000));
    bind(badge);
    vm.w.root(Op::Delete, &[badge]);
    assert!(!vm.writes(0x1000));
    bind(n);
    assert!(vm.writes(0x1000));
    vm.w.delete(n as u32);
    assert!(!vm.writes(0x1000));
    // The table stays with the space, and ends with it.
    assert!(vm.w.root.quota().1 <= used + 2);
    let next = vm.w.notification();
    vm.bind(next, PORTS, 0, 1).unwrap();
    let held = vm.w.object::<Space>(vm.guest as u32).object;
    vm.w.delete(vm.vcpu.at);
    let before = vm.w.root.quota().1;
    assert!(held.mappings.load(std::sync::atomic::Ordering::SeqCst) != 0);
    vm.w.delete(vm.guest as u32);
    // Its doorbells and the root of its tables.
    assert_eq!(vm.w.root.quota().1, before - 2);
    vm.w.delete(next as u32);
}

#[test]
fn what_cannot_be_bound() {
    let vm = Vm::new(1);
    let n = vm.w.notification();
    let quiet = vm.w.selector() as u64;
    let rights = Rights::WAIT.bits() as u64;
    vm.w.root(Op::Delegate, &[n, DOMAIN as u64, quiet, rights, 1]);
    assert_eq!(vm.bind(quiet, MEMORY, 0, 1), Err(Status::Denied));
    assert_eq!(vm.bind(vm.guest, MEMORY, 0, 1), Err(Status::BadCapability));
    for (kind, first, size) in [
        (MEMORY, 0, 0),
        (MEMORY, GUEST_END, 1),
        (MEMORY, GUEST_END - 1, 2),
        (MEMORY, 8, u64::MAX),
        (PORTS, 0x10000, 1),
        (PORTS, 0xffff, 2),
        (PORTS, 1, u64::MAX),
        (2, 0, 1),
    ] {
        let result = vm.bind(n, kind, first, size);
        assert_eq!(result, Err(Status::BadArgument), "{kind} {first:#x}");
    }
    // Host spaces have none.
    let args = [n, super::world::SPACE as u64, 99, MEMORY, 0x1000, 1];
    let host = vm.w.try_root(Op::BindDoorbell, &args);
    assert_eq!(host, Err(Status::BadArgument));
    assert_eq!(vm.bind(n, MEMORY, GUEST_END - 1, 1).map(|_| ()), Ok(()));
    assert_eq!(vm.bind(n, PORTS, 0xffff, 1).map(|_| ()), Ok(()));
}

#[test]
fn so_many_and_no_more() {
    let vm = Vm::new(1);
    let n = vm.w.notification();
    // From both sides to the middle.
    let at = |i: usize| if i.is_multiple_of(2) { i } else { 1000 - i } as u64;
    let mappings: Vec<u64> =
        (0..MAX_DOORBELLS).map(|i| vm.bind(n, MEMORY, at(i), 1).unwrap()).collect();
    assert_eq!(vm.bind(n, MEMORY, 500, 1), Err(Status::Occupied));
    assert!((0..MAX_DOORBELLS).all(|i| vm.writes(at(i))));
    vm.w.delete(mappings[17] as u32);
    assert_eq!(vm.bind(n, MEMORY, 500, 1).map(|_| ()), Ok(()));
}

#[test]
fn the_spaces_payer_pays_for_the_table() {
    let w = World::new(1);
    let [domain, guest, n] = [(); 3].map(|()| w.selector() as u64);
    w.root(Op::CreateDomain, &[DOMAIN as u64, domain, 2, 4]);
    w.root(Op::CreateSpace, &[domain, guest, 1]);
    w.root(Op::CreateNotification, &[DOMAIN as u64, n]);
    let args = [n, guest, 99, MEMORY, 0, 1];
    assert_eq!(w.try_root(Op::BindDoorbell, &args), Err(Status::Quota));
    assert_eq!(Op::BindDoorbell.payer(), 1);
    w.root(Op::QuotaGive, &[DOMAIN as u64, domain, 1]);
    w.root(Op::BindDoorbell, &args);
    let quota = w.root(Op::QuotaQuery, &[domain]);
    assert_eq!([quota[1], quota[2]], [3, 3]);
    w.delete(domain as u32);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn ranges_are_found_whatever_is_bound_and_unbound(
        history in prop::collection::vec((any::<bool>(), 0..2u64, 0..40u64, 1..6u64), 1..60),
    ) {
        let vm = Vm::new(1);
        // One bit for each start; which a range has is its own.
        let n = vm.w.notification();
        let badges: Vec<u64> = (0..40).map(|first| vm.badge(n, 1 << first)).collect();
        let mut bound: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
        for (unbind, kind, first, size) in history {
            if unbind {
                if let Some((mapping, _)) = bound.remove(&(kind, first)) {
                    vm.w.root(Op::Delete, &[mapping]);
                }
            } else {
                let free = bound
                    .iter()
                    .all(|(&(k, f), &(_, s))| k != kind || f + s <= first || first + size <= f);
                let result = vm.bind(badges[first as usize], kind, first, size);
                prop_assert_eq!(result.is_ok(), free);
                if let Ok(mapping) = result {
                    bound.insert((kind, first), (mapping, size));
                }
            }
            for at in 0..48 {
                for kind in [MEMORY, PORTS] {
                    let found = if kind == MEMORY { vm.writes(at) } else { vm.outputs(at) };
                    let expected = bound
                        .iter()
                        .find(|&(&(k, f), &(_, s))| k == kind && f <= at && at < f + s)
                        .map(|(&(_, f), _)| 1 << f);
                    prop_assert_eq!(found, expected.is_some());
                    prop_assert_eq!(vm.bits(n), expected.unwrap_or(0));
                }
            }
        }
    }
}
