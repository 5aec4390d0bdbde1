//! What runs: the objects, their ends, and the steps of threads and vCPUs.

use super::super::world::SYNDROME;
use super::cyclic::Cyclic;
use super::migration::Migration;
use super::{Caller, Id, Model, Object, Place};
use crate::arch::Frame;
use crate::arch::frame::SYSCALL_LENGTH;
use abi::cap::Kind;
use abi::utcb::exception::{GPRS, SYSTEM_CALL};
use abi::utcb::{ITEM_WORDS, ITEMS, Item};
use abi::vcpu::ExitKind;
use abi::{Op, Rights, Status};
use std::collections::BTreeSet;

/// Ticks of a time slice.
pub const SLICE: u64 = super::super::world::SLICE;
/// Words of a UTCB that are looked at.
pub const WORDS: usize = GPRS;
/// Words at its end that are looked at.
pub const LAST_WORDS: usize = ITEMS * ITEM_WORDS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    New,
    Idle,
    Ready,
    /// Waits for the reply of this thread.
    InCall(Id),
    /// Waits until this thread can be called.
    Helping(Id),
    /// Waits for this notification, until then.
    Waiting(Id, u64),
    Halted,
    Stopped,
    /// On its way to another CPU.
    Moving,
}

/// What threads and vCPUs have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    pub cpu: u32,
    pub state: State,
    /// Calls that led here.
    pub(super) depth: u8,
    /// Bound to it.
    pub sched: Option<Id>,
    pub(super) was_started: bool,
    pub(super) migration: Migration,
    /// What it goes on with when it is there.
    pub(super) moves_as: Option<State>,
}

/// What is looked at of a UTCB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Utcb {
    pub window: u64,
    /// The first message words.
    pub words: [u64; WORDS],
    /// The last ones: capabilities, or as good as any.
    pub last: [u64; LAST_WORDS],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Thread {
    pub context: Context,
    pub space: Id,
    pub utcb: u64,
    pub frame: Frame,
    pub shared: Utcb,
    /// Its system calls are its handler's.
    pub foreign: bool,
    /// Selector of what it has asked to be moved, and waits for.
    pub asks: Option<u64>,
    /// Who waits for its reply.
    pub caller: Option<Id>,
    /// Selector of the portal that is told its exceptions.
    pub exceptions: u32,
    /// Whether its call tells an exception.
    pub in_exception: bool,
    /// An exception whose handler is busy: vector, error, address.
    pub pending: Option<[u64; 3]>,
}

/// Kind and length of the instruction, and three words.
pub type Exit = [u64; 4];

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vcpu {
    pub context: Context,
    pub guest: Id,
    pub monitor: Id,
    /// Address of the state page.
    pub page: u64,
    /// Selector of the portal of exit kind 0.
    pub exits: u32,
    pub kick: Option<Id>,
    pub(super) pending: Option<Exit>,
    /// `u64::MAX`: none.
    pub(super) deadline: u64,
    pub(super) expired: bool,
    /// What the state page says.
    pub controls: u64,
    pub next_deadline: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sched {
    pub cpu: u32,
    pub priority: u8,
    /// The windows of schedules that it runs in; without one, whose turn it is among equals.
    pub(super) partition: u8,
    pub(super) budget: u64,
    pub(super) period: u64,
    pub(super) left: u64,
    /// The budget is spent until then.
    pub(super) until: Option<u64>,
    pub home: Option<Id>,
    /// Its CPU knows that it is bound.
    pub(super) begun: bool,
    /// It was pre-empted, and is first among its equals.
    pub(super) preempted: bool,
    /// What tells its overruns.
    pub(super) overrun: Option<Binding>,
    /// It was told in this period.
    pub told: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Portal {
    pub handler: Option<Id>,
    pub identity: u64,
    pub groups: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Notification {
    pub word: u64,
    /// The thread that waits, or the vCPU that is kicked.
    pub waiter: Option<Id>,
    /// The capabilities that it needs for that.
    pub(super) through: Vec<Place>,
}

/// What is signalled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Binding {
    pub notification: Id,
    pub bits: u64,
    /// The two capabilities with which it was bound.
    pub(super) through: [Place; 2],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub number: u32,
    pub(super) binding: Option<Binding>,
    pub(super) level: bool,
    pub(super) pending: bool,
    pub(super) again: bool,
    pub masked: bool,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// Whose time it is, and when that ends.
    pub running: Option<Id>,
    pub(super) slice_end: u64,
    /// Its turn is over: it has yielded, or its time has ended.
    pub(super) over: bool,
    /// From other CPUs: notifications that were signalled, scheduling contexts that were bound.
    pub posted: BTreeSet<Id>,
    pub(super) starts: Vec<Id>,
    /// Who is to leave, or comes; the last one first.
    pub(super) migrations: Vec<Id>,
    pub cyclic: Cyclic,
}

impl Context {
    pub fn new(cpu: u32, state: State) -> Context {
        Context {
            cpu,
            state,
            depth: 0,
            sched: None,
            was_started: false,
            migration: Migration::None,
            moves_as: None,
        }
    }
}

impl Utcb {
    /// Takes the first `count` message words of another one.
    pub(super) fn copy(&mut self, from: &Utcb, count: usize) {
        let words = count.min(WORDS);
        self.words[..words].copy_from_slice(&from.words[..words]);
        let last = count.saturating_sub(abi::utcb::WORDS - LAST_WORDS);
        self.last[..last].copy_from_slice(&from.last[..last]);
    }

    /// The words of a capability.
    pub(super) fn item(&self, number: usize) -> [u64; ITEM_WORDS] {
        let at = Item::place(number) + LAST_WORDS - abi::utcb::WORDS;
        core::array::from_fn(|i| self.last[at + i])
    }
}

impl Vcpu {
    pub fn new(cpu: u32, guest: Id, monitor: Id, page: u64, exits: u32) -> Vcpu {
        Vcpu {
            context: Context::new(cpu, State::Ready),
            guest,
            monitor,
            page,
            exits,
            kick: None,
            pending: Some([ExitKind::Startup as u64, 0, 0, 0]),
            deadline: u64::MAX,
            expired: false,
            controls: 0,
            next_deadline: 0,
        }
    }
}

impl Sched {
    pub fn new(cpu: u32, priority: u8, partition: u8, budget: u64, period: u64) -> Sched {
        Sched {
            cpu,
            priority,
            partition,
            budget,
            period,
            left: if budget == 0 { SLICE } else { budget },
            until: None,
            home: None,
            begun: false,
            preempted: false,
            overrun: None,
            told: false,
        }
    }
}

impl Line {
    pub fn new(number: u32) -> Line {
        Line { number, binding: None, level: false, pending: false, again: false, masked: true }
    }
}

/// Contexts.
impl Model {
    pub fn context(&self, id: Id) -> &Context {
        match &self.objects[&id].0 {
            Object::Thread(thread) => &thread.context,
            Object::Vcpu(vcpu) => &vcpu.context,
            other => panic!("{id} is {other:?}"),
        }
    }

    pub fn context_mut(&mut self, id: Id) -> &mut Context {
        match &mut self.objects.get_mut(&id).unwrap().0 {
            Object::Thread(thread) => &mut thread.context,
            Object::Vcpu(vcpu) => &mut vcpu.context,
            other => panic!("{id} is {other:?}"),
        }
    }

    pub fn state(&self, id: Id) -> State {
        self.context(id).state
    }

    pub(super) fn set_state(&mut self, id: Id, state: State) {
        self.context_mut(id).state = state;
    }

    pub fn is_thread(&self, id: Id) -> bool {
        matches!(self.objects[&id].0, Object::Thread(_))
    }

    /// Threads and vCPUs.
    pub fn contexts(&self) -> Vec<Id> {
        let is_context = |o: &Object| matches!(o, Object::Thread(_) | Object::Vcpu(_));
        let objects = self.objects.iter();
        objects.filter(|(_, (object, _))| is_context(object)).map(|(&id, _)| id).collect()
    }

    /// Scheduling contexts of a CPU.
    pub(super) fn scheds(&self, cpu: u32) -> Vec<Id> {
        let here = |o: &Object| matches!(o, Object::Sched(sched) if sched.cpu == cpu);
        let objects = self.objects.iter();
        objects.filter(|(_, (object, _))| here(object)).map(|(&id, _)| id).collect()
    }
}

/// Ends.
impl Model {
    /// Nothing refers to `id` any more.
    pub(super) fn detach(&mut self, id: Id) {
        match &self.objects[&id].0 {
            Object::Thread(_) | Object::Vcpu(_) => self.detach_context(id),
            Object::Sched(_) => self.unbind(id),
            _ => {}
        }
    }

    pub(super) fn detach_context(&mut self, id: Id) {
        for helper in self.contexts() {
            if self.state(helper) == State::Helping(id) {
                self.set_state(helper, State::Ready);
            }
        }
        for (object, _) in self.objects.values_mut() {
            match object {
                Object::Portal(portal) if portal.handler == Some(id) => portal.handler = None,
                Object::Notification(n) if n.waiter == Some(id) => n.forget_waiter(),
                _ => {}
            }
        }
        // The handler finishes what it was asked.
        if let State::InCall(handler) = self.state(id) {
            self.thread_mut(handler).caller = None;
        }
        if let Some(sched) = self.context(id).sched {
            self.unbind(sched);
        }
        self.stop(id);
    }

    pub(super) fn unbind(&mut self, id: Id) {
        let cpu = self.sched(id).cpu as usize;
        if self.cpus[cpu].running == Some(id) {
            self.leave(id, cpu);
        }
        let sched = self.sched_mut(id);
        (sched.begun, sched.preempted) = (false, false);
        if let Some(home) = sched.home.take() {
            self.context_mut(home).sched = None;
        }
    }
}

/// Steps.
impl Model {
    /// The thread executes its system-call instruction.
    pub fn execute(&mut self, id: Id, instruction: u64) {
        let frame = &mut self.thread_mut(id).frame;
        let (sp, flags) = (frame.sp(), frame.flags());
        frame.set_user(instruction + SYSCALL_LENGTH, sp, flags);
        let (tag, args) = (frame.tag(), frame.args());
        if self.thread(id).foreign {
            return self.raise(id, [SYSTEM_CALL, SYNDROME, 0]);
        }
        let by = Caller { domain: self.payer(id), cpu: self.context(id).cpu, thread: Some(id) };
        let result = match Op::from_code(tag.op()) {
            None => Err(Status::BadOperation),
            Some(_) if tag.has_reserved() => Err(Status::BadArgument),
            Some(Op::Call) => match self.call_portal(id) {
                Ok(()) => return,
                Err(status) => Err(status),
            },
            Some(Op::ReplyWait) => match self.reply_wait(id) {
                Ok(()) => return,
                Err(status) => Err(status),
            },
            Some(Op::Wait) => match self.wait(id, &args) {
                Some(result) => result,
                None => return,
            },
            Some(Op::Yield) => {
                self.cpus[by.cpu as usize].over = true;
                Ok(())
            }
            Some(Op::QuotaQuery) => {
                self.find(by.domain, args[0], Kind::Domain, Rights::CONTROL).map(|domain| {
                    let (limit, used) = (self.table(domain).limit, self.table(domain).used);
                    let frame = &mut self.thread_mut(id).frame;
                    frame.set_arg(1, limit);
                    frame.set_arg(2, used);
                })
            }
            Some(Op::Migrate) => match self.migrate(by, &args) {
                Some(result) => result,
                None => return self.thread_mut(id).frame.restart(),
            },
            Some(op) => self.call(by, op, &args),
        };
        let status = result.err().unwrap_or(Status::Success);
        let frame = &mut self.thread_mut(id).frame;
        if [Op::Call as u8, Op::ReplyWait as u8].contains(&tag.op()) {
            frame.scrub();
        }
        frame.set_result(status);
        if status == Status::Quota {
            // Where the payer is found: in these by the second argument.
            let second = [Op::Map, Op::QuotaTake, Op::BindDoorbell];
            let second = second.iter().any(|&op| tag.op() == op as u8);
            frame.set_arg(1, u64::from(second));
        }
    }

    /// Context `id` runs until it is in user or guest mode; whether it had something to do in the kernel.
    pub fn step(&mut self, id: Id, instruction: u64) -> bool {
        if !self.is_thread(id) {
            let exit = self.take_exit(id);
            if let Some(exit) = exit {
                self.tell(id, exit);
            }
            return exit.is_some();
        }
        if let Some(exception) = self.thread_mut(id).pending.take() {
            self.raise(id, exception);
        } else if self.thread(id).frame.ip() == instruction {
            self.execute(id, instruction);
        } else {
            return false;
        }
        true
    }
}
