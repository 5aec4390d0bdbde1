//! What the system calls on capabilities mean, in plain data: the kernel is checked against it.

use crate::domain::{CELL, Domain, MAX_LEVEL, MAX_SLOTS};
use crate::mem::PAGE;
use crate::space::GUEST_END;
use abi::cap::Kind;
use abi::syscall::{DelegateFlags, SpaceKind};
use abi::{Op, Rights, Status, USER_END};
use std::collections::{BTreeMap, BTreeSet};

/// Name of an object; later ones are greater.
pub type Id = usize;
/// A slot: domain and selector.
pub type Place = (Id, u32);

/// Cells for small objects in a page.
pub const CELLS: u64 = (PAGE - 8) / CELL;

#[derive(Clone, Debug, PartialEq)]
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

#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    pub kind: SpaceKind,
    /// Page of the space: physical page, rights. Physical page `None`: the kernel's (a UTCB).
    pub pages: BTreeMap<u64, (Option<u64>, Rights)>,
    /// Page tables: level and number at that level.
    tables: BTreeSet<(u32, u64)>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub slots: u32,
    pub level: u8,
    pub limit: u64,
    pub used: u64,
    /// Free cells for small objects, in pages that are paid.
    cells: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Domain(Table),
    Space(Space),
    Thread {
        space: Id,
        utcb: u64,
    },
    /// A notification or scheduling context.
    Small,
}

/// The state of the whole system.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    pub caps: BTreeMap<Place, Cap>,
    /// Objects and who pays for them.
    pub objects: BTreeMap<Id, (Object, Option<Id>)>,
    next: Id,
}

const USED: Status = Status::Occupied;

fn selector(argument: u64) -> Result<u32, Status> {
    u32::try_from(argument).map_err(|_| Status::BadArgument)
}

fn span(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

impl Table {
    /// The root's table.
    pub fn new(slots: u32, limit: u64) -> Table {
        Table {
            slots,
            level: 0,
            limit,
            used: 0,
            cells: 0,
        }
    }
}

impl Space {
    /// Makes the largest leaf that fits; returns its size. `charge` pays for a table.
    fn map(
        &mut self,
        at: u64,
        left: u64,
        phys: Option<u64>,
        rights: Rights,
        mut charge: impl FnMut() -> Result<(), Status>,
    ) -> Result<u64, Status> {
        if self.pages.contains_key(&(at / PAGE)) {
            return Err(USED);
        }
        let base = phys.unwrap_or(PAGE);
        let fits = |t: u32| (at | base).is_multiple_of(span(t)) && left >= span(t);
        let level = (0..=2)
            .rev()
            .find(|&t| fits(t) && !self.has_table(t, at))
            .unwrap_or(0);
        for above in (level..3).rev() {
            let table = (above, at / span(above + 1));
            if !self.tables.contains(&table) {
                charge()?;
                self.tables.insert(table);
            }
        }
        for page in 0..span(level) / PAGE {
            self.pages
                .insert(at / PAGE + page, (phys.map(|p| p / PAGE + page), rights));
        }
        Ok(span(level))
    }

    /// Whether there is a table below the entry of `level`.
    fn has_table(&self, level: u32, at: u64) -> bool {
        level > 0 && self.tables.contains(&(level - 1, at / span(level)))
    }
}

impl Model {
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

    pub fn table(&self, id: Id) -> &Table {
        match &self.objects[&id].0 {
            Object::Domain(table) => table,
            _ => panic!("no domain"),
        }
    }

    fn table_mut(&mut self, id: Id) -> &mut Table {
        match &mut self.objects.get_mut(&id).unwrap().0 {
            Object::Domain(table) => table,
            _ => panic!("no domain"),
        }
    }

    pub fn space(&self, id: Id) -> &Space {
        match &self.objects[&id].0 {
            Object::Space(space) => space,
            _ => panic!("no space"),
        }
    }

    fn payer(&self, id: Id) -> Id {
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

    /// The system call `op` by a thread of `caller`.
    pub fn call(&mut self, caller: Id, op: Op, args: &[u64; 9]) -> Result<(), Status> {
        match op {
            Op::Delegate => return self.delegate(caller, args),
            Op::Map => return self.map(caller, args),
            Op::Revoke | Op::Delete => return self.revoke(caller, op, args),
            _ => {}
        }
        let payer = self.find(caller, args[0], Kind::Domain, Rights::CREATE)?;
        let at = self.empty(caller, args[1])?;
        match op {
            Op::CreateDomain => {
                let (quota, slots) = (args[2], args[3]);
                let level = self.table(payer).level.max(self.table(caller).level);
                let bad = slots == 0 || slots > MAX_SLOTS as u64 || quota > 1 << 40;
                if bad || level >= MAX_LEVEL {
                    return Err(Status::BadArgument);
                }
                let slots = slots as u32;
                self.charge(payer, Domain::overhead(slots) + quota)?;
                let table = Table {
                    slots,
                    level: level + 1,
                    limit: quota,
                    used: 0,
                    cells: 0,
                };
                self.add(Object::Domain(table), Some(payer), Kind::Domain, Some(at));
            }
            Op::CreateSpace => {
                let kind = SpaceKind::from_code(args[2]).ok_or(Status::BadArgument)?;
                self.take_cell(payer)?;
                if let Err(status) = self.charge(payer, 1) {
                    self.table_mut(payer).cells += 1;
                    return Err(status);
                }
                let space = Space {
                    kind,
                    pages: BTreeMap::new(),
                    tables: BTreeSet::new(),
                };
                self.add(Object::Space(space), Some(payer), Kind::Space, Some(at));
            }
            Op::CreateThread => {
                let domain = self.find(caller, args[2], Kind::Domain, Rights::INSTALL)?;
                let space = self.find(caller, args[3], Kind::Space, Rights::INSTALL)?;
                let kind = self.space(space).kind;
                if domain != payer || self.payer(space) != payer || kind != SpaceKind::Host {
                    return Err(Status::BadArgument);
                }
                let utcb = args[5];
                self.charge(payer, 2)?;
                let mapped = if !utcb.is_multiple_of(PAGE) || utcb == 0 || utcb >= USER_END {
                    Err(Status::BadArgument)
                } else {
                    self.map_step(space, utcb, PAGE, None, Rights::RW)
                };
                if let Err(status) = mapped {
                    self.table_mut(payer).used -= 2;
                    return Err(status);
                }
                self.add(
                    Object::Thread { space, utcb },
                    Some(payer),
                    Kind::Thread,
                    Some(at),
                );
            }
            _ => {
                let kind = if op == Op::CreateSched {
                    self.may_schedule(caller, args[3], args[6])?;
                    Kind::Sched
                } else {
                    Kind::Notification
                };
                self.take_cell(payer)?;
                self.add(Object::Small, Some(payer), kind, Some(at));
            }
        }
        Ok(())
    }

    /// Whether the time at selector `time` allows a scheduling context of `priority` on CPU 0.
    fn may_schedule(&self, caller: Id, priority: u64, time: u64) -> Result<(), Status> {
        if priority > 127 {
            return Err(Status::BadArgument);
        }
        let at = (caller, selector(time)?);
        let cap = self.caps.get(&at).filter(|cap| cap.kind == Kind::Time);
        let cap = cap.ok_or(Status::BadCapability)?;
        let has = cap.rights.contains(Rights::CREATE) && cap.first & 1 != 0;
        if !has || priority > cap.second & 0xff {
            return Err(Status::Denied);
        }
        Ok(())
    }

    fn map_step(
        &mut self,
        id: Id,
        at: u64,
        left: u64,
        phys: Option<u64>,
        rights: Rights,
    ) -> Result<u64, Status> {
        let payer = self.payer(id);
        let (mut limit, used) = (self.table(payer).limit, self.table(payer).used);
        limit -= used;
        let mut paid = 0;
        let Some((Object::Space(space), _)) = self.objects.get_mut(&id) else {
            panic!()
        };
        let result = space.map(at, left, phys, rights, || {
            if paid == limit {
                return Err(Status::Quota);
            }
            paid += 1;
            Ok(())
        });
        self.table_mut(payer).used += paid;
        result
    }

    fn delegate(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
        let receiver = self.find(caller, args[1], Kind::Domain, Rights::INSTALL)?;
        let from = (caller, selector(args[0])?);
        let cap = self.caps.get(&from).filter(|cap| cap.kind != Kind::Mapping);
        let cap = cap.ok_or(Status::BadCapability)?.clone();
        if !cap.rights.contains(Rights::DELEGATE) {
            return Err(Status::Denied);
        }
        let flags = DelegateFlags::from_bits(args[6]).ok_or(Status::BadArgument)?;
        let to = self.empty(receiver, args[2])?;
        if flags.contains(DelegateFlags::GRANT) {
            if cap.origin || self.children(from).next().is_some() {
                return Err(Status::Busy);
            }
            self.caps.remove(&from);
            self.caps.insert(to, cap);
            return Ok(());
        }
        let rights = u16::try_from(args[3]).ok().and_then(Rights::from_bits);
        let rights = rights.ok_or(Status::BadArgument)? & cap.rights;
        let (first, second) = match cap.kind {
            Kind::Memory => {
                let inside = args[4]
                    .checked_add(args[5])
                    .is_some_and(|end| end <= cap.second);
                if args[5] == 0 || !inside || !(args[4] | args[5]).is_multiple_of(PAGE) {
                    return Err(Status::BadArgument);
                }
                (cap.first + args[4], args[5])
            }
            Kind::Notification if args[4] & !cap.first != 0 => return Err(Status::Denied),
            Kind::Notification => (args[4], 0),
            Kind::Time => {
                let (priority, partition) = (args[5] & 0xff, args[5] >> 8);
                if priority > 127 || partition > 7 {
                    return Err(Status::BadArgument);
                }
                let moves = cap.second >> 8 != 0 && partition != cap.second >> 8;
                if args[4] & !cap.first != 0 || priority > cap.second & 0xff || moves {
                    return Err(Status::Denied);
                }
                (args[4], args[5])
            }
            _ => (cap.first, cap.second),
        };
        let parent = Some(from);
        self.caps.insert(
            to,
            Cap {
                rights,
                first,
                second,
                origin: false,
                parent,
                ..cap
            },
        );
        Ok(())
    }

    fn map(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
        let from = (caller, selector(args[0])?);
        selector(args[1]).and(selector(args[2]))?;
        let cap = self.caps.get(&from).filter(|cap| cap.kind == Kind::Memory);
        let cap = cap.ok_or(Status::BadCapability)?.clone();
        let space = self.find(caller, args[1], Kind::Space, Rights::INSTALL)?;
        let (offset, at, size) = (args[3], args[4], args[5]);
        let rights = u16::try_from(args[6]).ok().and_then(Rights::from_bits);
        let rights = rights
            .filter(|r| (Rights::RW | Rights::EXEC).contains(*r) && r.contains(Rights::READ))
            .ok_or(Status::BadArgument)?;
        if !cap.rights.contains(rights) {
            return Err(Status::Denied);
        }
        let host = self.space(space).kind == SpaceKind::Host;
        let end = if host { USER_END } else { GUEST_END };
        let bad = offset.checked_add(size).is_none_or(|e| e > cap.second)
            || at.checked_add(size).is_none_or(|e| e > end);
        if bad || size == 0 || !(offset | at | size).is_multiple_of(PAGE) || host && at == 0 {
            return Err(Status::BadArgument);
        }
        let to = self.empty(caller, args[2])?;
        let (mut done, mut result) = (0, Ok(()));
        while done < size && result.is_ok() {
            let phys = Some(cap.first + offset + done);
            match self.map_step(space, at + done, size - done, phys, rights) {
                Ok(bytes) => done += bytes,
                Err(status) => result = Err(status),
            }
        }
        if done > 0 {
            let mapping = Cap {
                kind: Kind::Mapping,
                object: Some(space),
                rights: Rights::empty(),
                first: at,
                second: done,
                origin: false,
                parent: Some(from),
            };
            self.caps.insert(to, mapping);
        }
        result
    }

    fn revoke(&mut self, caller: Id, op: Op, args: &[u64; 9]) -> Result<(), Status> {
        let at = (caller, selector(args[0])?);
        if !self.caps.contains_key(&at) {
            return Err(Status::BadCapability);
        }
        self.take_children(at);
        if op == Op::Revoke {
            return Ok(());
        }
        let cap = &self.caps[&at];
        let space = cap.object.filter(|_| cap.origin && cap.kind == Kind::Space);
        if space.is_some_and(|space| self.user(space).is_some()) {
            return Err(Status::Busy);
        }
        self.take(at);
        Ok(())
    }

    fn children(&self, of: Place) -> impl Iterator<Item = Place> {
        self.caps
            .iter()
            .filter(move |(_, cap)| cap.parent == Some(of))
            .map(|(&at, _)| at)
    }

    /// The first capability of a thread in `space`.
    fn user(&self, space: Id) -> Option<Place> {
        let uses =
            |id: &Id| matches!(&self.objects[id].0, Object::Thread { space: s, .. } if *s == space);
        self.objects
            .keys()
            .find(|id| uses(id))
            .map(|&id| self.origin(id))
    }

    fn origin(&self, id: Id) -> Place {
        let mut caps = self.caps.iter();
        *caps
            .find(|(_, cap)| cap.origin && cap.object == Some(id))
            .unwrap()
            .0
    }

    fn take_children(&mut self, of: Place) {
        for child in self.children(of).collect::<Vec<_>>() {
            self.take(child);
        }
    }

    /// Takes a capability away, with what was derived from it and what ends with it.
    fn take(&mut self, at: Place) {
        self.take_children(at);
        let Some(cap) = self.caps.remove(&at) else {
            return;
        };
        if cap.kind == Kind::Mapping {
            let Some((Object::Space(space), _)) = self.objects.get_mut(&cap.object.unwrap()) else {
                return;
            };
            for page in cap.first / PAGE..(cap.first + cap.second) / PAGE {
                space.pages.remove(&page).unwrap();
            }
        } else if cap.origin {
            self.end(cap.object.unwrap());
        }
    }

    fn end(&mut self, id: Id) {
        match &self.objects[&id].0 {
            Object::Domain(_) => {
                let paid = |model: &Model| {
                    model
                        .objects
                        .iter()
                        .rev()
                        .find(|(_, o)| o.1 == Some(id))
                        .map(|(&id, _)| id)
                };
                while let Some(object) = paid(self) {
                    self.take(self.origin(object));
                }
                let held = |model: &Model| model.caps.keys().find(|at| at.0 == id).copied();
                while let Some(at) = held(self) {
                    self.take(at);
                }
            }
            Object::Space(_) => {
                while let Some(at) = self.user(id) {
                    self.take(at);
                }
                self.caps
                    .retain(|_, cap| cap.kind != Kind::Mapping || cap.object != Some(id));
            }
            Object::Thread { .. } | Object::Small => {}
        }
        let (object, payer) = self.objects.remove(&id).unwrap();
        let payer = payer.unwrap();
        match object {
            Object::Domain(table) => {
                self.table_mut(payer).used -= Domain::overhead(table.slots) + table.limit;
            }
            Object::Space(space) => {
                self.table_mut(payer).used -= 1 + space.tables.len() as u64;
                self.table_mut(payer).cells += 1;
            }
            Object::Thread { space, utcb } => {
                self.table_mut(payer).used -= 2;
                if let Some((Object::Space(space), _)) = self.objects.get_mut(&space) {
                    space.pages.remove(&(utcb / PAGE)).unwrap();
                }
            }
            Object::Small => self.table_mut(payer).cells += 1,
        }
    }
}
