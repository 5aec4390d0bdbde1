//! The kernel's capabilities, mappings and quotas against the model, after every step.

use super::model::{Cap, Id, Model, Object, Place, Space, Table};
use super::world::{self, RAM_BASE, World};
use crate::cell::Ref;
use crate::context::State;
use crate::domain::Domain;
use crate::mem::{self, KernelPage, PAGE};
use crate::slot;
use crate::thread::Thread;
use crate::addr::HostPhys;
use crate::space::Space as KernelSpace;
use abi::cap::Kind;
use abi::syscall::SpaceKind;
use abi::{Op, Rights, Selector, Status};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Selectors that the root's part of a history uses: its own domain, its memory, and free ones.
const ROOT: [u32; 12] = [1, 3, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49];
/// Those of the others: their own domain and space, the domain next to them, memory, and free ones.
const CHILD: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const CHILD_SLOTS: u64 = 13;
const CHILD_QUOTA: u64 = 60;
/// Memory that the root works with.
const MEMORY: u64 = 8 << 20;

struct Checked {
    w: World,
    model: Model,
    /// Kernel address of each object.
    addresses: BTreeMap<Id, u64>,
    /// The domains that act, and the thread that does it.
    actors: Vec<(Id, Ref<Thread>)>,
    /// Pages in use by all and not by the root's quota: constant.
    free: u64,
}

fn nine(args: &[u64]) -> [u64; 9] {
    core::array::from_fn(|i| args.get(i).copied().unwrap_or(0))
}

impl Checked {
    /// The root and `children` domains, each with memory and a capability to the next one.
    fn new(children: u32) -> Checked {
        let w = World::new(1);
        let mut model = Model::default();
        let root_driver = w.thread(0);
        let (limit, _) = w.root.quota();
        let table = Table::new(1024, limit);
        let root = model.add(Object::Domain(table), None, Kind::Domain, None);
        let mut addresses = BTreeMap::from([(root, w.root.address())]);
        let mut cap = |at, kind, object, rights, first, second| {
            let cap = Cap { kind, object, rights, first, second, origin: false, parent: None };
            model.caps.insert((root, at), cap);
        };
        cap(world::DOMAIN, Kind::Domain, Some(root), Rights::all(), u64::MAX, 0);
        let rights = Rights::RW | Rights::EXEC | Rights::DELEGATE;
        cap(world::RAM, Kind::Memory, None, rights, RAM_BASE, world::RAM_SIZE);
        addresses.insert(root, w.root.address());
        // The rest of the fixture's is only in the way.
        for at in [world::SPACE, world::PORTS, world::LOG].into_iter().chain(world::LINES..world::LINES + 4) {
            cap(at, Kind::Null, None, Rights::empty(), 0, 0);
        }
        // The fixture has made a space and the scheduling context of its driver.
        model.set_used(root, w.root.quota().1, super::model::CELLS - 2);
        // All that the root has used are pages of the pool.
        let free = mem::free_pages() + w.root.quota().1;
        let mut checked =
            Checked { w, model, addresses, actors: vec![(root, root_driver.object)], free };
        root_driver.object.context.state.set(State::Ready);
        for i in 0..children {
            let base = 20 + 4 * i;
            let [domain, space, thread] = [base, base + 1, base + 2].map(u64::from);
            checked.must(0, Op::CreateDomain, &[1, domain, CHILD_QUOTA, CHILD_SLOTS]);
            checked.must(0, Op::CreateSpace, &[domain, space, 0]);
            checked.must(0, Op::CreateThread, &[domain, thread, domain, space, 0, 0x7000, 0x2000]);
            let all = Rights::all().bits() as u64;
            checked.must(0, Op::Delegate, &[domain, domain, 1, all]);
            checked.must(0, Op::Delegate, &[space, domain, 2, all]);
            checked.must(0, Op::Delegate, &[3, domain, 4, all, i as u64 * MEMORY, MEMORY]);
            let id = checked.model.caps[&(root, base)].object.unwrap();
            let object = checked.w.object::<Thread>(base + 2).object;
            object.context.state.set(State::Ready);
            checked.actors.push((id, object));
        }
        for i in 0..children {
            let (this, next) = (20 + 4 * i, 20 + 4 * ((i + 1) % children));
            let rights = (Rights::INSTALL | Rights::CREATE).bits() as u64;
            checked.must(0, Op::Delegate, &[next as u64, this as u64, 3, rights]);
        }
        checked
    }

    /// The kernel carries the call out.
    fn execute(&self, actor: usize, op: Op, args: &[u64]) -> Result<(), Status> {
        let thread = self.actors[actor].1;
        let cpu = self.w.on(0);
        cpu.current.set(Some(thread.context()));
        cpu.sched.set(None);
        self.w.begin(thread, op, 0, args);
        let mut turns = 0;
        while self.w.restarts(thread) {
            turns += 1;
            assert!(turns < 1000, "{op:?} does not end");
            self.w.interrupts(0);
            self.w.again(thread);
        }
        cpu.current.set(None);
        world::result(thread).map(|_| ())
    }

    fn must(&mut self, actor: usize, op: Op, args: &[u64]) {
        assert_eq!(self.step(actor, op, args), Ok(()), "{op:?} {args:?}");
    }

    /// Whether `actor` is still there.
    fn lives(&self, actor: usize) -> bool {
        self.model.objects.contains_key(&self.actors[actor].0)
            && self.model.caps.contains_key(&(0, 18 + 4 * actor as u32))
            || actor == 0
    }

    /// Kernel and model carry the call out, and agree on everything.
    fn step(&mut self, actor: usize, op: Op, args: &[u64]) -> Result<(), Status> {
        let caller = self.actors[actor].0;
        let before = self.model.clone();
        let expected = self.model.call(caller, op, &nine(args));
        let status = self.execute(actor, op, args);
        assert_eq!(status, expected, "{actor}: {op:?} {args:x?}");
        let makes = !matches!(op, Op::Delegate | Op::Map | Op::Revoke | Op::Delete);
        if makes && status.is_ok() {
            let at = (caller, args[1] as u32);
            let address = self.slot(at).word().address();
            self.addresses.insert(self.model.caps[&at].object.unwrap(), address);
        }
        if op == Op::Delegate {
            // Whatever the model says: no right and no byte that was not there.
            let held = |m: &Model| m.caps.values().fold(Rights::empty(), |r, c| r | c.rights);
            assert!(held(&before).contains(held(&self.model)));
        }
        self.compare();
        status
    }

    fn domain(&self, id: Id) -> Ref<Domain> {
        // SAFETY: the model says that the domain lives.
        unsafe { Ref::from_address(self.addresses[&id]) }
    }

    fn slot(&self, at: Place) -> Ref<slot::Slot> {
        self.domain(at.0).slot(Selector(at.1)).unwrap()
    }

    fn compare(&self) {
        for (&id, (object, _)) in &self.model.objects {
            match object {
                Object::Domain(table) => self.compare_domain(id, table),
                Object::Space(space) => self.compare_space(id, space),
                _ => {}
            }
        }
    }

    fn compare_domain(&self, id: Id, table: &Table) {
        let domain = self.domain(id);
        assert_eq!(domain.quota(), (table.limit, table.used), "quota of domain {id}");
        let tree = slot::lock();
        // The fixture's own capabilities are not the model's.
        let selectors = if id == 0 { ROOT.to_vec() } else { (0..table.slots).collect() };
        for at in selectors {
            let slot = self.slot((id, at));
            let Some(cap) = self.model.caps.get(&(id, at)) else {
                assert!(slot.is_free() && slot.first_child(&tree).is_none(), "{id}.{at} is not free");
                continue;
            };
            let word = slot.word();
            let address = cap.object.map_or(0, |object| self.addresses[&object]);
            let found = (word.kind(), word.rights(), word.address());
            assert_eq!(found, (cap.kind, cap.rights, address), "capability {id}.{at}");
            let load = |field: &core::sync::atomic::AtomicU64| field.load(core::sync::atomic::Ordering::Relaxed);
            assert_eq!((load(&slot.first), load(&slot.second)), (cap.first, cap.second), "{id}.{at}");
            assert_eq!(load(&slot.extra) & slot::ORIGIN != 0, cap.origin);
            if let Some(parent) = cap.parent {
                assert!(slot.is_child_of(&tree, &self.slot(parent)), "{id}.{at} under {parent:?}");
            }
            let derives = self.model.caps.values().any(|c| c.parent == Some((id, at)));
            assert_eq!(slot.first_child(&tree).is_some(), derives, "children of {id}.{at}");
        }
    }

    fn compare_space(&self, id: Id, space: &Space) {
        // SAFETY: the model says that the space lives.
        let kernel: Ref<KernelSpace> = unsafe { Ref::from_address(self.addresses[&id]) };
        let mut pages = BTreeMap::new();
        read_table(kernel.table.root(), 3, 0, space.kind, &mut pages);
        for (page, (phys, rights)) in &space.pages {
            let found = pages.remove(page).unwrap_or_else(|| panic!("{page:#x} is not mapped"));
            assert_eq!(found.1, *rights, "rights of {page:#x}");
            match phys {
                Some(phys) => assert_eq!(found.0, *phys, "frame of {page:#x}"),
                None => assert!(found.0 * PAGE >= mem::base()),
            }
        }
        assert!(pages.is_empty(), "reachable, and nobody gave it: {pages:x?}");
    }

    /// Deletes all children: the root has what it had.
    fn finish(mut self) {
        for at in ROOT.into_iter().chain([20, 24, 28]) {
            if self.model.caps.get(&(0, at)).is_some_and(|cap| cap.origin) {
                // Spaces are used until their threads are gone, in either order.
                let _ = self.step(0, Op::Delete, &[at as u64]);
            }
        }
        for at in ROOT.into_iter().chain(20..32) {
            if self.model.caps.get(&(0, at)).is_some_and(|cap| cap.origin) {
                self.must(0, Op::Delete, &[at as u64]);
            }
        }
        assert_eq!(self.model.objects.len(), 1);
        assert_eq!(mem::free_pages() + self.w.root.quota().1, self.free);
        assert_eq!(crate::arch::space_tags(), 1);
    }
}

/// What the page table at `table` maps, by pages.
fn read_table(
    table: HostPhys,
    level: u32,
    start: u64,
    kind: SpaceKind,
    out: &mut BTreeMap<u64, (u64, Rights)>,
) {
    let pages = 1u64 << (9 * level);
    let half = level == 3 && kind == SpaceKind::Host;
    for i in 0..if half { 256 } else { 512 } {
        let entry = KernelPage::from_phys(table).read(i);
        if entry & 7 == 0 {
            continue;
        }
        let (at, phys) = (start + i as u64 * pages, entry & 0x000f_ffff_ffff_f000);
        if level > 0 && entry & 1 << 7 == 0 {
            read_table(HostPhys(phys), level - 1, at, kind, out);
            continue;
        }
        let mut rights = Rights::READ;
        let executes = match kind {
            SpaceKind::Host => entry >> 63 == 0,
            SpaceKind::Guest => entry & 4 != 0,
        };
        rights.set(Rights::WRITE, entry & 2 != 0);
        rights.set(Rights::EXEC, executes);
        for page in 0..pages {
            out.insert(at + page, (phys / PAGE + page, rights));
        }
    }
}

/// A call of a history: selectors are places in the list of the actor.
#[derive(Clone, Debug)]
struct Call {
    actor: usize,
    op: Op,
    args: [u64; 9],
}

fn pages() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => (0..6u64).prop_map(|n| n * PAGE),
        3 => (0..3u64).prop_map(|n| n << 21),
        1 => Just((2 << 20) + PAGE),
        1 => Just(1),
        1 => Just(u64::MAX - PAGE + 1),
    ]
}

fn rights() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => Just(Rights::all().bits() as u64),
        2 => Just(Rights::RW.bits() as u64),
        3 => 0..256u64,
        1 => Just(1 << 9),
    ]
}

fn calls() -> impl Strategy<Value = Call> {
    (0..4usize).prop_flat_map(|actor| {
        let list = if actor == 0 { ROOT } else { CHILD };
        let any = move || {
            prop_oneof![
                9 => (0..12usize).prop_map(move |i| list[i] as u64),
                1 => prop_oneof![Just(0u64), Just(5000)],
            ]
        };
        // Domains are mostly found at the start of a table.
        let domain = move || {
            prop_oneof![
                4 => Just(1u64),
                4 => if actor == 0 { Just(vec![20u64, 24, 28]) } else { Just(vec![1, 3]) }
                    .prop_flat_map(|v| (0..v.len()).prop_map(move |i| v[i])),
                2 => any(),
            ]
        };
        let memory = move || prop_oneof![Just(if actor == 0 { 3 } else { 4u64 }), any()];
        let call = move |op, args: Vec<u64>| Call { actor, op, args: nine(&args) };
        prop_oneof![
            2 => (domain(), any(), 0..30u64, prop_oneof![Just(0u64), Just(5), Just(70)])
                .prop_map(move |(p, d, q, s)| call(Op::CreateDomain, vec![p, d, q, s])),
            2 => (domain(), any(), 0..3u64)
                .prop_map(move |(p, d, k)| call(Op::CreateSpace, vec![p, d, k])),
            2 => (domain(), any(), any(), pages())
                .prop_map(move |(p, d, s, u)| call(Op::CreateThread, vec![p, d, p, s, 0, u, 0x2000])),
            1 => (domain(), any()).prop_map(move |(p, d)| call(Op::CreateNotification, vec![p, d])),
            1 => (domain(), any()).prop_map(move |(p, d)| call(Op::CreateSched, vec![p, d])),
            8 => (any(), domain(), 0..13u64, rights(), pages(), pages(), prop_oneof![6 => Just(0u64), 1 => Just(1), 1 => Just(2)])
                .prop_map(move |(s, r, d, rights, o, l, f)| call(Op::Delegate, vec![s, r, d, rights, o, l, f])),
            6 => (memory(), any(), any(), (pages(), pages(), pages()), rights())
                .prop_map(move |(m, s, d, (o, a, l), rights)| call(Op::Map, vec![m, s, d, o, a, l, rights & 7 | 1])),
            2 => any().prop_map(move |s| call(Op::Revoke, vec![s])),
            3 => any().prop_map(move |s| call(Op::Delete, vec![s])),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_means_what_the_model_says(history in prop::collection::vec(calls(), 1..120)) {
        let mut checked = Checked::new(3);
        for Call { actor, op, args } in history {
            if checked.lives(actor) {
                let _ = checked.step(actor, op, &args);
            }
        }
        checked.finish();
    }
}
