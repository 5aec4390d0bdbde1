//! The kernel next to the model: what is compared.

use super::model::running::{LAST_WORDS, Line, State};
use super::model::{Caller, Cap, Id, Model, Object, Place, Space, Table};
use super::world::{self, RAM_BASE, World};
use crate::addr::HostPhys;
use crate::arch::LINES;
use crate::cell::Ref;
use crate::context::{self, Context};
use crate::domain::Domain;
use crate::mem::{self, KernelPage, PAGE};
use crate::notification::Notification;
use crate::sched::Sched;
use crate::slot;
use crate::space::Space as KernelSpace;
use crate::thread::Thread;
use abi::cap::{Kind, TimeLimit};
use abi::syscall::SpaceKind;
use abi::{Op, Rights, Selector, Status};
use core::sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;

/// Words of a UTCB before the message.
pub const HEAD: usize = PAGE as usize / 8 - abi::utcb::WORDS;
/// Selectors of the root that the fixture has filled, and that are not compared.
const FIXTURE: std::ops::Range<u32> = 0..20;

/// A kernel and the model of what it has done.
pub struct Agreement {
    pub w: World,
    pub model: Model,
    /// Kernel address of each object.
    pub addresses: BTreeMap<Id, u64>,
    /// Highest selector of the root that is compared.
    pub last: u32,
}

/// Arguments of a system call.
pub fn nine(args: &[u64]) -> [u64; 9] {
    core::array::from_fn(|i| args.get(i).copied().unwrap_or(0))
}

impl Agreement {
    /// A machine with `cpus` CPUs. `last`: highest selector that the root uses.
    pub fn new(cpus: u32, last: u32) -> Agreement {
        let w = World::new(cpus);
        let mut model = Model::new(cpus);
        let (limit, used) = w.root.quota();
        let root = model.add(Object::Domain(Table::new(1024, limit)), None, Kind::Domain, None);
        let mut addresses = BTreeMap::from([(root, w.root.address())]);
        for line in 0..world::LINE_COUNT {
            let id = model.add(Object::Line(Line::new(line)), None, Kind::Interrupt, None);
            addresses.insert(id, crate::interrupt::capability(line).address());
            model.hold(
                (root, world::LINES + line),
                Kind::Interrupt,
                Some(id),
                Rights::all(),
                (u64::MAX, 0),
            );
        }
        model.hold((root, world::DOMAIN), Kind::Domain, Some(root), Rights::all(), (u64::MAX, 0));
        model.hold(
            (root, world::RAM),
            Kind::Memory,
            None,
            Rights::RW | Rights::EXEC | Rights::DELEGATE,
            (RAM_BASE, world::RAM_SIZE),
        );
        model.hold(
            (root, world::TIME),
            Kind::Time,
            None,
            Rights::all(),
            (u64::MAX, TimeLimit::ALL.pack()),
        );
        // The rest of the fixture's is only in the way.
        for at in [world::SPACE, world::PORTS, world::LOG] {
            model.hold((root, at), Kind::Null, None, Rights::empty(), (0, 0));
        }
        // The fixture has made a space and the scheduling contexts of its drivers.
        model.set_used(root, used, super::model::CELLS - 1 - cpus as u64);
        Agreement { w, model, addresses, last }
    }

    /// The kernel has carried out what the model has: takes note of what it made.
    pub fn note(&mut self, by: Caller, op: Op, args: &[u64]) {
        use Op::{CreateDomain, CreateNotification, CreatePortal, CreateSched, CreateSpace};
        use Op::{CreateThread, CreateVcpu};
        if matches!(
            op,
            CreateDomain
                | CreateSpace
                | CreateThread
                | CreateVcpu
                | CreateSched
                | CreatePortal
                | CreateNotification
        ) {
            let at = (by.domain, args[1] as u32);
            let address = self.slot(at).word().address();
            let id = self.model.caps[&at].object.unwrap();
            self.addresses.insert(id, address);
            if op == CreateDomain {
                world::use_table(self.address(id), args[3] as u32);
            }
        }
    }

    /// The fixture makes a system call for the root on `cpu`; kernel and model agree on the status.
    pub fn root(&mut self, cpu: u32, op: Op, args: &[u64]) -> Result<(), Status> {
        let by = Caller { domain: 0, cpu, thread: None };
        let expected = self.model.call(by, op, &nine(args));
        let status = self.w.try_root_on(cpu, op, args).map(|_| ());
        assert_eq!(status, expected, "root: {op:?} {args:x?}");
        if status.is_ok() {
            self.note(by, op, args);
        }
        status
    }

    fn address<T>(&self, id: Id) -> Ref<T> {
        // SAFETY: the model says that the object lives, and of which kind it is.
        unsafe { Ref::from_address(self.addresses[&id]) }
    }

    pub fn thread(&self, id: Id) -> Ref<Thread> {
        self.address(id)
    }

    pub fn sched(&self, id: Id) -> Ref<Sched> {
        self.address(id)
    }

    pub fn context(&self, id: Id) -> Ref<Context> {
        self.address(id)
    }

    /// The object at a kernel address.
    pub fn id(&self, address: u64) -> Id {
        let objects = self.model.objects.keys();
        *objects.rev().find(|id| self.addresses[id] == address).expect("the model has it")
    }

    fn slot(&self, at: Place) -> Ref<slot::Slot> {
        let domain: Ref<Domain> = self.address(at.0);
        domain.slot(Selector(at.1)).unwrap()
    }

    /// Kernel and model agree on everything; what is true of every state is.
    pub fn compare(&self) {
        self.model.check();
        for (&id, (object, _)) in &self.model.objects {
            match object {
                Object::Domain(table) => self.compare_domain(id, table),
                Object::Space(space) => self.compare_space(id, space),
                Object::Thread(_) | Object::Vcpu(_) => self.compare_context(id),
                Object::Sched(sched) => {
                    let kernel: Ref<Sched> = self.address(id);
                    let home = kernel.home.get().map(|home| home.address());
                    assert_eq!(home, sched.home.map(|home| self.addresses[&home]));
                    assert_eq!((kernel.cpu(), kernel.overrun_told.get()), (sched.cpu, sched.told));
                }
                Object::Portal(portal) => {
                    let kernel: Ref<crate::portal::Portal> = self.address(id);
                    let handler = kernel.handler().map(Ref::address);
                    assert_eq!(handler, portal.handler.map(|id| self.addresses[&id]));
                    assert_eq!((kernel.identity, kernel.groups), (portal.identity, portal.groups));
                }
                Object::Notification(notification) => {
                    let kernel: Ref<Notification> = self.address(id);
                    assert_eq!(kernel.is_set(), notification.word != 0, "bits of {id}");
                    let waiter = kernel.waiter().map(Ref::address);
                    assert_eq!(waiter, notification.waiter.map(|id| self.addresses[&id]));
                }
                Object::Line(line) => {
                    let masked = LINES[line.number as usize].masked.load(Ordering::SeqCst);
                    assert_eq!(masked, line.masked, "line {}", line.number);
                }
            }
        }
    }

    fn compare_context(&self, id: Id) {
        let kernel = self.context(id);
        let model = self.model.context(id);
        let state = match model.state {
            State::New => context::State::New,
            State::Idle => context::State::Idle,
            State::Ready => context::State::Ready,
            State::InCall(_) => context::State::InCall,
            State::Helping(_) => context::State::Helping,
            State::Waiting(..) => context::State::Waiting,
            State::Halted => context::State::Halted,
            State::Stopped => context::State::Stopped,
            State::Moving => context::State::Moving,
        };
        assert_eq!(kernel.cpu(), model.cpu, "CPU of {id}");
        assert_eq!(kernel.state.get(), state, "state of {id}");
        if let State::InCall(callee) | State::Helping(callee) = model.state {
            let found = kernel.callee.get().map(Ref::address);
            assert_eq!(found, Some(self.addresses[&callee]), "callee of {id}");
        }
        if let Some(vcpu) = kernel.as_vcpu() {
            let exits = Selector(self.model.vcpu(id).exits);
            return assert_eq!(vcpu.exit_base.get(), exits);
        }
        let (kernel, model) = (self.thread(id), self.model.thread(id));
        assert_eq!(kernel.with_frame(|f| *f), model.frame, "registers of {id}");
        let caller = kernel.caller.get().map(Ref::address);
        assert_eq!(caller, model.caller.map(|id| self.addresses[&id]));
        assert_eq!(kernel.utcb.read(0), model.shared.window);
        let last = PAGE as usize / 8 - LAST_WORDS;
        for (from, words) in [(HEAD, &model.shared.words[..]), (last, &model.shared.last)] {
            for (i, &word) in words.iter().enumerate() {
                assert_eq!(kernel.utcb.read(from + i), word, "word {from}+{i} of {id}");
            }
        }
    }

    fn compare_domain(&self, id: Id, table: &Table) {
        let domain: Ref<Domain> = self.address(id);
        assert_eq!(domain.quota(), (table.limit, table.used), "quota of domain {id}");
        let tree = slot::lock();
        let selectors = if id == 0 { FIXTURE.end..self.last + 1 } else { 0..table.slots };
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
            assert_eq!(found, (cap.kind, cap.rights, address), "capability {id}.{at}");
            let load = |field: &AtomicU64| field.load(Ordering::Relaxed);
            assert_eq!(
                (load(&slot.first), load(&slot.second)),
                (cap.first, cap.second),
                "{id}.{at}"
            );
            assert_eq!(load(&slot.extra) & slot::ORIGIN != 0, cap.origin);
            if let Some(parent) = cap.parent {
                assert!(slot.is_child_of(&tree, &self.slot(parent)), "{id}.{at} under {parent:?}");
            }
            let derives = self.model.caps.values().any(|c| c.parent == Some((id, at)));
            assert_eq!(slot.first_child(&tree).is_some(), derives, "children of {id}.{at}");
        }
    }

    fn compare_space(&self, id: Id, space: &Space) {
        let kernel: Ref<KernelSpace> = self.address(id);
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
}

impl Model {
    /// Puts a capability that was there from the start at `at`.
    fn hold(
        &mut self,
        at: Place,
        kind: Kind,
        object: Option<Id>,
        rights: Rights,
        range: (u64, u64),
    ) {
        let cap = Cap {
            kind,
            object,
            rights,
            first: range.0,
            second: range.1,
            origin: false,
            parent: None,
        };
        self.caps.insert(at, cap);
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
            SpaceKind::Guest | SpaceKind::Device => entry & 4 != 0,
        };
        rights.set(Rights::WRITE, entry & 2 != 0);
        rights.set(Rights::EXEC, executes);
        for page in 0..pages {
            out.insert(at + page, (phys / PAGE + page, rights));
        }
    }
}
