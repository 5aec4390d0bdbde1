//! Capabilities: what is derived from what, and what ends with it.

use super::{Caller, Cap, Id, Model, Object, Place, selector, vcpu_pages};
use crate::domain::Domain;
use crate::mem::PAGE;
use abi::cap::Kind;
use abi::syscall::DelegateFlags;
use abi::{Op, Rights, Status};

impl Model {
    pub(super) fn delegate(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
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
        self.caps
            .iter()
            .filter(move |(_, cap)| cap.parent == Some(of))
            .map(|(&at, _)| at)
    }

    /// The first capability of a thread or vCPU that uses `space`.
    fn user(&self, space: Id) -> Option<Place> {
        let uses = |object: &Object| match object {
            Object::Thread(thread) => thread.space == space,
            Object::Vcpu(vcpu) => vcpu.guest == space || vcpu.monitor == space,
            _ => false,
        };
        let mut objects = self.objects.iter();
        objects
            .find(|(_, (object, _))| uses(object))
            .map(|(&id, _)| self.origin(id))
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
            let space = self.space_mut(cap.object.unwrap());
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
            _ => self.detach(id),
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
