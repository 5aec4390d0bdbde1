//! Capabilities: what is derived from what, and what ends with it.

use super::{Caller, Cap, Id, Model, Object, Place, selector, vcpu_pages};
use crate::domain::Domain;
use crate::mem::PAGE;
use abi::cap::Kind;
use abi::syscall::DelegateFlags;
use abi::utcb::{Item, Window};
use abi::{Op, Rights, Status};

/// A delegation that is in order.
struct Delegation {
    from: Place,
    to: Place,
    /// What is at `to` then.
    cap: Cap,
    /// Nothing is left at `from`.
    grant: bool,
}

impl Model {
    pub(super) fn delegate(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
        let receiver = self.find(caller, args[1], Kind::Domain, Rights::INSTALL)?;
        let from = (caller, selector(args[0])?);
        let terms = [args[3], args[4], args[5], args[6]];
        let delegation = self.delegation(from, (receiver, args[2]), terms)?;
        self.carry_out(delegation);
        Ok(())
    }

    /// The capabilities of a message of `from` go to the window of `to`: all of them, or none.
    pub(super) fn transfer(&mut self, from: Id, to: Id, count: usize) -> Result<(), Status> {
        let window = Window::from_word(self.thread(to).shared.window);
        if count > window.slots as usize {
            return Err(Status::NoWindow);
        }
        let mut all: Vec<Delegation> = Vec::new();
        for number in 0..count {
            let item = Item::from_words(self.thread(from).shared.item(number));
            let from = (self.payer(from), item.source.0);
            let to = (self.payer(to), window.base as u64 + number as u64);
            let (rights, flags) = item.terms().ok_or(Status::BadArgument)?;
            let (rights, flags) = (rights.bits().into(), flags.bits());
            let terms = [rights, item.first, item.second, flags];
            let delegation = self.delegation(from, to, terms)?;
            // Nothing is given away twice.
            let same = |other: &&Delegation| other.from == from;
            if let Some(other) = all.iter().find(same)
                && (other.grant || delegation.grant)
            {
                return Err(Status::BadArgument);
            }
            all.push(delegation);
        }
        for delegation in all {
            self.carry_out(delegation);
        }
        Ok(())
    }

    /// What a delegation to a selector of a domain would do. Terms: rights, offset or badge or CPUs, size or limit, flags.
    fn delegation(
        &self,
        from: Place,
        (receiver, to): (Id, u64),
        [rights, first, second, flags]: [u64; 4],
    ) -> Result<Delegation, Status> {
        let cap = self.caps.get(&from).filter(|cap| cap.kind != Kind::Mapping);
        let cap = cap.ok_or(Status::BadCapability)?.clone();
        if !cap.rights.contains(Rights::DELEGATE) {
            return Err(Status::Denied);
        }
        let flags = DelegateFlags::from_bits(flags).ok_or(Status::BadArgument)?;
        let to = self.empty(receiver, to)?;
        let grant = flags.contains(DelegateFlags::GRANT);
        if grant {
            if cap.origin || self.children(from).next().is_some() || self.binds(from) {
                return Err(Status::Busy);
            }
            return Ok(Delegation { from, to, cap, grant });
        }
        let rights = u16::try_from(rights).ok().and_then(Rights::from_bits);
        let rights = rights.ok_or(Status::BadArgument)? & cap.rights;
        let (first, second) = match cap.kind {
            Kind::Memory => {
                let inside = first.checked_add(second).is_some_and(|end| end <= cap.second);
                if second == 0 || !inside || !(first | second).is_multiple_of(PAGE) {
                    return Err(Status::BadArgument);
                }
                (cap.first + first, second)
            }
            Kind::Notification if first & !cap.first != 0 => return Err(Status::Denied),
            Kind::Notification => (first, 0),
            Kind::Time => {
                let (priority, partition) = (second & 0xff, second >> 8);
                if priority > 127 || partition > 7 {
                    return Err(Status::BadArgument);
                }
                let moves = cap.second >> 8 != 0 && partition != cap.second >> 8;
                if first & !cap.first != 0 || priority > cap.second & 0xff || moves {
                    return Err(Status::Denied);
                }
                (first, second)
            }
            _ => (cap.first, cap.second),
        };
        let cap = Cap { rights, first, second, origin: false, parent: Some(from), ..cap };
        Ok(Delegation { from, to, cap, grant })
    }

    fn carry_out(&mut self, delegation: Delegation) {
        if delegation.grant {
            self.caps.remove(&delegation.from);
            self.moved(delegation.from, delegation.to);
        }
        self.caps.insert(delegation.to, delegation.cap);
    }

    pub(super) fn revoke(&mut self, by: Caller, op: Op, args: &[u64; 9]) -> Result<(), Status> {
        let at = (by.domain, selector(args[0])?);
        if !self.caps.contains_key(&at) {
            return Err(Status::BadCapability);
        }
        self.take_children(at);
        if op == Op::Revoke {
            return Ok(());
        }
        let cap = &self.caps[&at];
        if let Some(object) = cap.object.filter(|_| cap.origin)
            && (self.user(object).is_some() || by.thread == Some(object))
        {
            return Err(Status::Busy);
        }
        self.take(at);
        Ok(())
    }

    fn children(&self, of: Place) -> impl Iterator<Item = Place> {
        self.caps.iter().filter(move |(_, cap)| cap.parent == Some(of)).map(|(&at, _)| at)
    }

    /// The first capability of a thread or vCPU that uses `space`.
    fn user(&self, space: Id) -> Option<Place> {
        let uses = |object: &Object| match object {
            Object::Thread(thread) => thread.space == space,
            Object::Vcpu(vcpu) => vcpu.guest == space || vcpu.monitor == space,
            _ => false,
        };
        let mut objects = self.objects.iter();
        objects.find(|(_, (object, _))| uses(object)).map(|(&id, _)| self.origin(id))
    }

    fn origin(&self, id: Id) -> Place {
        let mut caps = self.caps.iter();
        *caps.find(|(_, cap)| cap.origin && cap.object == Some(id)).unwrap().0
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
        self.lose(at);
        if cap.kind == Kind::Mapping {
            let is_doorbell = self.is_doorbell(&cap);
            let space = self.space_mut(cap.object.unwrap());
            if is_doorbell {
                space.doorbells.remove(&cap.first).unwrap();
                return;
            }
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
                    model.objects.iter().rev().find(|(_, o)| o.1 == Some(id)).map(|(&id, _)| id)
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
                self.caps.retain(|_, cap| cap.kind != Kind::Mapping || cap.object != Some(id));
            }
            _ => self.detach(id),
        }
        let (object, payer) = self.objects.remove(&id).unwrap();
        let payer = payer.unwrap();
        match object {
            Object::Domain(table) => {
                self.table_mut(payer).used -= Domain::overhead(table.slots) + table.limit;
            }
            Object::Space(space) => {
                self.table_mut(payer).used -= space.paid();
                self.table_mut(payer).cells += 1;
            }
            Object::Thread(thread) => {
                self.table_mut(payer).used -= 2;
                self.unmap_kernel_page(thread.space, thread.utcb);
            }
            Object::Vcpu(vcpu) => {
                self.table_mut(payer).used -= vcpu_pages();
                self.unmap_kernel_page(vcpu.monitor, vcpu.page);
            }
            _ => self.table_mut(payer).cells += 1,
        }
    }
}
