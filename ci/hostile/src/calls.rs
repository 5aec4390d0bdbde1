//! System calls that no sane program makes, and those that it might.

use crate::random::Random;
use abi::syscall::{Caching, ThreadFlags};
use abi::{Op, Status, Tag};

/// What a hostile domain finds in its capability table: first selectors.
pub mod table {
    use abi::vcpu::EXIT_KINDS;

    /// Itself.
    pub const DOMAIN: u64 = 1;
    /// Its host space.
    pub const SPACE: u64 = 2;
    /// Its guest space.
    pub const GUEST: u64 = 3;
    /// A scheduling context that is bound to nothing.
    pub const SCHED: u64 = 4;
    /// Two notifications.
    pub const NOTIFICATION: u64 = 5;
    /// Memory.
    pub const MEMORY: u64 = 7;
    /// I/O ports that no device is at.
    pub const PORTS: u64 = 8;
    /// An interrupt line without a device.
    pub const INTERRUPT: u64 = 9;
    /// The log, without a right.
    pub const LOG: u64 = 10;
    /// A portal of the driver.
    pub const ECHO: u64 = 11;
    /// Of another hostile domain: itself, its space, a notification, a portal.
    pub const PEER: u64 = 12;
    /// Threads.
    pub const THREADS: u64 = 16;
    /// Most threads.
    pub const MOST_THREADS: u64 = 24;
    /// vCPU.
    pub const VCPU: u64 = 40;
    /// Time of all CPUs, up to priority [`HIGHEST`].
    pub const TIME: u64 = 41;
    /// The highest priority that a domain can have made.
    pub const HIGHEST: u8 = 99;
    /// Portals of exceptions, one for each thread.
    pub const EXCEPTIONS: u64 = 42;
    /// Portals to call, one for each thread.
    pub const PORTALS: u64 = EXCEPTIONS + MOST_THREADS;
    /// Portals of vCPU exits: a set with handlers on the first CPU, and one with handlers on the last.
    pub const EXITS: u64 = PORTALS + MOST_THREADS;
    /// Portals of such a set.
    pub const SET: u64 = EXIT_KINDS as u64;
    /// Here on nothing is put by the driver. Programs keep what they make in [`BIN`] slots for each kind.
    pub const FREE: u64 = EXITS + 2 * SET;
    /// Slots for a kind of object.
    pub const BIN: u64 = 8;
    /// Size of the table.
    pub const SLOTS: u64 = FREE + 10 * BIN;

    const _: () = assert!(THREADS + MOST_THREADS <= VCPU);
}

/// Addresses that a call can name with a chance that it succeeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Targets {
    /// Where threads start.
    pub entry: u64,
    /// Tops of stacks.
    pub stacks: u64,
    /// Distance between them.
    pub stack_step: u64,
    /// Addresses where nothing is mapped at first.
    pub unused: u64,
    /// The machine's counter.
    pub now: u64,
    /// CPUs of the machine.
    pub cpus: u64,
}

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Operation and length.
    pub tag: u64,
    /// `a0` to `a8`.
    pub arguments: [u64; 9],
}

/// What an argument means to the kernel.
#[derive(Clone, Copy)]
enum Means {
    Domain,
    Space,
    GuestSpace,
    Thread,
    Context,
    Sched,
    Portal,
    Notification,
    Memory,
    Time,
    Interrupt,
    Log,
    Vcpu,
    Exits,
    Any,
    Created,
    Empty,
    Cpu,
    CpuAndFlags,
    Address,
    Offset,
    Size,
    Rights,
    Access,
    Entry,
    Stack,
    Small,
    Quota,
    Slots,
    Priority,
    Budget,
    Deadline,
    Word,
}

fn meanings(op: Op) -> &'static [Means] {
    use Means::*;
    match op {
        Op::Call => &[Portal],
        Op::ReplyWait => &[Word],
        Op::Signal => &[Notification],
        Op::Wait => &[Notification, Deadline],
        Op::Yield => &[],
        Op::CreateDomain => &[Domain, Empty, Quota, Slots],
        Op::CreateSpace => &[Domain, Empty, Small],
        Op::CreateThread => {
            &[Domain, Empty, Domain, Space, CpuAndFlags, Address, Entry, Stack, Portal]
        }
        Op::CreateVcpu => &[Domain, Empty, Domain, GuestSpace, Cpu, Space, Address, Exits],
        Op::CreateSched => &[Domain, Empty, Cpu, Priority, Budget, Budget, Time],
        Op::Migrate => &[Context, Cpu, Time, Exits],
        Op::SetSchedule => &[Time, Cpu, Budget],
        Op::CreatePortal => &[Domain, Empty, Thread, Small, Word],
        Op::CreateNotification => &[Domain, Empty],
        Op::Delegate => &[Any, Domain, Empty, Rights, Offset, Size, Small],
        Op::Revoke => &[Created],
        Op::Delete => &[Created],
        Op::Map => &[Memory, Space, Empty, Offset, Address, Size, Access],
        Op::BindSched => &[Sched, Context],
        Op::BindOverrun => &[Sched, Notification],
        Op::BindKick => &[Vcpu, Notification],
        Op::InterruptBind => &[Interrupt, Notification, Small],
        Op::InterruptAck => &[Interrupt],
        Op::QuotaQuery => &[Domain],
        Op::LogWrite | Op::LogRead | Op::LogBind => &[Log, Notification],
        Op::Power => &[Any, Small],
        Op::BindDoorbell => &[Notification, GuestSpace, Empty, Small, Address, Size],
        Op::QuotaGive | Op::QuotaTake => &[Domain, Domain, Quota],
    }
}

/// Where programs keep what they make: a slot for something of this meaning, or any.
fn created(random: &mut Random, means: Means) -> u64 {
    use table::*;
    let bin = match means {
        Means::Domain => 0,
        Means::Space => 1,
        Means::GuestSpace => 2,
        Means::Thread => 3,
        Means::Context => 3 + random.below(2),
        Means::Vcpu => 4,
        Means::Sched => 5,
        Means::Portal => 6,
        Means::Notification => 7,
        Means::Memory => 8,
        Means::Time => 9,
        _ => random.below((SLOTS - FREE) / BIN),
    };
    FREE + bin * BIN + random.below(BIN)
}

/// What `op` makes.
fn result(op: Op, arguments: &[u64; 9]) -> Means {
    match op {
        Op::CreateDomain => Means::Domain,
        Op::CreateSpace if arguments[2] == 1 => Means::GuestSpace,
        Op::CreateSpace => Means::Space,
        Op::CreateThread => Means::Thread,
        Op::CreateVcpu => Means::Vcpu,
        Op::CreateSched => Means::Sched,
        Op::CreatePortal => Means::Portal,
        Op::CreateNotification => Means::Notification,
        Op::Delegate if arguments[0] == table::MEMORY => Means::Memory,
        Op::Delegate if arguments[0] == table::TIME => Means::Time,
        _ => Means::Any,
    }
}

fn argument(random: &mut Random, means: Means, targets: &Targets) -> u64 {
    use table::*;
    let use_created = random.one_in(3);
    let created = created(random, means);
    let given = |random: &mut Random, choices: &[u64]| {
        if use_created { created } else { random.pick(choices) }
    };
    match means {
        Means::Domain => given(random, &[DOMAIN, DOMAIN, PEER]),
        Means::Space => given(random, &[SPACE, SPACE, PEER + 1]),
        Means::GuestSpace => given(random, &[GUEST]),
        Means::Thread => {
            let thread = THREADS + random.below(MOST_THREADS);
            given(random, &[THREADS, thread])
        }
        Means::Context => {
            let thread = THREADS + random.below(MOST_THREADS);
            given(random, &[thread, VCPU])
        }
        Means::Sched => given(random, &[SCHED]),
        Means::Portal => {
            let portal = PORTALS + random.below(MOST_THREADS);
            let any = EXITS + random.below(FREE - EXITS);
            given(random, &[portal, portal, any, ECHO, PEER + 3])
        }
        Means::Notification => {
            given(random, &[NOTIFICATION, NOTIFICATION, NOTIFICATION + 1, PEER + 2])
        }
        Means::Memory => given(random, &[MEMORY, MEMORY, PORTS]),
        Means::Time => given(random, &[TIME]),
        Means::Interrupt => given(random, &[INTERRUPT]),
        Means::Log => given(random, &[LOG]),
        Means::Vcpu => given(random, &[VCPU]),
        Means::Exits => {
            random.pick(&[EXITS, EXITS + SET, EXITS + 1, PORTALS, SLOTS - 1, 0xffff_fff8])
        }
        Means::Any => {
            if use_created {
                created
            } else {
                random.below(FREE)
            }
        }
        Means::Created => {
            if random.one_in(16) {
                random.below(FREE)
            } else {
                created
            }
        }
        Means::Empty => created,
        Means::Cpu => random.below(targets.cpus.max(1)),
        Means::CpuAndFlags => {
            let flags = random.pick(&[0, 0, 0, ThreadFlags::FOREIGN.bits()]);
            random.below(targets.cpus.max(1)) | flags
        }
        Means::Address => targets.unused + (random.below(64) << random.pick(&[12, 12, 21, 30])),
        Means::Offset => random.below(16) << 12,
        Means::Size => random.below(16) << random.pick(&[12, 12, 12, 0]),
        Means::Rights => random.pick(&[0, 1, 3, 5, 7, 0xff, 0xff, 0xf8]),
        Means::Access => {
            random.pick(&[1, 3, 3, 5, 7, 0xff]) | random.pick(&[0, 0, 0, 1, 2, 3]) << Caching::SHIFT
        }
        Means::Entry => targets.entry,
        Means::Stack => targets.stacks + random.below(MOST_THREADS) * targets.stack_step,
        Means::Small => random.below(4),
        Means::Quota => random.below(40),
        Means::Slots => 1 + random.below(200),
        Means::Priority => {
            if random.one_in(200) {
                127
            } else {
                random.below(100)
            }
        }
        Means::Budget => random.pick(&[0, 0, 0, 1, 1000, 50_000, 50_000, 1_000_000]),
        Means::Deadline => match random.below(16) {
            0 => u64::MAX,
            1 => random.word(),
            2..6 => targets.now + random.below(200_000),
            _ => 0,
        },
        Means::Word => random.word(),
    }
}

/// Operations that may leave the caller waiting for ever are rarer than others.
fn operation(random: &mut Random) -> Op {
    let op = Op::ALL[random.below(Op::ALL.len() as u64) as usize];
    match op {
        Op::ReplyWait | Op::Wait if !random.one_in(8) => Op::Call,
        Op::Delete if random.one_in(2) => Op::CreateNotification,
        op => op,
    }
}

/// The next call.
pub fn next(random: &mut Random, targets: &Targets) -> Call {
    let mut call = Call { tag: 0, arguments: [0; 9] };
    let wild = random.one_in(8);
    for argument in &mut call.arguments {
        *argument =
            if wild && random.one_in(2) { random.below(table::SLOTS) } else { random.edge() };
    }
    let op = operation(random);
    let words = match random.below(16) {
        0 => random.edge() as u16,
        1..4 => random.below(505) as u16,
        _ => 0,
    };
    call.tag = Tag::new(op, words).0;
    if matches!(op, Op::Call | Op::ReplyWait) && random.one_in(8) {
        call.tag = Tag::new(op, words).with_items(random.below(6) as usize).0;
    }
    if random.one_in(64) {
        call.tag = random.word() & 0xffff_0fff | random.edge() & 0xff;
    }
    if random.one_in(64) {
        call.tag |= 1 << random.below(64);
    }
    if wild {
        return call;
    }
    for (i, &means) in meanings(op).iter().enumerate() {
        if !random.one_in(24) {
            call.arguments[i] = argument(random, means, targets);
        }
    }
    for (i, &means) in meanings(op).iter().enumerate() {
        if matches!(means, Means::Empty) && !random.one_in(8) {
            call.arguments[i] = created(random, result(op, &call.arguments));
        }
    }
    call
}

/// Whether the specification has the call with tag `call` return `result`. The call of a foreign thread returns what its
/// handler says, which is mostly nothing: the tag of the call.
pub fn is_declared(call: Tag, result: Tag) -> bool {
    result == call
        || match Op::from_code(call.op()) {
            Some(op) => op.statuses().contains(result.status()),
            None => result.status() == Status::BadOperation,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_specification_says_is_found() {
        let result = |status| Tag::result(status, 0);
        let signal = Tag::new(Op::Signal, 0);
        assert!(is_declared(signal, result(Status::Denied)));
        assert!(is_declared(signal, signal));
        assert!(!is_declared(signal, result(Status::Occupied)));
        assert!(!is_declared(signal, result(Status::BadOperation)));
        assert!(!is_declared(signal, Tag(200)));
        assert!(is_declared(Tag(200), result(Status::BadOperation)));
        assert!(!is_declared(Tag(200), result(Status::Success)));
    }

    fn targets() -> Targets {
        Targets {
            entry: 0x40_0000,
            stacks: 0x1000_2000,
            stack_step: 0x2000,
            unused: 1 << 32,
            now: 0,
            cpus: 2,
        }
    }

    #[test]
    fn a_seed_gives_the_same_calls_again() {
        let (mut a, mut b) = (Random(7), Random(7));
        for _ in 0..1000 {
            assert_eq!(next(&mut a, &targets()), next(&mut b, &targets()));
        }
    }

    #[test]
    fn every_operation_comes_with_good_and_with_bad_arguments() {
        let mut random = Random(1);
        let (mut good, mut bad, mut unknown, mut reserved) = ([0; 256], [0; 256], 0, 0);
        for _ in 0..100_000 {
            let call = next(&mut random, &targets());
            let tag = Tag(call.tag);
            reserved += tag.has_reserved() as u32;
            match Op::from_code(tag.op()) {
                None => unknown += 1,
                Some(op) if call.arguments[0] < table::SLOTS => good[op as usize] += 1,
                Some(op) => bad[op as usize] += 1,
            }
        }
        for &op in Op::ALL {
            let (good, bad) = (good[op as usize], bad[op as usize]);
            // What names no object, and what is rare because it waits.
            let least = if matches!(op, Op::Yield | Op::ReplyWait) { 1 } else { 100 };
            assert!(good >= least && bad > 10, "{}: {good}, {bad}", op.name());
        }
        assert!(unknown > 100 && reserved > 100);
    }
}
