//! Memory: what is mapped in spaces.

use super::running::Exit;
use super::{Cap, Id, Model, USED, selector};
use crate::mem::PAGE;
use crate::space::{GUEST_END, PORTS};
use abi::cap::Kind;
use abi::syscall::{MAX_DOORBELLS, SpaceKind};
use abi::vcpu::{ExitKind, FAULT_WRITE};
use abi::{Rights, Status, USER_END};
use std::collections::{BTreeMap, BTreeSet};

/// Ports are beyond all addresses.
const PORT: u64 = 1 << 63;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Space {
    pub kind: SpaceKind,
    /// Page of the space: physical page, rights. Physical page `None`: the kernel's (a UTCB).
    pub pages: BTreeMap<u64, (Option<u64>, Rights)>,
    /// Page tables: level and number at that level.
    tables: BTreeSet<(u32, u64)>,
    /// By where they start: size, notification and bits.
    pub doorbells: BTreeMap<u64, (u64, Id, u64)>,
    /// It ever had a doorbell.
    has_doorbell_page: bool,
}

fn span(level: u32) -> u64 {
    1 << (12 + 9 * level)
}

impl Space {
    /// Nothing is in it.
    pub(super) fn new(kind: SpaceKind) -> Space {
        Space {
            kind,
            pages: BTreeMap::new(),
            tables: BTreeSet::new(),
            doorbells: BTreeMap::new(),
            has_doorbell_page: false,
        }
    }

    /// Pages that its payer pays, beside its cell.
    pub(super) fn paid(&self) -> u64 {
        1 + self.tables.len() as u64 + u64::from(self.has_doorbell_page)
    }

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
        let level = (0..=2).rev().find(|&t| fits(t) && !self.has_table(t, at)).unwrap_or(0);
        for above in (level..3).rev() {
            let table = (above, at / span(above + 1));
            if !self.tables.contains(&table) {
                charge()?;
                self.tables.insert(table);
            }
        }
        for page in 0..span(level) / PAGE {
            self.pages.insert(at / PAGE + page, (phys.map(|p| p / PAGE + page), rights));
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

/// Doorbells.
impl Model {
    pub(super) fn bind_doorbell(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
        let (n, bits) = self.signal_target(caller, args[0])?;
        let space = self.find(caller, args[1], Kind::Space, Rights::INSTALL)?;
        let to = self.empty(caller, args[2])?;
        let (base, end) = match args[3] {
            0 => (0, GUEST_END),
            1 => (PORT, PORTS),
            _ => return Err(Status::BadArgument),
        };
        let (at, size) = (args[4], args[5]);
        let inside = at.checked_add(size).is_some_and(|last| last <= end);
        if self.space(space).kind != SpaceKind::Guest || size == 0 || !inside {
            return Err(Status::BadArgument);
        }
        if !self.space(space).has_doorbell_page {
            self.charge(self.payer(space), 1)?;
            self.space_mut(space).has_doorbell_page = true;
        }
        let first = base + at;
        let bound = &mut self.space_mut(space).doorbells;
        let meets = |(&start, &(length, ..)): (&u64, &(u64, Id, u64))| {
            start < first + size && first < start + length
        };
        if bound.len() == MAX_DOORBELLS || bound.iter().any(meets) {
            return Err(USED);
        }
        bound.insert(first, (size, n, bits));
        let doorbell = Cap {
            kind: Kind::Mapping,
            object: Some(space),
            rights: Rights::empty(),
            first,
            second: size,
            origin: false,
            parent: Some((caller, args[0] as u32)),
        };
        self.caps.insert(to, doorbell);
        Ok(())
    }

    /// Whether a mapping is one of a notification.
    pub(super) fn is_doorbell(&self, cap: &Cap) -> bool {
        let parent = cap.parent.and_then(|at| self.caps.get(&at));
        cap.kind == Kind::Mapping && parent.is_some_and(|cap| cap.kind == Kind::Notification)
    }

    /// The guest of vCPU `id` leaves guest mode on `cpu` with `exit`; whether that rings a doorbell and is all.
    pub fn rings(&mut self, cpu: u32, id: Id, exit: &Exit) -> bool {
        let at = match ExitKind::from_code(exit[0] as u8) {
            Some(ExitKind::StageTwoFault) if exit[1] & FAULT_WRITE != 0 => exit[2],
            // Out, of a register.
            Some(ExitKind::Io) if exit[1] >> 24 & 3 == 0 => PORT + (exit[1] & 0xffff),
            _ => return false,
        };
        let mut bound = self.space(self.vcpu(id).guest).doorbells.range(..=at);
        let last = bound.next_back().filter(|(first, (size, ..))| at - **first < *size);
        let Some((_, &(_, n, bits))) = last else {
            return false;
        };
        self.signal(cpu, n, bits);
        true
    }
}
