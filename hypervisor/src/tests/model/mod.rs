//! What the system calls mean, in plain data: the kernel is checked against it.
//!
//! Here: objects, how they are made, and who pays for them. [`derivations`] has the tree of capabilities, [`memory`] what
//! is mapped; [`running`], [`calls`], [`signals`] and [`time`] what runs; [`invariants`] what is true of every state.

mod calls;
mod cyclic;
mod derivations;
mod invariants;
mod memory;
mod migration;
pub mod running;
mod signals;
mod time;

use crate::arch::{Frame, pages_per_vcpu};
use crate::domain::{CELL, Domain};
use crate::mem::PAGE;
use abi::cap::Kind;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{MAX_DOMAIN_DEPTH, Op, Rights, Status, USER_END};
pub use memory::Space;
use running::{Context, Cpu, Line, Notification, Portal, Sched, State, Thread, Utcb, Vcpu};
use std::collections::BTreeMap;

/// Name of an object; later ones are greater.
pub type Id = usize;
/// A slot: domain and selector.
pub type Place = (Id, u32);

/// Cells for small objects in a page.
pub const CELLS: u64 = (PAGE - 8) / CELL;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cap {
    pub kind: Kind,
    /// The object, of a mapping the space; memory and time have none.
    pub object: Option<Id>,
    pub rights: Rights,
    pub first: u64,
    pub second: u64,
    /// The object ends with it.
    pub origin: bool,
    pub parent: Option<Place>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    pub slots: u32,
    pub level: u8,
    pub limit: u64,
    pub used: u64,
    /// Free cells for small objects, in pages that are paid.
    cells: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    Domain(Table),
    Space(Space),
    Thread(Box<Thread>),
    Vcpu(Vcpu),
    Sched(Sched),
    Portal(Portal),
    Notification(Notification),
    /// An interrupt line.
    Line(Line),
}

/// Who makes a system call.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub domain: Id,
    pub cpu: u32,
    /// The thread; `None`: the fixture's own, which the model does not have.
    pub thread: Option<Id>,
}

/// The state of the whole system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Model {
    pub caps: BTreeMap<Place, Cap>,
    /// Objects and who pays for them.
    pub objects: BTreeMap<Id, (Object, Option<Id>)>,
    next: Id,
    pub now: u64,
    pub cpus: Vec<Cpu>,
}

/// What `id` names, as what it is.
macro_rules! accessors {
    ($($name:ident, $name_mut:ident: $variant:ident($kind:ty);)*) => {
        // Some are only looked at, some only changed.
        #[allow(dead_code)]
        impl Model {
            $(
                #[track_caller]
                pub fn $name(&self, id: Id) -> &$kind {
                    match &self.objects[&id].0 {
                        Object::$variant(object) => object,
                        other => panic!("{id} is {other:?}"),
                    }
                }

                #[track_caller]
                pub fn $name_mut(&mut self, id: Id) -> &mut $kind {
                    match &mut self.objects.get_mut(&id).unwrap().0 {
                        Object::$variant(object) => object,
                        other => panic!("{id} is {other:?}"),
                    }
                }
            )*
        }
    };
}

accessors! {
    table, table_mut: Domain(Table);
    space, space_mut: Space(Space);
    thread, thread_mut: Thread(Thread);
    vcpu, vcpu_mut: Vcpu(Vcpu);
    sched, sched_mut: Sched(Sched);
    portal, portal_mut: Portal(Portal);
    notification, notification_mut: Notification(Notification);
    line, line_mut: Line(Line);
}

const USED: Status = Status::Occupied;

fn selector(argument: u64) -> Result<u32, Status> {
    u32::try_from(argument).map_err(|_| Status::BadArgument)
}

/// Pages of a vCPU: its own, its state page, the architecture's.
fn vcpu_pages() -> u64 {
    2 + pages_per_vcpu().unwrap() as u64
}

impl Table {
    /// The root's table.
    pub fn new(slots: u32, limit: u64) -> Table {
        Table { slots, level: 0, limit, used: 0, cells: 0 }
    }
}

impl Model {
    /// A machine with so many CPUs and nothing else.
    pub fn new(cpus: u32) -> Model {
        Model { cpus: vec![Cpu::default(); cpus as usize], ..Model::default() }
    }

    /// Adds an object; the place of its first capability, if it has one.
    pub fn add(&mut self, object: Object, payer: Option<Id>, kind: Kind, at: Option<Place>) -> Id {
        let id = self.next;
        self.next += 1;
        self.objects.insert(id, (object, payer));
        if let Some(at) = at {
            let cap = Cap {
                kind,
                object: Some(id),
                rights: Rights::all(),
                first: u64::MAX,
                second: 0,
                origin: true,
                parent: None,
            };
            self.caps.insert(at, cap);
        }
        id
    }

    /// What the root uses already.
    pub fn set_used(&mut self, id: Id, used: u64, cells: u64) {
        (self.table_mut(id).used, self.table_mut(id).cells) = (used, cells);
    }

    pub fn payer(&self, id: Id) -> Id {
        self.objects[&id].1.unwrap()
    }

    fn charge(&mut self, payer: Id, pages: u64) -> Result<(), Status> {
        let table = self.table_mut(payer);
        if table.used + pages > table.limit {
            return Err(Status::Quota);
        }
        table.used += pages;
        Ok(())
    }

    /// More or less quota for a domain, from or to who pays for it.
    fn move_quota(&mut self, caller: Id, op: Op, args: &[u64; 9]) -> Result<(), Status> {
        let payer = self.find(caller, args[0], Kind::Domain, Rights::CREATE)?;
        let domain = self.find(caller, args[1], Kind::Domain, Rights::CREATE)?;
        if self.objects[&domain].1 != Some(payer) {
            return Err(Status::BadArgument);
        }
        let (pages, gives) = (args[2], op == Op::QuotaGive);
        let giver = self.table(if gives { payer } else { domain });
        if pages > giver.limit - giver.used {
            return Err(Status::Quota);
        }
        if gives {
            self.table_mut(payer).used += pages;
            self.table_mut(domain).limit += pages;
        } else {
            self.table_mut(domain).limit -= pages;
            self.table_mut(payer).used -= pages;
        }
        Ok(())
    }

    fn take_cell(&mut self, payer: Id) -> Result<(), Status> {
        if self.table(payer).cells == 0 {
            self.charge(payer, 1)?;
            self.table_mut(payer).cells = CELLS;
        }
        self.table_mut(payer).cells -= 1;
        Ok(())
    }

    fn find(&self, caller: Id, at: u64, kind: Kind, rights: Rights) -> Result<Id, Status> {
        let at = selector(at)?;
        let cap = self.caps.get(&(caller, at)).filter(|cap| cap.kind == kind);
        let cap = cap.ok_or(Status::BadCapability)?;
        if !cap.rights.contains(rights) {
            return Err(Status::Denied);
        }
        Ok(cap.object.unwrap())
    }

    fn empty(&self, domain: Id, at: u64) -> Result<Place, Status> {
        let at = selector(at)?;
        if at == 0 || at >= self.table(domain).slots {
            return Err(Status::BadSelector);
        }
        if self.caps.contains_key(&(domain, at)) {
            return Err(USED);
        }
        Ok((domain, at))
    }

    fn check_cpu(&self, argument: u64) -> Result<u32, Status> {
        if argument < self.cpus.len() as u64 {
            Ok(argument as u32)
        } else {
            Err(Status::BadArgument)
        }
    }

    /// The system call `op`, if it is one of those that leave the caller's registers alone but for the status.
    pub fn call(&mut self, by: Caller, op: Op, args: &[u64; 9]) -> Result<(), Status> {
        let caller = by.domain;
        op.check(args)?;
        match op {
            Op::Delegate => return self.delegate(caller, args),
            Op::Map => return self.map(caller, args),
            Op::Revoke | Op::Delete => return self.revoke(by, op, args),
            Op::Signal => return self.signal_by(by, args),
            Op::BindSched => return self.bind_sched(by, args),
            Op::BindKick => return self.bind_kick(by, args),
            Op::InterruptBind => return self.interrupt_bind(by, args),
            Op::InterruptAck => return self.interrupt_ack(by, args),
            Op::BindOverrun => return self.bind_overrun(caller, args),
            Op::SetSchedule => return self.set_schedule(by, args),
            Op::Migrate => return self.migrate_at_once(by, args),
            Op::BindDoorbell => return self.bind_doorbell(caller, args),
            Op::QuotaGive | Op::QuotaTake => return self.move_quota(caller, op, args),
            _ => {}
        }
        let payer = self.find(caller, args[0], Kind::Domain, Rights::CREATE)?;
        let at = self.empty(caller, args[1])?;
        let (object, kind) = match op {
            Op::CreateDomain => (self.new_domain(caller, payer, args)?, Kind::Domain),
            Op::CreateSpace => (self.new_space(payer, args)?, Kind::Space),
            Op::CreateThread => (self.new_thread(caller, payer, args)?, Kind::Thread),
            Op::CreateVcpu => (self.new_vcpu(caller, payer, args)?, Kind::Vcpu),
            Op::CreateSched => {
                let cpu = self.check_cpu(args[2])?;
                let (priority, budget, period) = (args[3], args[4], args[5]);
                if priority > 127 || budget > period || (budget == 0) != (period == 0) {
                    return Err(Status::BadArgument);
                }
                let limit = self.limit(caller, args[6], cpu, Rights::CREATE)?;
                if priority > limit & 0xff {
                    return Err(Status::Denied);
                }
                self.take_cell(payer)?;
                let partition = (limit >> 8) as u8;
                let sched = Sched::new(cpu, priority as u8, partition, budget, period);
                (Object::Sched(sched), Kind::Sched)
            }
            Op::CreatePortal => {
                let handler = self.find(caller, args[2], Kind::Thread, Rights::CONTROL)?;
                if self.thread(handler).foreign {
                    return Err(Status::BadArgument);
                }
                self.take_cell(payer)?;
                let portal = Portal { handler: Some(handler), identity: args[3], groups: args[4] };
                (Object::Portal(portal), Kind::Portal)
            }
            Op::CreateNotification => {
                self.take_cell(payer)?;
                (Object::Notification(Notification::default()), Kind::Notification)
            }
            _ => panic!("{op:?} is not here"),
        };
        self.add(object, Some(payer), kind, Some(at));
        Ok(())
    }

    /// What the time at selector `time` allows on `cpu`: the priority in bits 0 to 7, the partition above.
    pub(super) fn limit(
        &self,
        caller: Id,
        time: u64,
        cpu: u32,
        rights: Rights,
    ) -> Result<u64, Status> {
        let at = (caller, selector(time)?);
        let cap = self.caps.get(&at).filter(|cap| cap.kind == Kind::Time);
        let cap = cap.ok_or(Status::BadCapability)?;
        if !cap.rights.contains(rights) || cap.first >> cpu & 1 == 0 {
            return Err(Status::Denied);
        }
        Ok(cap.second)
    }

    fn new_domain(&mut self, caller: Id, payer: Id, args: &[u64; 9]) -> Result<Object, Status> {
        let (quota, slots) = (args[2], args[3]);
        let level = self.table(payer).level.max(self.table(caller).level);
        if level >= MAX_DOMAIN_DEPTH {
            return Err(Status::BadArgument);
        }
        let slots = slots as u32;
        self.charge(payer, Domain::overhead(slots) + quota)?;
        Ok(Object::Domain(Table { slots, level: level + 1, limit: quota, used: 0, cells: 0 }))
    }

    fn new_space(&mut self, payer: Id, args: &[u64; 9]) -> Result<Object, Status> {
        let kind = SpaceKind::from_code(args[2]).ok_or(Status::BadArgument)?;
        self.take_cell(payer)?;
        if let Err(status) = self.charge(payer, 1) {
            self.table_mut(payer).cells += 1;
            return Err(status);
        }
        Ok(Object::Space(Space::new(kind)))
    }

    fn new_thread(&mut self, caller: Id, payer: Id, args: &[u64; 9]) -> Result<Object, Status> {
        let domain = self.find(caller, args[2], Kind::Domain, Rights::INSTALL)?;
        let space = self.find(caller, args[3], Kind::Space, Rights::INSTALL)?;
        let kind = self.space(space).kind;
        if domain != payer || self.payer(space) != payer || kind != SpaceKind::Host {
            return Err(Status::BadArgument);
        }
        let flags = ThreadFlags::from_bits(args[4] >> 32 << 32).ok_or(Status::BadArgument)?;
        let foreign = flags.contains(ThreadFlags::FOREIGN);
        let cpu = self.check_cpu(args[4] << 32 >> 32)?;
        let (utcb, ip, sp) = (args[5], args[6], args[7]);
        let exceptions = selector(args[8])?;
        if ip >= USER_END || sp > USER_END {
            return Err(Status::BadArgument);
        }
        self.charge(payer, 2)?;
        if let Err(status) = self.map_kernel_page(space, utcb) {
            self.table_mut(payer).used -= 2;
            return Err(status);
        }
        Ok(Object::Thread(Box::new(Thread {
            context: Context::new(cpu, State::New),
            space,
            utcb,
            frame: Frame::user(ip, sp),
            shared: Utcb::default(),
            foreign,
            asks: None,
            caller: None,
            exceptions,
            in_exception: false,
            pending: None,
        })))
    }

    fn new_vcpu(&mut self, caller: Id, payer: Id, args: &[u64; 9]) -> Result<Object, Status> {
        let domain = self.find(caller, args[2], Kind::Domain, Rights::INSTALL)?;
        let guest = self.find(caller, args[3], Kind::Space, Rights::INSTALL)?;
        let monitor = self.find(caller, args[5], Kind::Space, Rights::INSTALL)?;
        let cpu = self.check_cpu(args[4])?;
        let exits = selector(args[7])?;
        let payers = [domain, self.payer(guest), self.payer(monitor)];
        let kinds = (self.space(guest).kind, self.space(monitor).kind);
        if payers != [payer; 3] || kinds != (SpaceKind::Guest, SpaceKind::Host) {
            return Err(Status::BadArgument);
        }
        self.charge(payer, vcpu_pages())?;
        if let Err(status) = self.map_kernel_page(monitor, args[6]) {
            self.table_mut(payer).used -= vcpu_pages();
            return Err(status);
        }
        Ok(Object::Vcpu(Vcpu::new(cpu, guest, monitor, args[6], exits)))
    }
}
