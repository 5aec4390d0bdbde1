//! The kernel and the model do the same: the machine of both, and what can happen to it.

use super::agreement::{Agreement, HEAD, nine};
use super::model::running::{Exit, LAST_WORDS, Sched};
use super::model::{Caller, Id, Model, Object};
use super::world::{self, INSTRUCTION, RAM, Running, SLICE};
use crate::arch::vcpu::{CONTROLS, DEADLINE};
use crate::arch::{self, LINES as HARDWARE};
use crate::epoch;
use crate::mem::{self, PAGE};
use crate::thread::Exception;
use crate::vcpu::{self, Vcpu};
use crate::{cell::Ref, interrupt, ipc, sched};
use abi::syscall::Tag;
use abi::utcb::{Item, Window};
use abi::vcpu::ExitKind;
use abi::{Op, Rights, Status};
use core::sync::atomic::Ordering;
use std::collections::BTreeMap;

const TIME: u64 = world::TIME as u64;

/// All rights.
pub const ALL: u64 = Rights::all().bits() as u64;

/// A machine, kernel and model.
pub struct System {
    pub a: Agreement,
    /// What has happened, to be read when something is wrong.
    pub history: Vec<String>,
    /// CPUs take the interrupts of others only when that is said.
    pub late: bool,
    /// Time has passed that the timers have not told.
    behind: bool,
    /// Pages that are free or used by the root's quota: constant.
    pages: u64,
}

/// A state of a machine, kernel and model, to go back to.
pub struct Saved {
    kernel: Box<dyn Fn()>,
    model: Model,
    addresses: BTreeMap<Id, u64>,
    history: Vec<String>,
}

impl System {
    /// The present state. Interrupt lines are not part of it.
    pub fn save(&self) -> Saved {
        Saved {
            kernel: Box::new(self.a.w.save()),
            model: self.a.model.clone(),
            addresses: self.a.addresses.clone(),
            history: self.history.clone(),
        }
    }

    /// Goes back to `saved`.
    pub fn restore(&mut self, saved: &Saved) {
        (saved.kernel)();
        self.a.model.clone_from(&saved.model);
        self.a.addresses.clone_from(&saved.addresses);
        self.history.clone_from(&saved.history);
    }

    /// A machine with `cpus` CPUs, whose root uses selectors up to `last`.
    pub fn new(cpus: u32, last: u32) -> System {
        let a = Agreement::new(cpus, last);
        let pages = mem::free_pages() + a.w.root.quota().1;
        System { a, history: Vec::new(), late: false, behind: false, pages }
    }

    pub fn cpus(&self) -> u32 {
        self.a.model.cpus.len() as u32
    }

    fn happens(&mut self, what: String) {
        self.history.push(what);
    }

    /// The root makes a system call on `cpu`.
    pub fn root(&mut self, cpu: u32, op: Op, args: &[u64]) -> Result<(), Status> {
        self.happens(format!("root on {cpu}: {op:?} {args:x?}"));
        if matches!(op, Op::Map | Op::Migrate) {
            // Where it restarts, the fixture has all CPUs take their interrupts.
            self.settle_all();
        }
        self.prepare(op);
        // The fixture's thread waits for no window.
        let is_free = |&cpu: &u32| !self.a.model.cpus[cpu as usize].cyclic.is_on();
        let cpu = [cpu].into_iter().chain(0..self.cpus()).find(is_free);
        let cpu = cpu.expect("a CPU without a schedule");
        let status = self.a.root(cpu, op, args);
        self.check_flushes(op, status);
        self.rest(cpu, op);
        if op == Op::Migrate {
            // They took interrupts, and are to choose what runs.
            self.settle_all();
        }
        status
    }

    /// As [`System::root`] on CPU 0, of what must succeed.
    #[track_caller]
    pub fn must(&mut self, op: Op, args: &[u64]) {
        assert_eq!(self.root(0, op, args), Ok(()), "{op:?} {args:x?}");
    }

    /// The thread that runs on `cpu` makes a system call.
    pub fn does(&mut self, cpu: u32, op: Op, args: &[u64]) {
        self.does_with(cpu, op, Tag::new(op, 0), args);
    }

    /// As [`System::does`], with the tag of a message.
    pub fn does_with(&mut self, cpu: u32, op: Op, tag: Tag, args: &[u64]) {
        let Some(id) = self.running_thread(cpu) else {
            return;
        };
        self.happens(format!("{id} on {cpu}: {op:?}+{:x} {args:x?}", tag.0 >> 8));
        self.prepare(op);
        // What else has arrived may have changed who runs.
        if self.running_thread(cpu) != Some(id) || self.ends_itself(id, op, args) {
            return;
        }
        let frame = &mut self.a.model.thread_mut(id).frame;
        frame.set_tag(tag);
        for (i, arg) in nine(args).into_iter().enumerate() {
            frame.set_arg(i, arg);
        }
        self.a.model.execute(id, INSTRUCTION);
        let thread = self.a.thread(id);
        self.a.w.begin_with(thread, tag, args);
        if matches!(op, Op::Map | Op::Revoke | Op::Delete) {
            let mut turns = 0;
            while self.a.w.restarts(thread) {
                turns += 1;
                // The largest mapping here takes 2^18 entries, 32 in a turn.
                assert!(turns < 1 << 14, "{op:?} does not end");
                for other in 0..self.cpus() {
                    if op != Op::Map {
                        self.a.w.interrupts(other);
                    }
                }
                self.a.w.on(cpu);
                self.a.w.again(thread);
            }
        }
        if self.spins(id) {
            return self.rest(cpu, op);
        }
        let status = thread.with_frame(|frame| frame.tag().status());
        let expected = self.a.model.thread(id).frame.tag().status();
        assert_eq!(status, expected, "{op:?} {args:x?}");
        // The status that a foreign thread gets is its handler's word.
        if status == Status::Success && !thread.foreign {
            self.check_flushes(op, Ok(()));
            let by = Caller { domain: self.a.model.payer(id), cpu, thread: Some(id) };
            self.a.note(by, op, args);
        }
        self.rest(cpu, op);
    }

    /// No CPU that can have a stale translation has not forgotten it when a revocation returns. Which can is tested in
    /// `shootdown`.
    fn check_flushes(&self, op: Op, status: Result<(), Status>) {
        if status.is_ok() && matches!(op, Op::Revoke | Op::Delete) {
            let behind = |cpu| epoch::is_behind(&self.a.w.cpu(cpu));
            assert!(!(0..self.cpus()).any(behind), "a CPU is behind");
        }
    }

    /// Ends are not looked at half done: what is on its way arrives first.
    fn prepare(&mut self, op: Op) {
        if matches!(op, Op::Revoke | Op::Delete) {
            self.settle_all();
        }
    }

    fn rest(&mut self, cpu: u32, op: Op) {
        self.note_overruns(Some(op));
        self.settle(cpu);
        if self.behind || !self.late || matches!(op, Op::Revoke | Op::Delete) {
            self.settle_all();
        }
    }

    /// Whether the call takes away what its caller runs on: it is not seen to its end then.
    fn ends_itself(&self, id: Id, op: Op, args: &[u64]) -> bool {
        if !matches!(op, Op::Revoke | Op::Delete) || self.a.model.thread(id).foreign {
            return false;
        }
        let mut after = self.a.model.clone();
        let cpu = after.context(id).cpu;
        let by = Caller { domain: after.payer(id), cpu, thread: Some(id) };
        let _ = after.call(by, op, &nine(args));
        !after.objects.contains_key(&id) || !after.runs_now(cpu, id)
    }

    /// The thread that runs on `cpu`, if one does and does not wait for another CPU.
    pub fn running_thread(&self, cpu: u32) -> Option<Id> {
        let goes_on = |&id: &Id| self.a.model.is_thread(id) && !self.spins(id);
        self.running(cpu).filter(goes_on)
    }

    /// Whether `id` is a thread that executes its system call again and again, as another CPU has to do something.
    fn spins(&self, id: Id) -> bool {
        let model = &self.a.model;
        model.is_thread(id)
            && model.thread(id).asks.is_some()
            && model.thread(id).frame.ip() == INSTRUCTION
    }

    /// Whether somebody waits for the reply of the thread that runs on `cpu`.
    pub fn serves(&self, cpu: u32) -> bool {
        let thread = self.running_thread(cpu);
        thread.is_some_and(|id| self.a.model.thread(id).caller.is_some())
    }

    /// The context that runs on `cpu`.
    pub fn running(&self, cpu: u32) -> Option<Id> {
        let current = self.a.w.cpu(cpu).current.get();
        current.map(|context| self.a.id(context.address()))
    }

    /// The thread that runs on `cpu` writes the first words of its UTCB.
    pub fn writes(&mut self, cpu: u32, words: &[u64]) {
        if let Some(id) = self.running_thread(cpu) {
            for (i, &word) in words.iter().enumerate() {
                self.a.thread(id).utcb.write(HEAD + i, word);
                self.a.model.thread_mut(id).shared.words[i] = word;
            }
        }
    }

    /// The thread that runs on `cpu` opens a window for capabilities.
    pub fn opens(&mut self, cpu: u32, window: Window) {
        if let Some(id) = self.running_thread(cpu) {
            self.happens(format!("{id} on {cpu}: opens {window:?}"));
            self.a.thread(id).utcb.write(0, window.to_word());
            self.a.model.thread_mut(id).shared.window = window.to_word();
        }
    }

    /// The thread that runs on `cpu` writes the capabilities of its next message.
    pub fn attaches(&mut self, cpu: u32, items: &[Item]) {
        if let Some(id) = self.running_thread(cpu) {
            self.happens(format!("{id} on {cpu}: attaches {items:x?}"));
            for (number, item) in items.iter().enumerate() {
                for (i, word) in item.to_words().into_iter().enumerate() {
                    let at = Item::place(number) + i;
                    self.a.thread(id).utcb.write(HEAD + at, word);
                    let last = &mut self.a.model.thread_mut(id).shared.last;
                    last[at + LAST_WORDS - abi::utcb::WORDS] = word;
                }
            }
        }
    }

    /// The monitor that runs on `cpu` replies to its vCPU: these groups, whether to halt, a deadline.
    pub fn replies(&mut self, cpu: u32, groups: u64, controls: u64, deadline: u64) {
        let caller = self.running_thread(cpu).and_then(|id| self.a.model.thread(id).caller);
        if let Some(id) = caller.filter(|&id| !self.a.model.is_thread(id)) {
            // SAFETY: the model says that it is a vCPU.
            let kernel: Ref<Vcpu> = unsafe { Ref::from_address(self.a.addresses[&id]) };
            kernel.state_page.write(CONTROLS, controls);
            kernel.state_page.write(DEADLINE, deadline);
            let vcpu = self.a.model.vcpu_mut(id);
            (vcpu.controls, vcpu.next_deadline) = (controls, deadline);
        }
        self.does(cpu, Op::ReplyWait, &[0, groups]);
    }

    /// The thread that runs on `cpu` has an exception.
    pub fn faults(&mut self, cpu: u32, exception: [u64; 3]) {
        let Some(id) = self.running_thread(cpu) else {
            return;
        };
        self.happens(format!("{id} on {cpu}: exception {exception:x?}"));
        self.a.model.raise(id, exception);
        let [vector, error, address] = exception;
        let exception = Exception { vector, error, address };
        ipc::raise(&self.a.w.on(cpu), self.a.thread(id), exception);
        self.settle(cpu);
    }

    /// The guest that runs on `cpu` does something that exits.
    pub fn exits(&mut self, cpu: u32, kind: ExitKind, info: [u64; 3]) {
        let Some(id) = self.running(cpu).filter(|&id| !self.a.model.is_thread(id)) else {
            return;
        };
        self.happens(format!("vCPU {id} on {cpu}: {kind:?} {info:x?}"));
        let kernel = self.a.context(id).as_vcpu().unwrap();
        // A kick that has come meanwhile comes first: the guest has not gone on.
        if !self.a.model.step(id, INSTRUCTION) {
            let exit: Exit = [kind as u64 | 3 << 8, info[0], info[1], info[2]];
            if !self.a.model.rings(cpu, id, &exit) {
                self.a.model.tell(id, exit);
            }
            let exit = vcpu::Exit { kind, instruction_length: 3, info };
            kernel.arch.with_mut(|arch| arch.next_exit = Some(exit));
        }
        world::run_vcpu(&self.a.w.on(cpu), kernel);
        self.settle(cpu);
        if !self.late {
            self.settle_all();
        }
    }

    /// The device at `line` fires, on `cpu`.
    pub fn fires(&mut self, cpu: u32, line: u32) {
        if HARDWARE[line as usize].masked.load(Ordering::SeqCst) {
            return;
        }
        self.happens(format!("line {line} fires on {cpu}"));
        self.a.model.fire(cpu, line);
        interrupt::deliver(&self.a.w.on(cpu), line);
        self.settle(cpu);
        if !self.late {
            self.settle_all();
        }
    }

    /// Time passes.
    pub fn passes(&mut self, ticks: u64) {
        self.happens(format!("{ticks} ticks pass"));
        self.a.model.now += ticks;
        arch::set_now(self.a.model.now);
        self.settle_all();
    }

    /// Time passes that the timers tell only after the system call that the thread that runs on `cpu` makes next.
    pub fn lags(&mut self, cpu: u32, ticks: u64) {
        if self.running_thread(cpu).is_none() {
            return;
        }
        self.happens(format!("{ticks} ticks pass, and the timers are late"));
        self.a.model.now += ticks;
        arch::set_now(self.a.model.now);
        self.behind = true;
    }

    /// The CPU takes what is on its way to it.
    pub fn interrupts(&mut self, cpu: u32) {
        self.happens(format!("{cpu} takes its interrupts"));
        self.settle(cpu);
    }

    fn settle_all(&mut self) {
        self.behind = false;
        // What one of them does may concern another one.
        for turn in 0.. {
            for cpu in 0..self.cpus() {
                self.settle(cpu);
            }
            if turn > 0 && !self.a.model.is_migrating() {
                return;
            }
            assert!(turn < 5, "somebody never arrives");
        }
    }

    /// The model learns which overruns the kernel has told. After `op`, in whose course somebody may have gone on who is
    /// not there any more, it believes that.
    fn note_overruns(&mut self, op: Option<Op>) {
        let scheds = self.a.model.all_scheds();
        let told = |&(id, sched): &(Id, &Sched)| !sched.told && self.a.sched(id).overrun_told.get();
        let told: Vec<Id> = scheds.filter(told).map(|(id, _)| id).collect();
        for id in told {
            let ends = matches!(op, Some(Op::Revoke | Op::Delete));
            if !ends && !self.a.model.overruns(id) {
                panic!("{id} has not overrun");
            }
            self.a.model.tell_overrun(id);
        }
    }

    /// Lets `cpu` run until a program would do something that the kernel does not know.
    fn settle(&mut self, cpu: u32) {
        for _ in 0..1000 {
            self.note_overruns(None);
            let kernel = self.a.w.cpu(cpu);
            let posted = || kernel.arch.interrupted.load(Ordering::SeqCst);
            let due = || kernel.arch.timer.load(Ordering::SeqCst) <= arch::now();
            if posted() {
                self.a.model.take_posted(cpu);
            }
            if due() {
                self.a.model.take_timer(cpu);
            }
            self.a.w.interrupts(cpu);
            if kernel.reschedule.get() {
                sched::schedule(&kernel);
            }
            let chosen = kernel.sched.get().map(|sched| self.a.id(sched.address()));
            let runs = match self.a.model.choose(cpu, chosen) {
                Ok(runs) => runs,
                Err(wrong) => panic!("{wrong}"),
            };
            self.note_overruns(None);
            if let Some(id) = self.a.model.untold(cpu) {
                panic!("the overrun of {id} is not told");
            }
            let current = kernel.current.get().map(|context| self.a.id(context.address()));
            assert_eq!(current, runs, "what runs on {cpu}");
            let works = runs.is_some_and(|id| self.a.model.step(id, INSTRUCTION));
            let running = self.a.w.step(cpu);
            if works {
                assert!(running.is_none(), "{runs:?} has something to do");
                if runs.is_some_and(|id| self.spins(id)) && !posted() && !due() {
                    return;
                }
                continue;
            }
            let expected = match runs {
                None => Running::Idle,
                Some(id) if self.a.model.is_thread(id) => Running::User(self.a.thread(id)),
                Some(id) => Running::Guest(self.a.context(id).as_vcpu().unwrap()),
            };
            assert_eq!(running, Some(expected), "what runs on {cpu}");
            if !posted() && !due() {
                assert!(!self.a.model.is_due(cpu), "CPU {cpu} misses a deadline");
                assert!(self.a.model.cpus[cpu as usize].posted.is_empty());
                return;
            }
        }
        panic!("CPU {cpu} does not come to rest");
    }

    /// Kernel and model agree on everything.
    pub fn compare(&self) {
        self.a.compare();
        // What a domain has not used of its quota is free, though its payer has paid for it.
        let domains = self.a.model.objects.iter().filter(|(id, _)| **id != 0);
        let unused = domains.map(|(_, (object, _))| match object {
            Object::Domain(table) => table.limit - table.used,
            _ => 0,
        });
        let pages = mem::free_pages() + self.a.w.root.quota().1;
        assert_eq!(pages - unused.sum::<u64>(), self.pages, "pages that nobody has");
    }

    /// The root deletes all that it has: what it used is free.
    pub fn finish(&mut self) {
        for _ in 0..2 {
            for at in 0..=self.a.last {
                let cap = self.a.model.caps.get(&(0, at));
                if cap.is_some_and(|cap| cap.origin) {
                    // A space is used until its threads are gone.
                    let _ = self.root(0, Op::Delete, &[at as u64]);
                }
            }
        }
        self.compare();
        let left = |object: &Object| !matches!(object, Object::Line(_));
        let objects = self.a.model.objects.values();
        assert_eq!(objects.filter(|(o, _)| left(o)).count(), 1);
        assert_eq!(arch::space_tags(), 1);
    }
}

impl Model {
    /// Whether `id` is what runs on `cpu`.
    fn runs_now(&self, cpu: u32, id: Id) -> bool {
        let running = self.cpus[cpu as usize].running;
        let home = running.and_then(|sched| self.sched(sched).home);
        home.is_some_and(|home| self.leads_to(home) == Some(id))
    }
}

/// What is made at the start of a history, by the number of the domain: the root's selectors.
pub mod place {
    /// The domain.
    pub const fn domain(i: u32) -> u64 {
        20 + 12 * i as u64
    }
    pub const SPACE: u64 = 1;
    pub const GUEST: u64 = 2;
    /// A thread that has time.
    pub const CLIENT: u64 = 3;
    /// A thread that has a portal.
    pub const SERVER: u64 = 4;
    pub const SCHED: u64 = 5;
    pub const PORTAL: u64 = 6;
    pub const NOTIFICATION: u64 = 7;
    /// A scheduling context that is bound to nothing, with a budget.
    pub const SPARE: u64 = 8;
    pub const VCPU: u64 = 9;
    pub const VCPU_SCHED: u64 = 10;
}

/// Selectors in a domain's own table.
pub mod own {
    pub const DOMAIN: u64 = 1;
    pub const SPACE: u64 = 2;
    /// The domain next to it, to create in and to give to.
    pub const NEXT: u64 = 3;
    pub const MEMORY: u64 = 4;
    pub const GUEST: u64 = 5;
    /// Portals of the servers.
    pub const PORTALS: u64 = 6;
    /// Notifications, with a bit each.
    pub const NOTIFICATIONS: u64 = 9;
    pub const CLIENT: u64 = 12;
    pub const SERVER: u64 = 13;
    pub const SPARE: u64 = 14;
    /// Portals of the exits of its vCPU.
    pub const EXITS: u64 = 15;
    /// Time of both CPUs, up to priority 6.
    pub const TIME: u64 = 26;
    /// The first that is free.
    pub const FREE: u64 = 27;
    /// One more than the last.
    pub const END: u64 = 36;
}

/// How a machine begins.
#[derive(Clone, Debug)]
pub struct Shape {
    pub cpus: u32,
    pub domains: u32,
    /// Of each domain, in pages.
    pub quota: u64,
    /// Of the clients.
    pub priorities: [u64; 3],
    /// Of each domain, in pages.
    pub frames: u64,
    pub vcpu: bool,
    /// Whether the second domain's client is foreign.
    pub foreign: bool,
}

/// Highest selector that the root uses.
pub const LAST: u32 = 69;
/// The root's selectors that are free.
pub const ROOT_FREE: u64 = 58;

impl System {
    /// A machine with domains that can talk to each other.
    pub fn populated(shape: &Shape) -> System {
        let mut s = System::new(shape.cpus, LAST);
        for i in 0..shape.domains {
            s.populate(i, shape);
        }
        for i in 0..shape.domains {
            let (this, next) = (place::domain(i), place::domain((i + 1) % shape.domains));
            let rights = (Rights::INSTALL | Rights::CREATE).bits() as u64;
            s.must(Op::Delegate, &[next, this, own::NEXT, rights]);
            for j in 0..shape.domains {
                let other = place::domain(j);
                let (portal, n) = (other + place::PORTAL, other + place::NOTIFICATION);
                let (to_portal, to_n) = (own::PORTALS + j as u64, own::NOTIFICATIONS + j as u64);
                s.must(Op::Delegate, &[portal, this, to_portal, ALL]);
                s.must(Op::Delegate, &[n, this, to_n, ALL, 1 << (4 * j + i)]);
            }
            let bind = [this + place::SCHED, this + place::CLIENT];
            s.must(Op::BindSched, &bind);
        }
        if shape.vcpu {
            s.add_vcpu();
        }
        s.compare();
        s
    }

    fn populate(&mut self, i: u32, shape: &Shape) {
        use place::{CLIENT, GUEST, NOTIFICATION, PORTAL, SCHED, SERVER, SPACE, SPARE};
        let cpu = (i % shape.cpus) as u64;
        let d = place::domain(i);
        self.must(Op::CreateDomain, &[1, d, shape.quota, own::END]);
        self.must(Op::CreateSpace, &[d, d + SPACE, 0]);
        self.must(Op::CreateSpace, &[d, d + GUEST, 1]);
        for (at, page) in [(CLIENT, 0x10_0000), (SERVER, 0x10_1000)] {
            let exceptions = own::PORTALS + i as u64;
            let foreign = shape.foreign && i == 1 && at == CLIENT;
            let cpu = cpu | u64::from(foreign) << 32;
            let args = [d, d + at, d, d + SPACE, cpu, page, 0x2000, 0, exceptions];
            self.must(Op::CreateThread, &args);
        }
        self.must(Op::CreateSched, &[1, d + SCHED, cpu, shape.priorities[i as usize], 0, 0, TIME]);
        let spare = [1, d + SPARE, cpu, 6, SLICE / 10, SLICE, TIME];
        self.must(Op::CreateSched, &spare);
        self.must(Op::CreatePortal, &[1, d + PORTAL, d + SERVER, 70 + i as u64]);
        self.must(Op::CreateNotification, &[1, d + NOTIFICATION]);
        for (from, to) in [
            (0, own::DOMAIN),
            (SPACE, own::SPACE),
            (GUEST, own::GUEST),
            (CLIENT, own::CLIENT),
            (SERVER, own::SERVER),
            (SPARE, own::SPARE),
        ] {
            self.must(Op::Delegate, &[d + from, d, to, ALL]);
        }
        self.must(Op::Delegate, &[TIME, d, own::TIME, ALL, 3, 6]);
        let size = shape.frames * PAGE;
        self.must(Op::Delegate, &[RAM as u64, d, own::MEMORY, ALL, i as u64 * size, size]);
    }

    /// A vCPU of the first domain, kicked by that domain's notification.
    fn add_vcpu(&mut self) {
        let d = place::domain(0);
        use ExitKind::{Halt, Io, Kick, StageTwoFault, Startup};
        for kind in [Kick, Startup, StageTwoFault, Halt, Io] {
            let to = own::EXITS + kind as u64;
            self.must(Op::Delegate, &[d + place::PORTAL, d, to, ALL]);
        }
        let (vcpu, sched) = (d + place::VCPU, d + place::VCPU_SCHED);
        let spaces = [d + place::GUEST, 0, d + place::SPACE];
        let [guest, cpu, monitor] = spaces;
        self.must(Op::CreateVcpu, &[d, vcpu, d, guest, cpu, monitor, 0x10_2000, own::EXITS]);
        self.must(Op::BindKick, &[vcpu, d + place::NOTIFICATION]);
        self.must(Op::CreateSched, &[1, sched, cpu, 4, 0, 0, TIME]);
        self.must(Op::BindSched, &[sched, vcpu]);
    }
}
