//! Measures what each flood leaves.

use crate::flood::{self, Entry, OVERRUNS, TURNS};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_LOG, ROOT_TIME, ROOT_UTCB};
use abi::cap::TimeLimit;
use abi::{Rights, Selector, Status};
use core::fmt;
use core::sync::atomic::Ordering;
use rt::arch::counter;
use rt::ipc::Utcb;
use rt::syscall::{self, Deadline, Result, Time, Window};
use trial::Stack;

const NEVER: Selector = ROOT_FREE;
const ALARM: Selector = ROOT_FREE.offset(1);
/// Rings for [`flood::answer`].
pub const BELL: Selector = ROOT_FREE.offset(2);
/// Tells overruns.
pub const OVERRUN: Selector = ROOT_FREE.offset(3);
/// Two that nobody signals.
pub const SILENCE: Selector = ROOT_FREE.offset(4);
const ECHO: Selector = ROOT_FREE.offset(6);
/// A portal that answers.
pub const ECHO_PORTAL: Selector = ROOT_FREE.offset(7);
/// Time of the partition 1.
const PARTITION: Selector = ROOT_FREE.offset(8);
/// Threads, and their scheduling contexts after them.
const THREADS: Selector = ROOT_FREE.offset(16);
const SCHEDS: Selector = ROOT_FREE.offset(32);

const UTCBS: u64 = 0x5000_0000;
const MOST_THREADS: usize = 4;
static STACKS: [Stack; MOST_THREADS] = [const { Stack::zeroed() }; MOST_THREADS];
/// Threads that stay: who counts turns, who counts overruns.
const COUNTERS: usize = 2;

/// Periods in a second, and how many of them are measured.
const PERIODS: u64 = 100;
const MEASURED: u64 = 10;

/// One of those who take what they can get.
struct Member {
    entry: Entry,
    priority: u8,
    /// Budget in thousandths of the period; 0: none.
    budget: u64,
}

const fn member(entry: Entry, priority: u8, budget: u64) -> Member {
    Member { entry, priority, budget }
}

struct Flood {
    name: &'static str,
    members: &'static [Member],
    /// Thousandths that it leaves to others: at least, and at most.
    leaves: (u64, u64),
    /// Thousandths of the major frame that the first window, that of the members, takes; 0: no schedule.
    window: u64,
}

/// Floods, and what they must leave. What the kernel does on behalf of others while nobody of them runs is at the cost of
/// whoever runs: switches, and the interrupts of the timer.
const FLOODS: &[Flood] = &[
    Flood {
        name: "spinning",
        members: &[member(flood::spin, 100, 200)],
        leaves: (790, 810),
        window: 0,
    },
    Flood {
        name: "calls",
        members: &[member(flood::call, 100, 200)],
        leaves: (790, 810),
        window: 0,
    },
    Flood {
        name: "signals",
        members: &[member(flood::signal, 100, 200), member(flood::answer, 101, 100)],
        leaves: (690, 810),
        window: 0,
    },
    Flood {
        name: "interrupts",
        members: &[member(flood::interrupt, 100, 100), member(flood::interrupt_too, 101, 100)],
        leaves: (700, 810),
        window: 0,
    },
    Flood {
        name: "a partition",
        members: &[member(flood::spin, 100, 0), member(flood::call, 101, 0)],
        leaves: (690, 710),
        window: 300,
    },
];

/// Why it fails.
struct Failure(&'static str, Option<Status>);

impl From<Status> for Failure {
    fn from(status: Status) -> Failure {
        Failure("a system call", Some(status))
    }
}

fn say(text: fmt::Arguments<'_>) {
    rt::log::line(ROOT_LOG, "shares", text);
}

struct Meter {
    utcb: Utcb,
    /// Ticks.
    period: u64,
    /// Turns in the measured time of who is alone.
    alone: u64,
}

/// Makes thread `number` and has it run.
fn start(number: usize, time_source: Selector, member: &Member, period: u64) -> Result {
    let (thread, sched) = (THREADS.offset(number as u32), SCHEDS.offset(number as u32));
    let utcb = UTCBS + (number * abi::PAGE_SIZE) as u64;
    trial::create_thread(thread, utcb, member.entry, STACKS[number].top())?;
    let time = Time {
        priority: member.priority,
        budget: period * member.budget / 1000,
        period: if member.budget == 0 { 0 } else { period },
    };
    syscall::create_sched(ROOT_DOMAIN, sched, time_source, 0, time)?;
    syscall::bind_overrun(sched, OVERRUN)?;
    syscall::bind_sched(sched, thread)
}

/// Ends thread `number`.
fn end(number: usize) -> Result {
    syscall::delete(SCHEDS.offset(number as u32))?;
    syscall::delete(THREADS.offset(number as u32))
}

impl Meter {
    fn new(info: &BootInfo) -> Result<Meter> {
        for notification in [ALARM, BELL, OVERRUN, SILENCE, SILENCE.offset(1)] {
            syscall::create_notification(ROOT_DOMAIN, notification)?;
        }
        let echo_utcb = UTCBS + (MOST_THREADS * abi::PAGE_SIZE) as u64;
        trial::create_thread(ECHO, echo_utcb, trial::echo, 0)?;
        syscall::create_portal(ROOT_DOMAIN, ECHO_PORTAL, ECHO, 1, 0)?;
        let limit = TimeLimit { partition: 1, ..TimeLimit::ALL };
        syscall::delegate_time(ROOT_TIME, ROOT_DOMAIN, PARTITION, Rights::CREATE, 1, limit)?;
        let mut meter = Meter {
            // SAFETY: the kernel maps the root task's UTCB there; this is the only handle.
            utcb: unsafe { Utcb::new(ROOT_UTCB) },
            period: info.counter_hz / PERIODS,
            alone: 0,
        };
        start(0, ROOT_TIME, &member(flood::count, 1, 0), meter.period)?;
        start(1, ROOT_TIME, &member(flood::count_overruns, 120, 0), meter.period)?;
        meter.alone = meter.turns()?.0;
        Ok(meter)
    }

    /// Turns and overruns in the measured time, which begins some periods from now.
    fn turns(&self) -> Result<(u64, u64)> {
        let look = |time: u64| match syscall::wait(ALARM, Deadline(time)) {
            Err(Status::Timeout) => Ok([&TURNS, &OVERRUNS].map(|n| n.load(Ordering::Relaxed))),
            Err(status) => Err(status),
            Ok(_) => Err(Status::Aborted),
        };
        // In the middle of a period.
        let begin = counter() + self.period * 5 / 2;
        let before = look(begin)?;
        let after = look(begin + MEASURED * self.period)?;
        Ok((after[0] - before[0], after[1] - before[1]))
    }

    /// The first `share` thousandths of the frame are the partition's, the rest is of all others. 0: no schedule.
    fn set_schedule(&mut self, share: u64) -> Result {
        let first = Window { start: 0, length: self.period * share / 1000, partition: 1 };
        let rest = Window { start: first.length, length: self.period - first.length, partition: 0 };
        let (frame, windows) = match share {
            0 => (0, &[][..]),
            _ => (self.period, &[first, rest][..]),
        };
        syscall::set_schedule(&mut self.utcb, ROOT_TIME, 0, frame, windows)
    }

    fn measure(&mut self, flood: &Flood) -> core::result::Result<(), Failure> {
        let source = if flood.window == 0 {
            ROOT_TIME
        } else {
            self.set_schedule(flood.window)?;
            PARTITION
        };
        for (number, member) in (COUNTERS..).zip(flood.members) {
            start(number, source, member, self.period)?;
        }
        let (turns, overruns) = self.turns()?;
        for number in COUNTERS..COUNTERS + flood.members.len() {
            end(number)?;
        }
        if flood.window != 0 {
            self.set_schedule(0)?;
        }
        let left = turns * 1000 / self.alone.max(1);
        let (least, most) = flood.leaves;
        let name = flood.name;
        say(format_args!(
            "{name}: {left} of 1000 left, {least} to {most} promised, {overruns} overruns"
        ));
        if !(least..=most).contains(&left) {
            return Err(Failure(name, None));
        }
        // Each who has a budget wants more in each period.
        let wanted = flood.members.iter().filter(|member| member.budget != 0).count() as u64;
        if overruns > wanted * (MEASURED + 1) || (wanted != 0) != (overruns + 1 >= MEASURED) {
            return Err(Failure("overruns", None));
        }
        Ok(())
    }
}

/// Measures all, and rests.
pub fn run(info: &BootInfo) -> ! {
    let result = Meter::new(info)
        .map_err(Failure::from)
        .and_then(|mut meter| FLOODS.iter().try_for_each(|flood| meter.measure(flood)));
    match result {
        Ok(()) => say(format_args!("done")),
        Err(Failure(what, None)) => say(format_args!("FAILED {what}")),
        Err(Failure(what, Some(status))) => say(format_args!("FAILED {what}: {}", status.name())),
    }
    trial::rest(NEVER)
}
