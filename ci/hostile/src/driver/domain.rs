//! A domain of a round: what it is made of, what it is given, and how it is harmed.

use super::{Driver, ECHO, must};
use crate::arch::{self, guest};
use crate::calls::table;
use crate::monitor;
use crate::place::{self, AREA, Control, Twice};
use crate::random::{Random, mix};
use abi::boot::{ROOT_DOMAIN, ROOT_FREE, ROOT_INTERRUPTS, ROOT_LOG, ROOT_PORTS, ROOT_TIME};
use abi::cap::TimeLimit;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::vcpu::EXIT_KINDS;
use abi::{Badge, Rights, Selector, Tag};
use rt::syscall::{self, MapParameters, Result, ThreadParameters, Time, VcpuParameters};
use trial::{map_code, place_code};

/// Where the driver sees the memory of the first one.
pub const AREAS: u64 = 0x2000_0000;
/// The driver's selectors for one domain.
pub const SELECTORS: u32 = 256;
/// Kernel memory of which all domains live.
const QUOTA: u64 = 240;

/// Selectors of a domain here, counted from its first; the first 24 of a kind are for its threads.
pub mod own {
    pub const DOMAIN: u32 = 0;
    pub const SPACE: u32 = 1;
    pub const GUEST: u32 = 2;
    pub const SEGMENTS: u32 = 3;
    pub const MEMORY: u32 = 10;
    pub const GUEST_MEMORY: u32 = 11;
    pub const VCPU: u32 = 12;
    pub const VCPU_SCHED: u32 = 13;
    pub const SPARE_SCHED: u32 = 14;
    pub const GUEST_CODE: u32 = 15;
    pub const NOTIFICATION: u32 = 16;
    pub const THREADS: u32 = 24;
    pub const SCHEDS: u32 = 48;
    pub const EXCEPTIONS: u32 = 72;
    pub const PORTALS: u32 = 96;
    pub const EXITS: u32 = 120;
}

/// A domain of this round.
#[derive(Clone, Copy)]
pub struct Victim {
    number: u64,
    first: Selector,
    threads: u64,
    /// The CPU, beside the first, that its threads are on.
    other: u32,
    /// All threads but the first two are handlers on CPU 0, each of which calls the next.
    chain: bool,
}

impl Victim {
    /// None.
    pub const NONE: Victim =
        Victim { number: 0, first: Selector::NULL, threads: 0, other: 0, chain: false };

    /// Whether thread `t` handles calls.
    fn handles(&self, t: u64) -> bool {
        if self.chain { t >= 2 } else { (t / 2) % 2 == 1 }
    }

    /// The portal that thread `t` calls.
    fn next(&self, t: u64) -> u64 {
        let next = if self.chain { t.max(1) + 1 } else { t + 2 };
        table::PORTALS + next.min(self.threads - 1)
    }

    /// The thread that handles the exceptions of thread `t`.
    fn handler(&self, t: u64) -> u64 {
        match (self.chain, self.handles(t)) {
            (true, _) => (t + 1).max(2),
            (false, false) => t + 2,
            (false, true) => t + 4,
        }
    }

    /// The CPU of thread `t`: even ones are on CPU 0, odd ones on the other.
    fn cpu(&self, t: u64) -> u32 {
        if self.chain || t.is_multiple_of(2) { 0 } else { self.other }
    }

    /// One of its selectors: [`own`].
    pub fn at(&self, offset: u32) -> Selector {
        self.first.offset(offset)
    }

    fn area(&self) -> u64 {
        AREAS + self.number * AREA
    }

    fn control(&self, thread: u64) -> *mut Control {
        (self.area() + place::control(thread)) as *mut Control
    }

    /// A call and what it must not have returned, if there was such a call: their tags.
    pub fn undeclared(&self) -> Option<(Tag, Tag)> {
        let mut found = (0..self.threads).map(|thread| {
            // SAFETY: as in `take_calls`.
            unsafe { Twice::read(&raw const (*self.control(thread)).undeclared) }
        });
        let both = found.find(|&both| both != 0)?;
        Some((Tag(both & u64::from(u32::MAX)), Tag(both >> 32)))
    }

    /// The number of system calls that it made, for a domain that has ended, and what they returned as one number. They
    /// are counted from 0 again.
    pub fn take_calls(&self) -> (u64, u64) {
        let take = |thread| {
            // SAFETY: the domain's memory is mapped here for the driver, and nobody else can reach it any more.
            unsafe {
                let control = self.control(thread);
                let calls = Twice::read(&raw const (*control).calls);
                let digest = (&raw const (*control).digest).read_volatile();
                Twice::write(&raw mut (*control).calls, 0);
                (&raw mut (*control).digest).write_volatile(0);
                (calls, digest)
            }
        };
        (0..self.threads).map(take).fold((0, 0), |all, one| (all.0 + one.0, mix(all.1 ^ one.1)))
    }
}

/// Where a domain finds the portals for exits of its vCPU on `cpu`.
fn exits(cpu: u32) -> Selector {
    Selector((table::EXITS + table::SET * (cpu != 0) as u64) as u32)
}

fn rights(random: &mut Random) -> Rights {
    if random.one_in(2) {
        Rights::all()
    } else {
        Rights::from_bits_truncate(random.word() as u16 | 0x30)
    }
}

impl Driver {
    /// Makes a domain with all that it can do harm with. What its quota does not suffice for is missing.
    pub(super) fn make(&mut self, number: u64) -> Victim {
        let threads =
            if self.random.one_in(4) { table::MOST_THREADS } else { 4 + self.random.below(6) };
        let chain = threads == table::MOST_THREADS && self.random.one_in(2);
        let v = Victim {
            number,
            first: ROOT_FREE.offset(64 + SELECTORS * number as u32),
            threads,
            other: match self.cpus {
                1 => 0,
                _ => 1 + self.random.below(self.cpus - 1) as u32,
            },
            chain,
        };
        let pages = if self.random.one_in(4) {
            10 + self.random.below(40)
        } else {
            50 + self.random.below(QUOTA)
        };
        let domain = v.at(own::DOMAIN);
        must("domain", syscall::create_domain(ROOT_DOMAIN, domain, pages, table::SLOTS));
        let _ = self.furnish(&v);
        v
    }

    fn furnish(&mut self, v: &Victim) -> Result {
        let domain = v.at(own::DOMAIN);
        let space = v.at(own::SPACE);
        syscall::create_space(domain, space, SpaceKind::Host)?;
        map_code(&self.head, space, v.at(own::SEGMENTS))?;
        let offset = v.number * AREA;
        let p = MapParameters { offset, address: place::MEMORY, size: AREA, rights: Rights::RW };
        syscall::map(self.memory, space, v.at(own::MEMORY), &p)?;
        for i in 0..2 {
            syscall::create_notification(domain, v.at(own::NOTIFICATION + i))?;
        }
        self.make_threads(v)?;
        if self.virtualization {
            let _ = self.make_vcpu(v);
        }
        let time = self.time();
        let _ = syscall::create_sched(domain, v.at(own::SPARE_SCHED), ROOT_TIME, 0, time);
        self.give(v);
        Ok(())
    }

    fn time(&mut self) -> Time {
        let priority = self.random.below(60) as u8;
        let (budget, period) = if self.random.one_in(4) { (50_000, 200_000) } else { (0, 0) };
        Time { priority, budget, period }
    }

    fn make_threads(&mut self, v: &Victim) -> Result {
        let domain = v.at(own::DOMAIN);
        for t in 0..v.threads {
            let n = t as u32;
            let cpu = v.cpu(t);
            let role = v.handles(t) as u64;
            let next = if !v.chain && self.random.one_in(4) { 0 } else { v.next(t) };
            let control = Control {
                seed: self.random.word(),
                calls: Twice::default(),
                role,
                next,
                number: t,
                cpus: self.cpus,
                digest: 0,
                undeclared: Twice::default(),
            };
            // SAFETY: the domain's memory is mapped here for the driver, and nobody else runs on it yet.
            unsafe { v.control(t).write_volatile(control) };
            let foreign = !v.handles(t) && self.random.one_in(8);
            let flags = if foreign { ThreadFlags::FOREIGN } else { ThreadFlags::empty() };
            let p = ThreadParameters {
                domain,
                space: v.at(own::SPACE),
                cpu,
                utcb: place::UTCBS + t * 4096,
                ip: arch::entry as *const () as u64,
                sp: place::MEMORY + place::control(t),
                exceptions: Selector(table::EXCEPTIONS as u32 + n),
                flags,
            };
            syscall::create_thread(domain, v.at(own::THREADS + n), &p)?;
            let (own_portal, groups) = (v.at(own::PORTALS + n), self.random.word());
            if !foreign {
                let thread = v.at(own::THREADS + n);
                syscall::create_portal(domain, own_portal, thread, 1000 + t, groups)?;
            }
        }
        for t in 0..v.threads {
            let n = t as u32;
            let handler = v.handler(t);
            if handler < v.threads && !self.random.one_in(16) {
                let handler = v.at(own::THREADS + handler as u32);
                let identity = place::MEMORY + place::control(t);
                syscall::create_portal(domain, v.at(own::EXCEPTIONS + n), handler, identity, 0)?;
            }
            if !v.handles(t) {
                let cpu = v.cpu(t);
                let time = self.time();
                syscall::create_sched(domain, v.at(own::SCHEDS + n), ROOT_TIME, cpu, time)?;
            }
        }
        Ok(())
    }

    fn make_vcpu(&mut self, v: &Victim) -> Result {
        let (domain, space) = (v.at(own::DOMAIN), v.at(own::GUEST));
        syscall::create_space(domain, space, SpaceKind::Guest)?;
        let memory = v.area() + place::GUEST;
        // SAFETY: as for the control blocks.
        unsafe { place_code(memory..memory + place::GUEST_PAGE, 0, guest::code()) };
        for (mapping, address, rights) in
            [(own::GUEST_CODE, 0, Rights::RX), (own::GUEST_MEMORY, place::GUEST_PAGE, Rights::RW)]
        {
            let p = MapParameters {
                offset: v.number * AREA + place::GUEST + address,
                address,
                size: place::GUEST_PAGE,
                rights,
            };
            syscall::map(self.memory, space, v.at(mapping), &p)?;
        }
        let cpu = self.random.pick(&[0, v.other.into()]) as u32;
        self.make_exits(v, cpu)?;
        let p = VcpuParameters {
            domain,
            guest_space: space,
            cpu,
            host_space: v.at(own::SPACE),
            state: place::STATE,
            portals: exits(cpu),
        };
        syscall::create_vcpu(domain, v.at(own::VCPU), &p)?;
        if self.random.one_in(2) {
            let _ = syscall::bind_kick(v.at(own::VCPU), v.at(own::NOTIFICATION));
        }
        let time = self.time();
        syscall::create_sched(domain, v.at(own::VCPU_SCHED), ROOT_TIME, cpu, time)?;
        // For when it is there.
        match (cpu, v.other) {
            (0, 0) => Ok(()),
            (0, other) => self.make_exits(v, other),
            _ => self.make_exits(v, 0),
        }
    }

    /// Makes the portals for exits of the vCPU on `cpu`.
    fn make_exits(&mut self, v: &Victim, cpu: u32) -> Result {
        let set = (cpu != 0) as u32;
        let handler = v.at(own::THREADS + 2 + set);
        for kind in 0..EXIT_KINDS {
            let portal = v.at(own::EXITS + set * EXIT_KINDS + kind);
            let groups = monitor::saved(&mut self.random);
            syscall::create_portal(v.at(own::DOMAIN), portal, handler, kind.into(), groups)?;
        }
        Ok(())
    }

    /// Fills the domain's table. What is missing is missing.
    fn give(&mut self, v: &Victim) {
        let domain = v.at(own::DOMAIN);
        let random = &mut self.random;
        let give = |from: Selector, to: u64, rights: Rights| {
            let _ = syscall::delegate(from, domain, Selector(to as u32), rights);
        };
        give(domain, table::DOMAIN, rights(random));
        give(v.at(own::SPACE), table::SPACE, rights(random));
        give(v.at(own::GUEST), table::GUEST, rights(random));
        give(v.at(own::SPARE_SCHED), table::SCHED, rights(random));
        give(ECHO, table::ECHO, Rights::CALL | Rights::DELEGATE);
        give(
            ROOT_INTERRUPTS.offset(random.pick(&[5, 10, 11]) as u32),
            table::INTERRUPT,
            Rights::all(),
        );
        give(ROOT_LOG, table::LOG, Rights::DELEGATE);
        give(v.at(own::VCPU), table::VCPU, rights(random));
        for n in 0..v.threads {
            let i = n as u32;
            give(v.at(own::THREADS + i), table::THREADS + n, rights(random));
            give(v.at(own::EXCEPTIONS + i), table::EXCEPTIONS + n, Rights::all());
            give(v.at(own::PORTALS + i), table::PORTALS + n, Rights::all());
        }
        for kind in 0..2 * EXIT_KINDS {
            if !random.one_in(64) {
                give(v.at(own::EXITS + kind), table::EXITS + kind as u64, Rights::all());
            }
        }
        // Not the right to set schedules: nobody else would run any more.
        let create = Rights::CREATE | Rights::DELEGATE;
        let limit = TimeLimit { priority: table::HIGHEST, partition: random.below(3) as u8 };
        let to = Selector(table::TIME as u32);
        let _ = syscall::delegate_time(ROOT_TIME, domain, to, create, u64::MAX, limit);
        for i in 0..2 {
            let (from, to) =
                (v.at(own::NOTIFICATION + i), Selector((table::NOTIFICATION as u32) + i));
            let _ = syscall::delegate_notification(
                from,
                domain,
                to,
                rights(random),
                Badge(random.word()),
            );
        }
        let to = Selector(table::MEMORY as u32);
        let _ =
            syscall::delegate_memory(self.memory, domain, to, Rights::all(), v.number * AREA, AREA);
        let to = Selector(table::PORTS as u32);
        let _ = syscall::delegate_memory(ROOT_PORTS, domain, to, Rights::all(), 0xe0, 16);
    }

    /// Gives `v` capabilities of `peer`.
    pub(super) fn introduce(&mut self, v: &Victim, peer: &Victim) {
        let domain = v.at(own::DOMAIN);
        let peers = [own::DOMAIN, own::SPACE, own::NOTIFICATION, own::PORTALS + 2];
        for (from, to) in peers.into_iter().zip(table::PEER as u32..) {
            let rights = rights(&mut self.random);
            let _ = if from == own::NOTIFICATION {
                syscall::delegate_notification(
                    peer.at(from),
                    domain,
                    Selector(to),
                    rights,
                    Badge(u64::MAX),
                )
            } else {
                syscall::delegate(peer.at(from), domain, Selector(to), rights)
            };
        }
    }

    pub(super) fn start(&mut self, v: &Victim) {
        for t in 0..v.threads as u32 {
            let _ = syscall::bind_sched(v.at(own::SCHEDS + t), v.at(own::THREADS + t));
        }
        let _ = syscall::bind_sched(v.at(own::VCPU_SCHED), v.at(own::VCPU));
    }

    /// Has the vCPU or a thread of a domain that runs go to another CPU.
    pub(super) fn move_one(&mut self, v: &Victim) {
        let at = match self.random.below(2) {
            0 => own::VCPU,
            _ => own::THREADS + self.random.below(v.threads) as u32,
        };
        let cpu = self.random.below(self.cpus) as u32;
        let _ = syscall::migrate(v.at(at), cpu, ROOT_TIME, exits(cpu));
    }

    /// Ends single objects of a domain that runs.
    pub(super) fn wound(&mut self, v: &Victim) {
        for _ in 0..self.random.below(6) {
            let first = self.random.pick(&[
                own::THREADS as u64,
                own::SCHEDS as u64,
                own::EXCEPTIONS as u64,
                own::PORTALS as u64,
                own::EXITS as u64,
            ]) as u32;
            let at = match self.random.below(4) {
                0 => own::VCPU + self.random.below(3) as u32,
                1 => own::SEGMENTS + self.random.below(15) as u32,
                _ => first + self.random.below(v.threads) as u32,
            };
            let _ = if self.random.one_in(4) {
                syscall::revoke(v.at(at))
            } else {
                syscall::delete(v.at(at))
            };
        }
    }
}
