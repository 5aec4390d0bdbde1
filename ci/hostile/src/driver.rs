//! The root task: makes hostile domains, ends them, and looks what they left behind.

use crate::arch::{self, echo, guest, watch_entry};
use crate::calls::table;
use crate::place::{self, AREA, Control};
use crate::random::Random;
use abi::boot::{
    BootInfo, ROOT_BUNDLE, ROOT_DOMAIN, ROOT_FREE, ROOT_INTERRUPTS, ROOT_LOG, ROOT_MEMORY,
    ROOT_PORTS, ROOT_SPACE,
};
use abi::bundle::{HEAD_SIZE, Head};
use abi::cap::MemoryKind;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::vcpu::EXIT_KINDS;
use abi::{Badge, Op, Rights, Selector, Tag};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::arch::{Registers, call_portal, counter};
use rt::syscall::{self, Deadline, MapParameters, Result, ThreadParameters, Time, VcpuParameters};

const HEAD_MAPPING: Selector = ROOT_FREE;
const AREA_MAPPING: Selector = ROOT_FREE.offset(1);
const UART_MAPPING: Selector = ROOT_FREE.offset(2);
const PAUSE: Selector = ROOT_FREE.offset(3);
const ECHO_THREAD: Selector = ROOT_FREE.offset(4);
const ECHO: Selector = ROOT_FREE.offset(5);
const WATCH_THREAD: Selector = ROOT_FREE.offset(6);
const WATCH_SCHED: Selector = ROOT_FREE.offset(7);
const WATCH_PAUSE: Selector = ROOT_FREE.offset(8);

const HEAD_ADDRESS: u64 = 0x6000_0000;
const AREAS: u64 = 0x2000_0000;
const ECHO_UTCB: u64 = 0x5000_0000;
const WATCH_UTCB: u64 = 0x5000_1000;

/// Most domains in a round.
const DOMAINS: u64 = 3;
/// The driver's selectors for one of them.
const SELECTORS: u32 = 256;
/// Kernel memory of which all three live.
const QUOTA: u64 = 240;

/// Selectors of a domain here, counted from its first; the first 24 of a kind are for its threads.
mod own {
    pub const DOMAIN: u32 = 0;
    pub const SPACE: u32 = 1;
    pub const GUEST: u32 = 2;
    pub const SEGMENTS: u32 = 3;
    pub const MEMORY: u32 = 10;
    pub const GUEST_MEMORY: u32 = 11;
    pub const VCPU: u32 = 12;
    pub const VCPU_SCHED: u32 = 13;
    pub const SPARE_SCHED: u32 = 14;
    pub const NOTIFICATION: u32 = 16;
    pub const THREADS: u32 = 24;
    pub const SCHEDS: u32 = 48;
    pub const EXCEPTIONS: u32 = 72;
    pub const PORTALS: u32 = 96;
    pub const EXITS: u32 = 120;
}

// What these variables say when the program is built.
/// Most rounds.
const ROUNDS: u64 = number(option_env!("HOSTILE_ROUNDS"), 100_000);
/// After so many seconds no round begins.
const SECONDS: u64 = number(option_env!("HOSTILE_SECONDS"), 8);
/// Of the generator.
const SEED: u64 = number(option_env!("HOSTILE_SEED"), 1);

const fn number(text: Option<&str>, default: u64) -> u64 {
    let Some(text) = text else { return default };
    let (bytes, mut value, mut i) = (text.as_bytes(), 0, 0);
    while i < bytes.len() {
        assert!(bytes[i].is_ascii_digit());
        value = value * 10 + (bytes[i] - b'0') as u64;
        i += 1;
    }
    value
}

/// The round that runs, for whoever watches whether it ends; bits 48 and up say what is being done.
static ROUND: AtomicU64 = AtomicU64::new(0);
static HZ: AtomicU64 = AtomicU64::new(0);
static UART: AtomicU64 = AtomicU64::new(0);

/// Prints one line on the device that the kernel wrote its log to. The driver takes the log over, so that
/// programs which stop for want of a handler do not fill the screen.
fn print(text: fmt::Arguments<'_>) {
    let uart = UART.load(Ordering::Relaxed);
    arch::line(uart, UART_MAPPING, format_args!("hostile: {text}"));
}

fn fail(text: fmt::Arguments<'_>) -> ! {
    print(format_args!(
        "FAILED in round {}: {text}",
        ROUND.load(Ordering::Relaxed) & 0xffff_ffff
    ));
    rest()
}

fn must<T>(what: &str, result: Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(status) => fail(format_args!("{what}: {}", status.name())),
    }
}

/// Waits for ever.
fn rest() -> ! {
    loop {
        pause(u64::MAX / 2);
    }
}

fn pause(ticks: u64) {
    let _ = syscall::wait(PAUSE, Deadline::after(ticks));
}

/// Says so if a round does not end.
pub(crate) extern "C" fn watch() -> ! {
    let limit = HZ.load(Ordering::Relaxed).saturating_mul(20);
    let mut last = 0;
    loop {
        let _ = syscall::wait(WATCH_PAUSE, Deadline::after(limit));
        let now = ROUND.load(Ordering::Relaxed);
        if now == last && now != 0 {
            print(format_args!(
                "FAILED: round {} hangs at step {}",
                now & 0xffff_ffff,
                now >> 48
            ));
        }
        last = now;
    }
}

#[repr(C, align(16))]
struct Stack([u8; 8192]);
static mut WATCH_STACK: Stack = Stack([0; 8192]);

struct Driver {
    random: Random,
    head: Head,
    memory: Selector,
    cpus: u64,
    virtualization: bool,
    calls: u64,
}

/// A domain of this round.
#[derive(Clone, Copy)]
struct Victim {
    number: u64,
    first: Selector,
    threads: u64,
    /// All threads but the first two are handlers on CPU 0, each of which calls the next.
    chain: bool,
}

impl Victim {
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

    /// The CPU of thread `t`: even ones are on CPU 0, odd ones on the last.
    fn cpu(&self, t: u64, cpus: u64) -> u32 {
        if self.chain || t.is_multiple_of(2) {
            0
        } else {
            cpus as u32 - 1
        }
    }

    fn at(&self, offset: u32) -> Selector {
        self.first.offset(offset)
    }

    fn area(&self) -> u64 {
        AREAS + self.number * AREA
    }

    fn control(&self, thread: u64) -> *mut Control {
        (self.area() + place::control(thread)) as *mut Control
    }
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
    fn make(&mut self, number: u64) -> Victim {
        let threads = if self.random.one_in(4) {
            table::MOST_THREADS
        } else {
            4 + self.random.below(6)
        };
        let chain = threads == table::MOST_THREADS && self.random.one_in(2);
        let v = Victim {
            number,
            first: ROOT_FREE.offset(64 + SELECTORS * number as u32),
            threads,
            chain,
        };
        let pages = if self.random.one_in(4) {
            10 + self.random.below(40)
        } else {
            50 + self.random.below(QUOTA)
        };
        let domain = v.at(own::DOMAIN);
        must(
            "domain",
            syscall::create_domain(ROOT_DOMAIN, domain, pages, table::SLOTS),
        );
        let _ = self.furnish(&v);
        v
    }

    fn furnish(&mut self, v: &Victim) -> Result {
        let domain = v.at(own::DOMAIN);
        let space = v.at(own::SPACE);
        syscall::create_space(domain, space, SpaceKind::Host)?;
        let mut segments = 0;
        for segment in self.head.segments() {
            let rights = Rights::from_bits_truncate(segment.rights as u16);
            if rights.contains(Rights::WRITE) {
                continue;
            }
            let (offset, address, size) = (segment.offset, segment.address, segment.size);
            let p = MapParameters {
                offset,
                address,
                size,
                rights,
            };
            syscall::map(ROOT_BUNDLE, space, v.at(own::SEGMENTS + segments), &p)?;
            segments += 1;
        }
        let offset = v.number * AREA;
        let p = MapParameters {
            offset,
            address: place::MEMORY,
            size: AREA,
            rights: Rights::RW,
        };
        syscall::map(self.memory, space, v.at(own::MEMORY), &p)?;
        for i in 0..2 {
            syscall::create_notification(domain, v.at(own::NOTIFICATION + i))?;
        }
        self.make_threads(v)?;
        if self.virtualization {
            let _ = self.make_vcpu(v);
        }
        let time = self.time();
        let _ = syscall::create_sched(domain, v.at(own::SPARE_SCHED), 0, time);
        self.give(v);
        Ok(())
    }

    fn time(&mut self) -> Time {
        let priority = self.random.below(60) as u8;
        let (budget, period) = self.random_budget();
        Time {
            priority,
            budget,
            period,
        }
    }

    fn random_budget(&mut self) -> (u64, u64) {
        if self.random.one_in(4) {
            (50_000, 200_000)
        } else {
            (0, 0)
        }
    }

    fn make_threads(&mut self, v: &Victim) -> Result {
        let domain = v.at(own::DOMAIN);
        for t in 0..v.threads {
            let n = t as u32;
            let cpu = v.cpu(t, self.cpus);
            let role = v.handles(t) as u64;
            let next = if !v.chain && self.random.one_in(4) {
                0
            } else {
                v.next(t)
            };
            let control = Control {
                seed: self.random.word(),
                calls: 0,
                role,
                next,
                number: t,
                cpus: self.cpus,
                reserved: [0; 2],
            };
            // SAFETY: the domain's memory is mapped here for the driver, and nobody else runs on it yet.
            unsafe { v.control(t).write_volatile(control) };
            let foreign = !v.handles(t) && self.random.one_in(8);
            let flags = if foreign {
                ThreadFlags::FOREIGN
            } else {
                ThreadFlags::empty()
            };
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
                let cpu = v.cpu(t, self.cpus);
                let time = self.time();
                syscall::create_sched(domain, v.at(own::SCHEDS + n), cpu, time)?;
            }
        }
        Ok(())
    }

    fn make_vcpu(&mut self, v: &Victim) -> Result {
        let (domain, space) = (v.at(own::DOMAIN), v.at(own::GUEST));
        syscall::create_space(domain, space, SpaceKind::Guest)?;
        let memory = v.area() + place::GUEST;
        for (i, byte) in guest::code().enumerate() {
            // SAFETY: as for the control blocks.
            unsafe { (memory as *mut u8).add(i).write_volatile(byte) };
        }
        // The guest starts with its caches off, if it has such a thing.
        rt::arch::clean_to_memory(memory as usize..(memory + place::GUEST_SIZE) as usize);
        let rights = Rights::RW | Rights::EXEC;
        let offset = v.number * AREA + place::GUEST;
        let p = MapParameters {
            offset,
            address: 0,
            size: place::GUEST_SIZE,
            rights,
        };
        syscall::map(self.memory, space, v.at(own::GUEST_MEMORY), &p)?;
        let cpu = self.random.below(self.cpus) as u32;
        let handler = v.at(own::THREADS + 2 + (cpu != 0) as u32);
        for kind in 0..EXIT_KINDS {
            let groups = guest::saved(&mut self.random, kind);
            syscall::create_portal(
                domain,
                v.at(own::EXITS + kind),
                handler,
                kind.into(),
                groups,
            )?;
        }
        let p = VcpuParameters {
            domain,
            guest_space: space,
            cpu,
            host_space: v.at(own::SPACE),
            state: place::STATE,
            portals: Selector(table::EXITS as u32),
        };
        syscall::create_vcpu(domain, v.at(own::VCPU), &p)?;
        if self.random.one_in(2) {
            let _ = syscall::bind_kick(v.at(own::VCPU), v.at(own::NOTIFICATION));
        }
        let time = self.time();
        syscall::create_sched(domain, v.at(own::VCPU_SCHED), cpu, time)
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
            give(
                v.at(own::EXCEPTIONS + i),
                table::EXCEPTIONS + n,
                Rights::all(),
            );
            give(v.at(own::PORTALS + i), table::PORTALS + n, Rights::all());
        }
        for kind in 0..EXIT_KINDS {
            if !random.one_in(64) {
                give(
                    v.at(own::EXITS + kind),
                    table::EXITS + kind as u64,
                    Rights::all(),
                );
            }
        }
        for i in 0..2 {
            let (from, to) = (
                v.at(own::NOTIFICATION + i),
                Selector((table::NOTIFICATION as u32) + i),
            );
            let _ = syscall::delegate_notification(
                from,
                domain,
                to,
                rights(random),
                Badge(random.word()),
            );
        }
        let to = Selector(table::MEMORY as u32);
        let _ = syscall::delegate_memory(
            self.memory,
            domain,
            to,
            Rights::all(),
            v.number * AREA,
            AREA,
        );
        let to = Selector(table::PORTS as u32);
        let _ = syscall::delegate_memory(ROOT_PORTS, domain, to, Rights::all(), 0xe0, 16);
    }

    /// Gives `v` capabilities of `peer`.
    fn introduce(&mut self, v: &Victim, peer: &Victim) {
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

    fn start(&mut self, v: &Victim) {
        for t in 0..v.threads as u32 {
            let _ = syscall::bind_sched(v.at(own::SCHEDS + t), v.at(own::THREADS + t));
        }
        let _ = syscall::bind_sched(v.at(own::VCPU_SCHED), v.at(own::VCPU));
    }

    /// Ends single objects of a domain that runs.
    fn wound(&mut self, v: &Victim) {
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

    fn step(&self, round: u64, step: u64) {
        ROUND.store(round | step << 48, Ordering::Relaxed);
    }

    fn round(&mut self, round: u64) {
        self.step(round, 1);
        let before = must("quota", syscall::quota(ROOT_DOMAIN));
        let count = 1 + self.random.below(DOMAINS);
        let mut victims = [Victim {
            number: 0,
            first: Selector::NULL,
            threads: 0,
            chain: false,
        }; DOMAINS as usize];
        let victims = &mut victims[..count as usize];
        for (number, victim) in (0..).zip(victims.iter_mut()) {
            *victim = self.make(number);
        }
        self.step(round, 2);
        for i in 0..victims.len() {
            let peer = victims[(i + 1) % victims.len()];
            self.introduce(&victims[i], &peer);
        }
        for v in victims.iter() {
            self.start(v);
        }
        self.step(round, 3);
        let tick = HZ.load(Ordering::Relaxed) / 4000;
        for _ in 0..self.random.below(4) {
            let ticks = self.random.below(8) * tick + 1;
            pause(ticks);
            if self.random.one_in(2) {
                let v = victims[self.random.below(count) as usize];
                self.wound(&v);
            }
        }
        self.step(round, 4);
        let first = self.random.below(count) as usize;
        for i in 0..victims.len() {
            let v = victims[(first + i) % victims.len()];
            must("end of a domain", syscall::delete(v.at(own::DOMAIN)));
            for t in 0..v.threads {
                // SAFETY: as for the control blocks; nobody else can reach them any more.
                self.calls += unsafe { (&raw const (*v.control(t)).calls).read_volatile() };
                // SAFETY: as above.
                unsafe { (&raw mut (*v.control(t)).calls).write_volatile(0) };
            }
        }
        self.step(round, 5);
        for v in victims.iter() {
            self.clear(v);
        }
        self.step(round, 6);
        let answer = call_portal(Registers {
            tag: Tag::new(Op::Call, 0).0,
            first: ECHO.0.into(),
            words: [round, 1, 2, 3, 4, 5, 6, 7],
        });
        if answer.tag != 0 || answer.words != [round, 1, 2, 3, 4, 5, 6, 7] {
            fail(format_args!(
                "the driver's own call was answered with {answer:x?}"
            ));
        }
        let after = must("quota", syscall::quota(ROOT_DOMAIN));
        if before != after {
            // Something may be late.
            pause(HZ.load(Ordering::Relaxed) / 10);
            self.clear(&victims[0]);
            let late = must("quota", syscall::quota(ROOT_DOMAIN));
            fail(format_args!(
                "used {} pages before, {} after, {} later",
                before.used, after.used, late.used
            ));
        }
    }

    /// All of the domain's selectors have to be empty by now but for those of capabilities that were the driver's.
    fn clear(&mut self, v: &Victim) {
        for i in 0..SELECTORS {
            match syscall::delete(v.at(i)) {
                Err(abi::Status::BadCapability) => {}
                other => fail(format_args!("selector {i} was not empty: {other:?}")),
            }
        }
        let mut bytes = [0; syscall::LOG_CHUNK];
        while syscall::log_read(ROOT_LOG, true, &mut bytes).is_ok_and(|count| count != 0) {}
    }
}

fn first_thread(selector: Selector, ip: u64, sp: u64, utcb: u64) -> Result {
    let (domain, space) = (ROOT_DOMAIN, ROOT_SPACE);
    let p = ThreadParameters {
        domain,
        space,
        cpu: 0,
        utcb,
        ip,
        sp,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(domain, selector, &p)
}

fn set_up(info: &BootInfo) -> Driver {
    let mut bytes = [0; syscall::LOG_CHUNK];
    while syscall::log_read(ROOT_LOG, true, &mut bytes).is_ok_and(|count| count != 0) {}
    UART.store(arch::open_uart(info, UART_MAPPING), Ordering::Relaxed);
    HZ.store(info.counter_hz, Ordering::Relaxed);
    for selector in [PAUSE, WATCH_PAUSE] {
        must(
            "notification",
            syscall::create_notification(ROOT_DOMAIN, selector),
        );
    }
    let rights = Rights::READ;
    let p = MapParameters {
        offset: 0,
        address: HEAD_ADDRESS,
        size: 4096,
        rights,
    };
    must(
        "head",
        syscall::map(ROOT_BUNDLE, ROOT_SPACE, HEAD_MAPPING, &p),
    );
    // SAFETY: just mapped, read-only, and nobody writes to the bundle's head.
    let bytes = unsafe { core::slice::from_raw_parts(HEAD_ADDRESS as *const u8, HEAD_SIZE) };
    let Ok(head) = Head::decode(bytes, info.bundle_size) else {
        fail(format_args!("no head"))
    };
    let regions = &info.regions[..info.region_count as usize];
    let fits = |r: &abi::boot::Region| {
        r.kind == MemoryKind::Ram as u32 && r.base >= 1 << 20 && r.size >= DOMAINS * AREA
    };
    let Some(ram) = regions.iter().position(fits) else {
        fail(format_args!("no memory"))
    };
    let memory = ROOT_MEMORY.offset(ram as u32);
    let p = MapParameters {
        offset: 0,
        address: AREAS,
        size: DOMAINS * AREA,
        rights: Rights::RW,
    };
    must("memory", syscall::map(memory, ROOT_SPACE, AREA_MAPPING, &p));
    must(
        "echo",
        first_thread(ECHO_THREAD, echo as *const () as u64, 4096, ECHO_UTCB),
    );
    must(
        "echo",
        syscall::create_portal(ROOT_DOMAIN, ECHO, ECHO_THREAD, 1, 0),
    );
    let top = &raw const WATCH_STACK as u64 + size_of::<Stack>() as u64;
    must(
        "watch",
        first_thread(
            WATCH_THREAD,
            watch_entry as *const () as u64,
            top,
            WATCH_UTCB,
        ),
    );
    let time = Time {
        priority: 127,
        budget: 0,
        period: 0,
    };
    must(
        "watch",
        syscall::create_sched(ROOT_DOMAIN, WATCH_SCHED, 0, time),
    );
    must("watch", syscall::bind_sched(WATCH_SCHED, WATCH_THREAD));
    let virtualization = info.virtualization != 0;
    Driver {
        random: Random(SEED),
        head,
        memory,
        cpus: info.cpus.into(),
        virtualization,
        calls: 0,
    }
}

/// Does all rounds.
pub fn run(info: &BootInfo) -> ! {
    let mut driver = set_up(info);
    print(format_args!("begin: {} CPUs, seed {SEED}", info.cpus));
    let begin = counter();
    let end = info
        .counter_hz
        .saturating_mul(SECONDS)
        .saturating_add(begin);
    for round in 1..=ROUNDS {
        driver.round(round);
        if round % 100 == 0 {
            print(format_args!("{round} rounds, {} calls", driver.calls));
        }
        if counter() > end {
            break;
        }
    }
    ROUND.store(0, Ordering::Relaxed);
    let ms = (counter() - begin) / (info.counter_hz / 1000).max(1);
    print(format_args!("done {} calls in {ms} ms", driver.calls));
    rest()
}
