//! The root task: makes hostile domains, ends them, and looks what they left behind.

mod domain;

use crate::arch::{self, watch_entry};
use crate::place::AREA;
use crate::random::{Random, mix};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG, ROOT_SPACE, ROOT_TIME};
use abi::bundle::Head;
use abi::{Op, Rights, Selector, Status, Tag};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use domain::{AREAS, SELECTORS, Victim, own};
use rt::arch::{Registers, call_portal, counter};
use rt::syscall::{self, Deadline, MapParameters, Result, Time};
use trial::{Stack, create_thread, echo, map_head};

const HEAD_MAPPING: Selector = ROOT_FREE;
const AREA_MAPPING: Selector = ROOT_FREE.offset(1);
const UART_MAPPING: Selector = ROOT_FREE.offset(2);
const PAUSE: Selector = ROOT_FREE.offset(3);
const ECHO_THREAD: Selector = ROOT_FREE.offset(4);
const ECHO: Selector = ROOT_FREE.offset(5);
const WATCH_THREAD: Selector = ROOT_FREE.offset(6);
const WATCH_SCHED: Selector = ROOT_FREE.offset(7);
const WATCH_PAUSE: Selector = ROOT_FREE.offset(8);
const BUNDLE_MAPPING: Selector = ROOT_FREE.offset(9);

const ECHO_UTCB: u64 = 0x5000_0000;
const WATCH_UTCB: u64 = 0x5000_1000;

/// Most domains in a round.
const DOMAINS: u64 = 3;

/// What the bundle's text [`SETTINGS`] can say, as `name=number` with spaces between.
#[derive(Clone, Copy)]
struct Settings {
    /// Of the generators.
    seed: u64,
    /// After so many seconds of the machine no round begins.
    seconds: u64,
    /// After so many system calls no round begins.
    calls: u64,
    /// 0: without guests, monitors and vCPUs.
    guests: u64,
}

/// Name of the text.
const SETTINGS: &str = "settings";

impl Settings {
    fn read(info: &BootInfo) -> Settings {
        let mut settings = Settings { seed: 1, seconds: 8, calls: u64::MAX, guests: 1 };
        let bundle = must("bundle", trial::open_bundle(info, BUNDLE_MAPPING));
        let text = bundle.file(SETTINGS).map_or(&[][..], |(_, bytes)| bytes);
        let text = core::str::from_utf8(text).unwrap_or_default();
        for (name, value) in text.split(' ').filter_map(|part| part.split_once('=')) {
            let field = match name {
                "seed" => &mut settings.seed,
                "seconds" => &mut settings.seconds,
                "calls" => &mut settings.calls,
                "guests" => &mut settings.guests,
                _ => continue,
            };
            *field = value.trim().parse().unwrap_or(*field);
        }
        settings
    }
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
    print(format_args!("FAILED in round {}: {text}", ROUND.load(Ordering::Relaxed) & 0xffff_ffff));
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
            print(format_args!("FAILED: round {} hangs at step {}", now & 0xffff_ffff, now >> 48));
        }
        last = now;
    }
}

static WATCH_STACK: Stack = Stack::zeroed();

/// Empties the log.
fn drain_log() {
    let mut bytes = [0; syscall::LOG_CHUNK];
    while syscall::log_read(ROOT_LOG, true, &mut bytes).is_ok_and(|count| count != 0) {}
}

struct Driver {
    random: Random,
    head: Head,
    memory: Selector,
    cpus: u64,
    virtualization: bool,
    calls: u64,
    /// What all calls returned, as one number.
    digest: u64,
}

impl Driver {
    fn step(&self, round: u64, step: u64) {
        ROUND.store(round | step << 48, Ordering::Relaxed);
    }

    fn round(&mut self, round: u64) {
        self.step(round, 1);
        let before = must("quota", syscall::quota(ROOT_DOMAIN));
        let count = 1 + self.random.below(DOMAINS);
        let mut victims = [Victim::NONE; DOMAINS as usize];
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
            for _ in 0..self.random.below(8) {
                let v = victims[self.random.below(count) as usize];
                self.move_one(&v);
            }
        }
        self.step(round, 4);
        let first = self.random.below(count) as usize;
        for i in 0..victims.len() {
            let v = victims[(first + i) % victims.len()];
            must("end of a domain", syscall::delete(v.at(own::DOMAIN)));
            if let Some((call, result)) = v.undeclared() {
                let op = Op::from_code(call.op()).map_or("no operation", Op::name);
                let status = result.status().name();
                fail(format_args!("{op} ({:#x}) returned {status} ({:#x})", call.0, result.0));
            }
            let (calls, digest) = v.take_calls();
            self.calls += calls;
            self.digest = mix(self.digest ^ digest);
        }
        self.step(round, 5);
        for v in victims.iter() {
            self.clear(v);
        }
        self.step(round, 6);
        let call = |portal: u64| {
            call_portal(Registers {
                tag: Tag::new(Op::Call, 0).0,
                first: portal,
                words: [round, 1, 2, 3, 4, 5, 6, 7],
            })
        };
        let answer = call(ECHO.0.into());
        if answer.tag != 0 || answer.words != [round, 1, 2, 3, 4, 5, 6, 7] {
            fail(format_args!("the driver's own call was answered with {answer:x?}"));
        }
        // The fast path looks at the whole register, too.
        let refused = Tag(call(1 << 32 | u64::from(ECHO.0)).tag).status();
        if refused != Status::BadArgument {
            let name = refused.name();
            fail(format_args!("a call of a selector of 33 bits: {name}"));
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
        drain_log();
    }
}

fn set_up(info: &BootInfo, settings: &Settings) -> Driver {
    drain_log();
    UART.store(arch::open_uart(info, UART_MAPPING), Ordering::Relaxed);
    HZ.store(info.counter_hz, Ordering::Relaxed);
    for selector in [PAUSE, WATCH_PAUSE] {
        must("notification", syscall::create_notification(ROOT_DOMAIN, selector));
    }
    let head = must("head", map_head(info, HEAD_MAPPING));
    let memory = must("memory", trial::ram(info, DOMAINS * AREA));
    let p = MapParameters { offset: 0, address: AREAS, size: DOMAINS * AREA, rights: Rights::RW };
    must("memory", syscall::map(memory, ROOT_SPACE, AREA_MAPPING, &p));
    must("echo", create_thread(ECHO_THREAD, ECHO_UTCB, echo, 4096));
    must("echo", syscall::create_portal(ROOT_DOMAIN, ECHO, ECHO_THREAD, 1, 0));
    let top = WATCH_STACK.top();
    must("watch", create_thread(WATCH_THREAD, WATCH_UTCB, watch_entry, top));
    let time = Time { priority: 127, budget: 0, period: 0 };
    must("watch", syscall::create_sched(ROOT_DOMAIN, WATCH_SCHED, ROOT_TIME, 0, time));
    must("watch", syscall::bind_sched(WATCH_SCHED, WATCH_THREAD));
    let virtualization = info.virtualization != 0 && settings.guests != 0;
    Driver {
        random: Random(settings.seed),
        head,
        memory,
        cpus: info.cpus.into(),
        virtualization,
        calls: 0,
        digest: 0,
    }
}

/// Does all rounds.
pub fn run(info: &BootInfo) -> ! {
    let settings = Settings::read(info);
    let mut driver = set_up(info, &settings);
    let (cpus, seed) = (info.cpus, settings.seed);
    print(format_args!("begin: {cpus} CPUs, seed {seed}"));
    let begin = counter();
    let time = info.counter_hz.saturating_mul(settings.seconds);
    let end = time.saturating_add(begin);
    let (mut round, mut said) = (0, begin);
    while counter() < end && driver.calls < settings.calls {
        round += 1;
        driver.round(round);
        let now = counter();
        // A slow emulator takes minutes for a hundred.
        if round % 100 == 0 || now.saturating_sub(said) > info.counter_hz {
            print(format_args!("{round} rounds, {} calls", driver.calls));
            said = now;
        }
    }
    ROUND.store(0, Ordering::Relaxed);
    let (calls, digest) = (driver.calls, driver.digest);
    print(format_args!("done {calls} calls, {round} rounds, digest {digest:016x}"));
    rest()
}
