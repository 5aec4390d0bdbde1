//! The kernel's capabilities, mappings and quotas against the model, after every step.

use super::model::{Cap, Id, Model, Object, Place, Space, Table};
use super::world::{self, RAM_BASE, World};
use crate::addr::HostPhys;
use crate::cell::Ref;
use crate::context::State;
use crate::domain::Domain;
use crate::mem::{self, KernelPage, PAGE};
use crate::slot;
use crate::space::Space as KernelSpace;
use crate::thread::Thread;
use abi::cap::{Kind, TimeLimit};
use abi::syscall::SpaceKind;
use abi::{Op, Rights, Selector, Status};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Selectors that the root's part of a history uses: its own domain, its memory, and free ones.
const ROOT: [u32; 12] = [1, 3, 6, 40, 41, 42, 43, 44, 45, 46, 47, 48];
/// Those of the others: their own domain and space, the domain next to them, memory, and free ones.
const CHILD: [u32; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
const CHILD_SLOTS: u64 = 13;
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
    /// The root and `children` domains, each with `quota`, memory and a capability to the next one.
    fn new(children: u32, quota: u64) -> Checked {
        let w = World::new(1);
        let mut model = Model::default();
        let root_driver = w.thread(0);
        let (limit, _) = w.root.quota();
        let table = Table::new(1024, limit);
        let root = model.add(Object::Domain(table), None, Kind::Domain, None);
        let mut addresses = BTreeMap::from([(root, w.root.address())]);
        let mut cap = |at, kind, object, rights, first, second| {
            let cap = Cap {
                kind,
                object,
                rights,
                first,
                second,
                origin: false,
                parent: None,
            };
            model.caps.insert((root, at), cap);
        };
        cap(
            world::DOMAIN,
            Kind::Domain,
            Some(root),
            Rights::all(),
            u64::MAX,
            0,
        );
        let rights = Rights::RW | Rights::EXEC | Rights::DELEGATE;
        cap(
            world::RAM,
            Kind::Memory,
            None,
            rights,
            RAM_BASE,
            world::RAM_SIZE,
        );
        addresses.insert(root, w.root.address());
        cap(
            world::TIME,
            Kind::Time,
            None,
            Rights::all(),
            u64::MAX,
            TimeLimit::ALL.pack(),
        );
        // The rest of the fixture's is only in the way.
        for at in [world::SPACE, world::PORTS, world::LOG]
            .into_iter()
            .chain(world::LINES..world::LINES + 4)
        {
            cap(at, Kind::Null, None, Rights::empty(), 0, 0);
        }
        // The fixture has made a space and the scheduling context of its driver.
        model.set_used(root, w.root.quota().1, super::model::CELLS - 2);
        // All that the root has used are pages of the pool.
        let free = mem::free_pages() + w.root.quota().1;
        let mut checked = Checked {
            w,
            model,
            addresses,
            actors: vec![(root, root_driver.object)],
            free,
        };
        root_driver.object.context.state.set(State::Ready);
        for i in 0..children {
            let base = 20 + 4 * i;
            let [domain, space, thread] = [base, base + 1, base + 2].map(u64::from);
            checked.must(0, Op::CreateDomain, &[1, domain, quota, CHILD_SLOTS]);
            checked.must(0, Op::CreateSpace, &[domain, space, 0]);
            checked.must(
                0,
                Op::CreateThread,
                &[domain, thread, domain, space, 0, 0x7000, 0x2000],
            );
            let all = Rights::all().bits() as u64;
            checked.must(0, Op::Delegate, &[domain, domain, 1, all]);
            checked.must(0, Op::Delegate, &[space, domain, 2, all]);
            checked.must(
                0,
                Op::Delegate,
                &[3, domain, 4, all, i as u64 * MEMORY, MEMORY],
            );
            checked.must(0, Op::Delegate, &[6, domain, 5, all, 3, 100]);
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
            // The largest mapping here takes 2^18 entries, 32 in a turn.
            assert!(turns < 1 << 14, "{op:?} does not end");
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
        let status = self.agree(actor, op, args);
        self.compare();
        status
    }

    /// Kernel and model carry the call out, and agree on the status.
    fn agree(&mut self, actor: usize, op: Op, args: &[u64]) -> Result<(), Status> {
        let caller = self.actors[actor].0;
        let before = self.model.clone();
        let expected = self.model.call(caller, op, &nine(args));
        let status = self.execute(actor, op, args);
        assert_eq!(status, expected, "{actor}: {op:?} {args:x?}");
        let makes = !matches!(op, Op::Delegate | Op::Map | Op::Revoke | Op::Delete);
        if makes && status.is_ok() {
            let at = (caller, args[1] as u32);
            let address = self.slot(at).word().address();
            self.addresses
                .insert(self.model.caps[&at].object.unwrap(), address);
        }
        if op == Op::Delegate {
            // Whatever the model says: no right and no byte that was not there.
            let held = |m: &Model| m.caps.values().fold(Rights::empty(), |r, c| r | c.rights);
            assert!(held(&before).contains(held(&self.model)));
        }
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
        assert_eq!(
            domain.quota(),
            (table.limit, table.used),
            "quota of domain {id}"
        );
        let tree = slot::lock();
        // The fixture's own capabilities are not the model's.
        let selectors = if id == 0 {
            ROOT.to_vec()
        } else {
            (0..table.slots).collect()
        };
        for at in selectors {
            let slot = self.slot((id, at));
            let Some(cap) = self.model.caps.get(&(id, at)) else {
                assert!(
                    slot.is_free() && slot.first_child(&tree).is_none(),
                    "{id}.{at} is not free"
                );
                continue;
            };
            let word = slot.word();
            let address = cap.object.map_or(0, |object| self.addresses[&object]);
            let found = (word.kind(), word.rights(), word.address());
            assert_eq!(
                found,
                (cap.kind, cap.rights, address),
                "capability {id}.{at}"
            );
            let load = |field: &core::sync::atomic::AtomicU64| {
                field.load(core::sync::atomic::Ordering::Relaxed)
            };
            assert_eq!(
                (load(&slot.first), load(&slot.second)),
                (cap.first, cap.second),
                "{id}.{at}"
            );
            assert_eq!(load(&slot.extra) & slot::ORIGIN != 0, cap.origin);
            if let Some(parent) = cap.parent {
                assert!(
                    slot.is_child_of(&tree, &self.slot(parent)),
                    "{id}.{at} under {parent:?}"
                );
            }
            let derives = self.model.caps.values().any(|c| c.parent == Some((id, at)));
            assert_eq!(
                slot.first_child(&tree).is_some(),
                derives,
                "children of {id}.{at}"
            );
        }
    }

    fn compare_space(&self, id: Id, space: &Space) {
        // SAFETY: the model says that the space lives.
        let kernel: Ref<KernelSpace> = unsafe { Ref::from_address(self.addresses[&id]) };
        let mut pages = BTreeMap::new();
        read_table(kernel.table.root(), 3, 0, space.kind, &mut pages);
        for (page, (phys, rights)) in &space.pages {
            let found = pages
                .remove(page)
                .unwrap_or_else(|| panic!("{page:#x} is not mapped"));
            assert_eq!(found.1, *rights, "rights of {page:#x}");
            match phys {
                Some(phys) => assert_eq!(found.0, *phys, "frame of {page:#x}"),
                None => assert!(found.0 * PAGE >= mem::base()),
            }
        }
        assert!(
            pages.is_empty(),
            "reachable, and nobody gave it: {pages:x?}"
        );
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

/// A call of a history: what it names is picked when it is made, mostly so that it makes sense.
#[derive(Clone, Debug)]
struct Call {
    actor: usize,
    op: Op,
    /// One choice for each argument.
    picks: [u16; 9],
}

const OPERATIONS: [Op; 14] = [
    Op::CreateDomain,
    Op::CreateSpace,
    Op::CreateThread,
    Op::CreateNotification,
    Op::CreateSched,
    Op::Delegate,
    Op::Delegate,
    Op::Delegate,
    Op::Map,
    Op::Map,
    Op::Map,
    Op::Map,
    Op::Revoke,
    Op::Delete,
];

fn calls() -> impl Strategy<Value = Call> {
    let picks = prop::array::uniform9(any::<u16>());
    (0..4usize, prop::sample::select(&OPERATIONS[..]), picks).prop_map(|(actor, op, picks)| Call {
        actor,
        op,
        picks,
    })
}

/// Sizes, offsets and addresses: pages and large pages, and what is wrong.
const SIZES: [u64; 16] = [
    0,
    PAGE,
    PAGE,
    2 * PAGE,
    3 * PAGE,
    3 * PAGE,
    5 * PAGE,
    40 * PAGE,
    2 << 20,
    2 << 20,
    4 << 20,
    (2 << 20) + PAGE,
    (2 << 20) - PAGE,
    1 << 30,
    1,
    u64::MAX - PAGE + 1,
];

impl Checked {
    fn pick<T: Copy>(of: &[T], pick: u16) -> Option<T> {
        (!of.is_empty()).then(|| of[pick as usize / 16 % of.len()])
    }

    /// A selector of the actor: mostly one that holds a capability of `kind`.
    fn held(&self, actor: usize, kind: Option<Kind>, pick: u16) -> u64 {
        let list = if actor == 0 { &ROOT } else { &CHILD };
        let id = self.actors[actor].0;
        let fits = |&&at: &&u32| {
            let cap = self.model.caps.get(&(id, at));
            cap.is_some_and(|cap| kind.is_none_or(|kind| cap.kind == kind))
        };
        let mut all: Vec<u32> = list.iter().filter(fits).copied().collect();
        if actor == 0 && kind == Some(Kind::Domain) {
            all.extend(
                (20..32)
                    .step_by(4)
                    .filter(|&at| self.model.caps.contains_key(&(id, at))),
            );
        }
        match pick % 16 {
            0 => [0, 5000, 1 << 32][pick as usize / 16 % 3],
            1 => Self::pick(list, pick).unwrap() as u64,
            _ => Self::pick(&all, pick).unwrap_or(0) as u64,
        }
    }

    /// A selector of domain `id`: mostly an empty one.
    fn empty(&self, id: Id, pick: u16) -> u64 {
        let list = if id == self.actors[0].0 {
            &ROOT
        } else {
            &CHILD
        };
        let free = |&&at: &&u32| !self.model.caps.contains_key(&(id, at));
        let all: Vec<u32> = list.iter().filter(free).copied().collect();
        match pick % 16 {
            0 => [0, 5000, 1 << 32][pick as usize / 16 % 3],
            1 => Self::pick(list, pick).unwrap() as u64,
            _ => Self::pick(&all, pick).unwrap_or(0) as u64,
        }
    }

    fn make(&mut self, call: &Call) {
        let &Call { actor, op, picks } = call;
        if !self.lives(actor) {
            return;
        }
        let id = self.actors[actor].0;
        let rights = |pick: u16| match pick % 8 {
            0 => 1 << 9,
            1 => pick as u64 >> 8,
            2 => Rights::RW.bits() as u64,
            _ => Rights::all().bits() as u64,
        };
        let size = |i: usize| SIZES[picks[i] as usize % SIZES.len()];
        let domain = self.held(actor, Some(Kind::Domain), picks[0]);
        let args = match op {
            Op::Delegate => {
                let receiver = self.held(actor, Some(Kind::Domain), picks[1]);
                let to = self.model.caps.get(&(id, receiver as u32));
                let to = to
                    .filter(|cap| cap.kind == Kind::Domain)
                    .and_then(|cap| cap.object);
                let badge = if picks[8] % 2 == 0 {
                    size(4)
                } else {
                    picks[8] as u64
                };
                let from = self.held(actor, None, picks[0]);
                let kind = self.model.caps.get(&(id, from as u32)).map(|c| c.kind);
                let limit = [0x32, 0x10, 0x132, 0x110, 0x264, 127, 0x800, 0x80];
                let (fourth, fifth) = match kind {
                    Some(Kind::Notification) => (badge, size(5)),
                    Some(Kind::Time) => {
                        (picks[4] as u64 % 8, limit[picks[5] as usize % limit.len()])
                    }
                    _ => (size(4), size(5)),
                };
                let flags = [0, 0, 0, 0, 0, 1, 1, 2][picks[6] as usize % 8];
                let to = self.empty(to.unwrap_or(id), picks[2]);
                vec![from, receiver, to, rights(picks[3]), fourth, fifth, flags]
            }
            Op::Map => {
                let memory = self.held(actor, Some(Kind::Memory), picks[0]);
                let space = self.held(actor, Some(Kind::Space), picks[1]);
                let to = self.empty(id, picks[2]);
                // Addresses near each other, so that they meet.
                let rights = [1, 3, 5, 7, 2][picks[6] as usize % 5];
                vec![memory, space, to, size(3), size(4), size(5), rights]
            }
            Op::Revoke | Op::Delete => vec![self.held(actor, None, picks[0])],
            Op::CreateDomain => {
                let slots = [0, 5, 20, 70, 40_000][picks[3] as usize % 5];
                vec![
                    domain,
                    self.empty(id, picks[1]),
                    picks[2] as u64 % 40,
                    slots,
                ]
            }
            Op::CreateSpace => vec![domain, self.empty(id, picks[1]), picks[2] as u64 % 3],
            Op::CreateThread => {
                let space = self.held(actor, Some(Kind::Space), picks[3]);
                vec![
                    domain,
                    self.empty(id, picks[1]),
                    domain,
                    space,
                    0,
                    size(5),
                    0x2000,
                ]
            }
            Op::CreateSched => {
                let time = self.held(actor, Some(Kind::Time), picks[6]);
                let priority = picks[3] as u64 % 130;
                vec![domain, self.empty(id, picks[1]), 0, priority, 0, 0, time]
            }
            _ => vec![domain, self.empty(id, picks[1])],
        };
        let _ = self.step(actor, op, &args);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_means_what_the_model_says(
        quota in 7u64..24,
        history in prop::collection::vec(calls(), 1..120),
    ) {
        let mut checked = Checked::new(3, quota);
        for call in &history {
            checked.make(call);
        }
        checked.finish();
    }
}

/// Calls of a small system: the root (0) and one domain (1), two frames in the root's capability 40.
const SMALL: [(usize, Op, [u64; 7]); 18] = {
    use Op::{CreateNotification, CreateSpace, Delegate, Delete, Map, Revoke};
    // Domain 20, 1 in its own table; its space 21, 2 in its own table.
    [
        (0, Delegate, [40, 20, 5, 0x87, 0, PAGE, 0]),
        (0, Delegate, [40, 20, 6, 0x81, 0, 2 * PAGE, 0]),
        (0, Delegate, [40, 1, 41, 0x83, PAGE, PAGE, 0]),
        (0, Delegate, [41, 20, 5, 0, 0, 0, 1]),
        (0, Map, [40, 21, 42, 0, PAGE, 2 * PAGE, 1]),
        (0, Map, [41, 21, 43, 0, PAGE, PAGE, 3]),
        (0, Revoke, [40, 0, 0, 0, 0, 0, 0]),
        (0, Delete, [41, 0, 0, 0, 0, 0, 0]),
        (0, Delete, [42, 0, 0, 0, 0, 0, 0]),
        (0, Delete, [20, 0, 0, 0, 0, 0, 0]),
        (1, Delegate, [5, 1, 6, 0x81, 0, PAGE, 0]),
        (1, Delegate, [6, 1, 5, 0, 0, 0, 1]),
        (1, Map, [5, 2, 7, 0, 2 * PAGE, PAGE, 3]),
        (1, Map, [6, 9, 8, 0, PAGE, PAGE, 1]),
        (1, Delete, [5, 0, 0, 0, 0, 0, 0]),
        (1, CreateSpace, [1, 9, 0, 0, 0, 0, 0]),
        (1, CreateNotification, [1, 9, 0, 0, 0, 0, 0]),
        (1, Delete, [9, 0, 0, 0, 0, 0, 0]),
    ]
};

#[test]
fn all_short_histories_mean_what_the_model_says() {
    const DEPTH: usize = 4;
    let mut histories = 0;
    let mut line = Vec::new();
    explore(DEPTH, &mut line, &mut histories);
    assert!(histories > 1000, "{histories}");
}

/// Tries every call after `line`, and goes on after those that change something.
fn explore(depth: usize, line: &mut Vec<usize>, histories: &mut u32) {
    if line.len() == depth {
        return;
    }
    for (next, (actor, op, args)) in SMALL.into_iter().enumerate() {
        let mut checked = Checked::new(1, 20);
        checked.must(0, Op::Delegate, &[3, 1, 40, 0xff, 0, 2 * PAGE]);
        for &call in line.iter() {
            let (actor, op, args) = SMALL[call];
            let _ = checked.agree(actor, op, &args);
        }
        if !checked.lives(actor) {
            continue;
        }
        let before = checked.model.clone();
        let _ = checked.step(actor, op, &args);
        *histories += 1;
        let changes = before != checked.model;
        checked.finish();
        if changes {
            line.push(next);
            explore(depth, line, histories);
            line.pop();
        }
    }
}
