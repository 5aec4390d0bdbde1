//! Memory: what is mapped in spaces.

use super::{Cap, Id, Model, USED, selector};
use crate::mem::PAGE;
use crate::space::GUEST_END;
use abi::cap::Kind;
use abi::syscall::SpaceKind;
use abi::{Rights, Status, USER_END};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    pub kind: SpaceKind,
    /// Page of the space: physical page, rights. Physical page `None`: the kernel's (a UTCB).
    pub pages: BTreeMap<u64, (Option<u64>, Rights)>,
    /// Page tables: level and number at that level.
    pub(super) tables: BTreeSet<(u32, u64)>,
}

fn span(level: u32) -> u64 {
    1 << (12 + 9 * level)
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
    /// Maps a page of the kernel's for a program.
    pub(super) fn map_kernel_page(&mut self, space: Id, at: u64) -> Result<(), Status> {
        if !at.is_multiple_of(PAGE) || at == 0 || at >= USER_END {
            return Err(Status::BadArgument);
        }
        self.map_step(space, at, PAGE, None, Rights::RW).map(|_| ())
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
        let result = self.space_mut(id).map(at, left, phys, rights, || {
            if paid == limit {
                return Err(Status::Quota);
            }
            paid += 1;
            Ok(())
        });
        self.table_mut(payer).used += paid;
        result
    }

    pub(super) fn map(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
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

    pub(super) fn unmap_kernel_page(&mut self, space: Id, at: u64) {
        self.space_mut(space).pages.remove(&(at / PAGE)).unwrap();
    }
}
