//! Long random histories of the whole system: after every step, the kernel's state is the model's.
//!
//! `BULKHEAD_HISTORIES` says how many; what a failure prints can be read as a story.

use super::model::{Cap, Id, Object};
use super::system::{ALL, LAST, ROOT_FREE, Shape, System, own, place};
use super::world::{LINES, SLICE};
use crate::mem::PAGE;
use abi::cap::Kind;
use abi::syscall::{SpaceKind, Tag};
use abi::utcb::{ITEMS, Item, Window};
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::{Op, Rights, Selector};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Something that happens: what it is about is picked when it does, mostly so that it makes sense.
#[derive(Clone, Debug)]
struct Choice {
    cpu: u32,
    what: What,
    /// One choice for each argument.
    picks: [u16; 9],
}

#[derive(Clone, Copy, Debug)]
enum What {
    Root(Op),
    /// Whoever runs: a thread makes a system call, a guest exits, and where nobody runs time passes.
    Current(Op),
    Reply,
    Fault,
    Time,
    Interrupts,
    Line,
}

/// What a thread does that works on capabilities and memory.
const CAPABILITIES: [Op; 24] = {
    use Op::{BindDoorbell, QuotaGive, QuotaTake};
    use Op::{CreateDomain, CreateNotification, CreateSched, CreateSpace, CreateThread};
    use Op::{CreateVcpu, Delegate, Delete, Map, QuotaQuery, Revoke, Yield};
    [
        CreateDomain,
        CreateSpace,
        CreateThread,
        CreateNotification,
        CreateSched,
        CreateVcpu,
        Delegate,
        Delegate,
        Delegate,
        Delegate,
        Map,
        Map,
        Map,
        Map,
        Map,
        Revoke,
        Delete,
        QuotaQuery,
        QuotaGive,
        QuotaGive,
        QuotaTake,
        BindDoorbell,
        Yield,
        Yield,
    ]
};

/// What a thread does that works with others.
const COMMUNICATION: [Op; 21] = {
    use Op::{BindDoorbell, BindSched, Call, CreatePortal, CreateThread, Delete};
    use Op::{BindOverrun, Migrate, SetSchedule};
    use Op::{ReplyWait, Signal, Wait, Yield};
    [
        Call,
        Call,
        Call,
        Call,
        ReplyWait,
        ReplyWait,
        Signal,
        Signal,
        Wait,
        Wait,
        Yield,
        CreatePortal,
        CreateThread,
        BindSched,
        BindDoorbell,
        BindOverrun,
        Migrate,
        Migrate,
        Migrate,
        SetSchedule,
        Delete,
    ]
};

/// What the root does to them.
const ROOT: [Op; 27] = {
    use Op::{BindDoorbell, QuotaGive, QuotaTake};
    use Op::{BindKick, BindSched, CreateNotification, CreatePortal, CreateSched, CreateThread};
    use Op::{BindOverrun, Migrate, SetSchedule};
    use Op::{CreateVcpu, Delegate, Delete, InterruptAck, InterruptBind, Map, Revoke, Signal};
    [
        Signal,
        Signal,
        Signal,
        Delete,
        SetSchedule,
        Delete,
        Revoke,
        Delegate,
        Map,
        BindSched,
        BindSched,
        BindKick,
        CreateThread,
        CreateSched,
        CreateVcpu,
        CreateNotification,
        CreatePortal,
        InterruptBind,
        InterruptAck,
        BindDoorbell,
        BindDoorbell,
        QuotaGive,
        QuotaTake,
        BindOverrun,
        BindOverrun,
        Migrate,
        Migrate,
    ]
};

fn choices(own: &'static [Op]) -> impl Strategy<Value = Choice> {
    let what = prop_oneof![
        12 => prop::sample::select(own).prop_map(What::Current),
        4 => Just(What::Reply),
        3 => prop::sample::select(&ROOT[..]).prop_map(What::Root),
        3 => Just(What::Time),
        1 => Just(What::Fault),
        2 => Just(What::Interrupts),
        1 => Just(What::Line),
    ];
    let picks = prop::array::uniform9(any::<u16>());
    (0..2u32, what, picks).prop_map(|(cpu, what, picks)| Choice { cpu, what, picks })
}

fn shapes() -> impl Strategy<Value = Shape> {
    let priorities = prop::array::uniform3(3..6u64);
    let frames = prop::sample::select(&[4u64, 41, 2048][..]);
    let bools = (any::<bool>(), any::<bool>());
    let shape = (1..3u32, 22..60u64, priorities, frames, bools);
    shape.prop_map(|(cpus, quota, priorities, frames, (vcpu, foreign))| Shape {
        cpus,
        domains: 3,
        quota,
        priorities,
        frames,
        vcpu,
        foreign,
    })
}

/// Sizes, offsets and addresses: pages and large pages, and what is wrong.
const SIZES: [u64; 16] = [
    0,
    PAGE,
    PAGE,
    2 * PAGE,
    3 * PAGE,
    3 * PAGE,
    5 * PAGE,
    40 * PAGE,
    2 << 20,
    2 << 20,
    4 << 20,
    (2 << 20) + PAGE,
    (2 << 20) - PAGE,
    1 << 30,
    1,
    u64::MAX - PAGE + 1,
];

/// Addresses of pages that the kernel shares with programs: some are in use, some are wrong.
const PAGES: [u64; 6] = [0x10_0000, 0x20_0000, 0x20_1000, 0x7fff_f000, PAGE, 0x20_0001];

fn pick<T: Copy>(of: &[T], pick: u16) -> Option<T> {
    (!of.is_empty()).then(|| of[pick as usize / 16 % of.len()])
}

/// Where doorbells start, and guests write; ports and addresses.
const BELLS: [u64; 5] = [0, 1, 3, 0x1000, 0xffff];

/// The length of a cyclic schedule's frame.
const FRAME: u64 = 900;
/// Its windows: that of most, one that nobody may be in, one that ends with the frame.
const WINDOWS: [[u64; 3]; 3] = [[0, 300, 0], [400, 100, 1], [500, 400, 0]];

/// Arguments for somebody of a domain.
struct Picker<'a> {
    s: &'a System,
    domain: Id,
    picks: [u16; 9],
}

impl Picker<'_> {
    fn is_root(&self) -> bool {
        self.domain == 0
    }

    /// A selector: mostly one that holds a capability of one of `kinds`.
    fn held(&self, kinds: &[Kind], i: usize) -> u64 {
        let range = (self.domain, 0)..(self.domain + 1, 0);
        let caps = self.s.a.model.caps.range(range);
        let fits = |kind: Kind| kind != Kind::Null && (kinds.is_empty() || kinds.contains(&kind));
        let all: Vec<u32> = caps.filter(|(_, cap)| fits(cap.kind)).map(|(at, _)| at.1).collect();
        self.or_wrong(pick(&all, self.picks[i]).unwrap_or(0) as u64, i)
    }

    /// A selector of `domain`: mostly an empty one.
    fn empty(&self, domain: Id, i: usize) -> u64 {
        let range = if domain == 0 {
            ROOT_FREE as u32..LAST + 1
        } else {
            own::FREE as u32..own::END as u32
        };
        let free = range.filter(|&at| !self.s.a.model.caps.contains_key(&(domain, at)));
        let all: Vec<u32> = free.collect();
        self.or_wrong(pick(&all, self.picks[i]).unwrap_or(0) as u64, i)
    }

    fn or_wrong(&self, selector: u64, i: usize) -> u64 {
        match self.picks[i] % 32 {
            0 => [0, 5000, 1 << 32][self.picks[i] as usize / 32 % 3],
            // Whatever is there.
            1 if self.is_root() => 20 + self.picks[i] as u64 / 32 % 50,
            1 => self.picks[i] as u64 / 32 % 34,
            _ => selector,
        }
    }

    /// A selector: mostly one of a space of `kind` that the domain at `payer` pays.
    fn space(&self, payer: u64, kind: SpaceKind, i: usize) -> u64 {
        let model = &self.s.a.model;
        let fits = |id: Id| {
            let is_kind = matches!(&model.objects[&id].0, Object::Space(s) if s.kind == kind);
            is_kind && Some(model.payer(id)) == self.object(payer)
        };
        let range = (self.domain, 0)..(self.domain + 1, 0);
        let caps = model.caps.range(range).filter(|(_, cap)| cap.kind == Kind::Space);
        let all: Vec<u32> =
            caps.filter(|(_, cap)| cap.object.is_some_and(fits)).map(|(at, _)| at.1).collect();
        match pick(&all, self.picks[i]) {
            Some(at) => self.or_wrong(at as u64, i),
            None => self.held(&[Kind::Space], i),
        }
    }

    /// A selector of who pays for the domain at `paid`.
    fn payer(&self, paid: u64) -> Option<u64> {
        let model = &self.s.a.model;
        let payer = self.object(paid).and_then(|id| model.objects.get(&id)?.1)?;
        let range = (self.domain, 0)..(self.domain + 1, 0);
        let mut caps = model.caps.range(range);
        let names = |cap: &Cap| cap.kind == Kind::Domain && cap.object == Some(payer);
        caps.find(|(_, cap)| names(cap)).map(|(at, _)| at.1 as u64)
    }

    /// A selector: mostly one of a guest space.
    fn guest_space(&self, i: usize) -> u64 {
        match self.picks[i] % 4 {
            0 => self.held(&[Kind::Space], i),
            _ if self.is_root() => place::domain(0) + place::GUEST,
            _ => own::GUEST,
        }
    }

    /// What a delegation says, but for the places; and the capability.
    fn item(&self) -> Item {
        let args = self.arguments(Op::Delegate);
        Item {
            source: Selector(args[0] as u32),
            rights: args[3] as u16,
            flags: args[6] as u16,
            first: args[4],
            second: args[5],
        }
    }

    /// This domain, or another one.
    fn mostly(&self, domain: u64, i: usize) -> u64 {
        if self.picks[i].is_multiple_of(8) { self.held(&[Kind::Domain], i) } else { domain }
    }

    fn one<T: Copy>(&self, of: &[T], i: usize) -> T {
        of[self.picks[i] as usize % of.len()]
    }

    fn size(&self, i: usize) -> u64 {
        self.one(&SIZES, i)
    }

    fn rights(&self, i: usize) -> u64 {
        match self.picks[i] % 8 {
            0 => 1 << 9,
            1 => self.picks[i] as u64 >> 8,
            2 => Rights::RW.bits() as u64,
            _ => ALL,
        }
    }

    fn object(&self, selector: u64) -> Option<Id> {
        let cap = self.s.a.model.caps.get(&(self.domain, selector as u32));
        cap.and_then(|cap| cap.object)
    }

    fn arguments(&self, op: Op) -> Vec<u64> {
        use Kind::{Domain, Interrupt, Memory, Notification, Portal, Sched, Space, Thread};
        let now = self.s.a.model.now;
        let cpu = self.picks[4] as u64 % (1 + self.s.cpus() as u64) % 2;
        let payer = self.held(&[Domain], 0);
        let to = self.empty(self.domain, 1);
        match op {
            Op::Call => vec![self.held(&[Portal], 0), 11, 12, 13, self.picks[4] as u64],
            Op::ReplyWait => vec![0, self.one(&[1, 3, 5, 7, 0], 1), 2, 3, 0x5000, 0x6000, 2],
            Op::Signal => vec![self.held(&[Notification], 0)],
            Op::Wait => {
                let deadlines = [0, now, now + 5, now + 100, now + 2 * SLICE, u64::MAX];
                vec![self.held(&[Notification], 0), self.one(&deadlines, 1)]
            }
            Op::Yield | Op::LogWrite | Op::LogRead | Op::LogBind | Op::Power => vec![],
            Op::QuotaGive | Op::QuotaTake => {
                let paid = self.held(&[Domain], 1);
                let payer = self.payer(paid).unwrap_or(payer);
                let pages = self.one(&[0, 1, 2, 5, 30, u64::MAX], 2);
                vec![self.mostly(payer, 0), paid, pages]
            }
            Op::BindDoorbell => {
                let (n, space) = (self.held(&[Notification], 0), self.guest_space(1));
                let to = self.empty(self.domain, 2);
                let kind = self.one(&[0, 0, 1, 1, 1, 2], 3);
                let size = self.one(&[1, 4, 4, PAGE, PAGE, 0, 1 << 52], 5);
                vec![n, space, to, kind, self.one(&BELLS, 4), size]
            }
            Op::BindOverrun => vec![self.held(&[Sched], 0), self.held(&[Notification], 1)],
            Op::Migrate => {
                let cpus = self.s.cpus() as u64;
                let to = match self.picks[1] as u64 {
                    number if number.is_multiple_of(16) => cpus,
                    number => number % cpus,
                };
                let exits = match self.picks[3] % 16 {
                    0 => 1 << 32,
                    1 => own::PORTALS,
                    _ => own::EXITS,
                };
                let context = self.held(&[Thread, Kind::Vcpu], 0);
                vec![context, to, self.held(&[Kind::Time], 2), exits]
            }
            Op::SetSchedule => {
                // The other CPU is left to the root.
                let to = if self.s.cpus() == 1 { 1 } else { 0 };
                let length = self.one(&[FRAME, FRAME, FRAME, 0, 7], 2);
                vec![self.held(&[Kind::Time], 0), to, length]
            }
            Op::QuotaQuery => vec![payer],
            Op::CreateDomain => {
                let slots = self.one(&[0, 5, 20, 32, 40_000], 3);
                vec![payer, to, self.picks[2] as u64 % 20, slots]
            }
            Op::CreateSpace => vec![payer, to, self.picks[2] as u64 % 3],
            Op::CreateThread => {
                let space = self.space(payer, SpaceKind::Host, 3);
                let exceptions = own::PORTALS + self.picks[8] as u64 % 3;
                let (page, start) =
                    (self.one(&PAGES, 5), self.one(&[0x2000, 0x2000, 0x2000, 0x2000, 1 << 40], 6));
                let domain = self.mostly(payer, 2);
                let cpu = cpu | u64::from(self.picks[7].is_multiple_of(8)) << 32;
                vec![payer, to, domain, space, cpu, page, start, 0, exceptions]
            }
            Op::CreateVcpu => {
                let guest = self.space(payer, SpaceKind::Guest, 3);
                let monitor = self.space(payer, SpaceKind::Host, 5);
                let page = self.one(&PAGES, 6);
                let domain = self.mostly(payer, 2);
                vec![payer, to, domain, guest, cpu, monitor, page, own::EXITS]
            }
            Op::CreateSched => {
                let times = [(0, 0), (0, 0), (50, 100), (10, 5000), (7, 7), (9, 2)];
                let (budget, period) = self.one(&times, 5);
                let (priority, time) = (self.picks[3] as u64 % 8, self.held(&[Kind::Time], 6));
                vec![payer, to, cpu, priority, budget, period, time]
            }
            Op::CreatePortal => vec![payer, to, self.held(&[Thread], 2), 90, 1],
            Op::CreateNotification => vec![payer, to],
            Op::Delegate => {
                let from = self.held(&[], 0);
                let receiver = self.held(&[Domain], 1);
                let target = self.s.a.model.caps.get(&(self.domain, receiver as u32));
                let target = target.filter(|cap| cap.kind == Domain);
                let target = target.and_then(|cap| cap.object).unwrap_or(self.domain);
                let to = self.empty(target, 2);
                let cap = self.s.a.model.caps.get(&(self.domain, from as u32));
                let (fourth, fifth) = match cap.map(|cap| cap.kind) {
                    Some(Notification) => {
                        let badges = [0, 1, 16, self.picks[8] as u64];
                        (self.one(&badges, 4), self.size(5))
                    }
                    Some(Kind::Time) => {
                        let limits = [4, 6, 7, 0x104, 0x106, 0x205, 0x804, 0x80];
                        (self.picks[4] as u64 % 8, self.one(&limits, 5))
                    }
                    _ => (self.size(4), self.size(5)),
                };
                let flags = self.one(&[0, 0, 0, 0, 0, 1, 1, 2], 6);
                vec![from, receiver, to, self.rights(3), fourth, fifth, flags]
            }
            Op::Revoke | Op::Delete if self.is_root() => {
                // Domains seldom, and what everything hangs on never.
                let all = [Thread, Sched, Portal, Notification, Kind::Vcpu, Kind::Mapping];
                let kinds: &[Kind] = match self.picks[1] % 8 {
                    0 => &[Domain, Space],
                    1 => &[Memory, Space],
                    _ => &all,
                };
                vec![match self.held(kinds, 0) {
                    1 => 0,
                    at => at,
                }]
            }
            Op::Revoke | Op::Delete => vec![self.held(&[], 0)],
            Op::Map => {
                let (memory, space) = (self.held(&[Memory], 0), self.held(&[Space], 1));
                let rights = self.one(&[1, 3, 5, 7, 2], 6);
                let to = self.empty(self.domain, 2);
                // Addresses near each other, so that they meet.
                let range = [self.size(3), self.size(4), self.size(5)];
                [&[memory, space, to], &range[..], &[rights]].concat()
            }
            Op::BindSched => vec![self.held(&[Sched], 0), self.held(&[Thread, Kind::Vcpu], 1)],
            Op::BindKick => vec![self.held(&[Kind::Vcpu], 0), self.held(&[Notification], 1)],
            Op::InterruptBind => {
                let (line, n) = (self.held(&[Interrupt], 0), self.held(&[Notification], 1));
                vec![line, n, self.picks[2] as u64 % 4]
            }
            Op::InterruptAck => vec![self.held(&[Interrupt], 0)],
        }
    }
}

/// Ticks that pass at once.
const TIMES: [u64; 7] = [1, 5, 100, 300, SLICE / 2, SLICE, 3 * SLICE];
/// Lengths of messages in the UTCB, and one that is wrong.
const LENGTHS: [u16; 11] = [0, 0, 0, 0, 0, 3, 3, 16, 495, 504, 505];
const EXITS: [ExitKind; 7] = [
    ExitKind::Halt,
    ExitKind::Halt,
    ExitKind::StageTwoFault,
    ExitKind::StageTwoFault,
    ExitKind::Io,
    ExitKind::Io,
    ExitKind::Cpuid,
];

fn happen(s: &mut System, choice: &Choice) {
    let cpu = choice.cpu % s.cpus();
    let picks = choice.picks;
    let one = |of: &[u64], i: usize| of[picks[i] as usize % of.len()];
    match choice.what {
        What::Root(op) => {
            let picker = Picker { s, domain: 0, picks };
            let args = picker.arguments(op);
            let _ = s.root(cpu, op, &args);
        }
        What::Current(op) => match s.running(cpu) {
            None if picks[1].is_multiple_of(2) => s.passes(one(&TIMES, 0)),
            None => {
                let picker = Picker { s, domain: 0, picks };
                let args = picker.arguments(Op::Signal);
                let _ = s.root(cpu, Op::Signal, &args);
            }
            Some(id) if s.a.model.is_thread(id) => {
                let domain = s.a.model.payer(id);
                // Who serves nobody would wait for calls, mostly in vain.
                let idle = op == Op::ReplyWait && s.a.model.thread(id).caller.is_none();
                let op = if idle && !picks[6].is_multiple_of(8) { Op::Call } else { op };
                let picker = Picker { s, domain, picks };
                let args = picker.arguments(op);
                let window = Window {
                    base: picker.empty(domain, 5) as u32,
                    slots: [0, 1, 3, 4, 9][picks[3] as usize % 5],
                };
                let mut tag = Tag::new(op, LENGTHS[picks[8] as usize % LENGTHS.len()]);
                if matches!(op, Op::Call | Op::ReplyWait) && picks[6].is_multiple_of(3) {
                    let count = [1, 1, 2, 2, 3, 4, 5][picks[7] as usize % 7];
                    tag = tag.with_items(count);
                    let items: Vec<Item> = (0..count.min(ITEMS))
                        .map(|i| {
                            let mut picks = picks;
                            picks.rotate_left(i);
                            Picker { s, domain, picks }.item()
                        })
                        .collect();
                    s.attaches(cpu, &items);
                }
                if op == Op::SetSchedule {
                    let count = picks[5] as usize % 5;
                    let wrong = [[900, 0, 0]];
                    let windows = WINDOWS.iter().chain(&wrong).take(count);
                    s.writes(cpu, &windows.flatten().copied().collect::<Vec<_>>());
                    tag = Tag::new(op, 3 * count as u16);
                } else {
                    s.writes(cpu, &[picks[7] as u64, 5, 6]);
                }
                s.opens(cpu, window);
                if picks[2].is_multiple_of(8) {
                    s.lags(cpu, one(&TIMES, 1));
                }
                s.does_with(cpu, op, tag, &args);
            }
            Some(_) => {
                let kind = EXITS[picks[0] as usize % EXITS.len()];
                let at = one(&BELLS, 2) + picks[3] as u64 % 2;
                let info = match kind {
                    ExitKind::StageTwoFault => [picks[1] as u64 % 4, at, 0],
                    ExitKind::Io => [at & 0xffff | (picks[1] as u64 % 4) << 24, 7, 0],
                    _ => [picks[1] as u64, 8, 9],
                };
                s.exits(cpu, kind, info);
            }
        },
        What::Reply if !s.serves(cpu) => {}
        What::Reply => {
            let controls = [CONTROL_HALT, 0][picks[0] as usize % 2];
            let groups = [Groups::EVENTS, Groups::DEADLINE, Groups::all()];
            let groups = groups[picks[1] as usize % 3].bits();
            let soon = s.a.model.now + TIMES[picks[2] as usize % TIMES.len()];
            let deadline = one(&[soon, u64::MAX, 0], 3);
            s.replies(cpu, groups, controls, deadline);
        }
        What::Fault => s.faults(cpu, [picks[0] as u64 % 32, 0, picks[1] as u64]),
        What::Time => s.passes(one(&TIMES, 0)),
        What::Interrupts => s.interrupts(cpu),
        What::Line => s.fires(cpu, picks[0] as u32 % 3),
    }
}

fn run(shape: &Shape, late: bool, history: &[Choice]) -> Result<(), TestCaseError> {
    let mut system = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let s = system.insert(System::populated(shape));
        for line in 0..2 {
            let n = place::domain(line) + place::NOTIFICATION;
            s.must(Op::InterruptBind, &[LINES as u64 + line as u64, n, 1 + line as u64]);
        }
        s.history.clear();
        s.late = late;
        for choice in history {
            happen(s, choice);
            s.compare();
        }
    }));
    let outcome = match (outcome, system) {
        (Ok(()), Some(mut s)) => catch_unwind(AssertUnwindSafe(|| s.finish())),
        (Err(cause), Some(s)) => {
            let story = s.history.join("\n");
            let what = cause.downcast_ref::<String>().cloned();
            let what = what.or_else(|| cause.downcast_ref::<&str>().map(|&s| s.to_owned()));
            let what = what.unwrap_or_default();
            return Err(TestCaseError::fail(format!("{what}\n{story}\n")));
        }
        (outcome, None) => outcome,
    };
    outcome.map_err(|_| TestCaseError::fail("at the end or the start"))
}

fn config(cases: u32) -> Config {
    let asked = std::env::var("BULKHEAD_HISTORIES").ok();
    Config {
        cases: asked.and_then(|n| n.parse().ok()).unwrap_or(cases),
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(config(150))]

    #[test]
    fn of_capabilities_and_memory(
        shape in shapes(),
        history in prop::collection::vec(choices(&CAPABILITIES), 1..120),
    ) {
        run(&shape, false, &history)?;
    }

    #[test]
    fn of_calls_signals_and_time(
        shape in shapes(),
        late in any::<bool>(),
        history in prop::collection::vec(choices(&COMMUNICATION), 1..150),
    ) {
        run(&shape, late, &history)?;
    }
}
