//! What runs: threads and vCPUs, calls between them, signals, and time.
//!
//! Which of several equals goes next is not said here: [`Model::choose`] takes what the kernel chose and says whether
//! it may.

use super::{Caller, Id, Model, Object, selector};
use crate::arch::Frame;
use crate::arch::frame::SYSCALL_LENGTH;
use abi::cap::Kind;
use abi::syscall::TriggerMode;
use abi::utcb::exception::{ExceptionReply, GPRS};
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::{MAX_CALL_DEPTH, Op, Rights, Status, Tag};
use std::collections::BTreeSet;

/// Ticks of a time slice.
pub const SLICE: u64 = super::super::world::SLICE;
/// Words of a UTCB that are looked at.
pub const WORDS: usize = GPRS;

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
}

/// What threads and vCPUs have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Context {
    pub cpu: u32,
    pub state: State,
    /// Calls that led here.
    depth: u8,
    /// Bound to it.
    pub sched: Option<Id>,
    was_started: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Thread {
    pub context: Context,
    pub space: Id,
    pub utcb: u64,
    pub frame: Frame,
    /// The first message words in its UTCB.
    pub words: [u64; WORDS],
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
    exits: u32,
    pub kick: Option<Id>,
    pending: Option<Exit>,
    /// `u64::MAX`: none.
    deadline: u64,
    expired: bool,
    /// What the state page says.
    pub controls: u64,
    pub next_deadline: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sched {
    pub cpu: u32,
    pub priority: u8,
    budget: u64,
    period: u64,
    left: u64,
    /// The budget is spent until then.
    until: Option<u64>,
    pub home: Option<Id>,
    /// Its CPU knows that it is bound.
    begun: bool,
    /// It was pre-empted, and is first among its equals.
    preempted: bool,
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    pub number: u32,
    binding: Option<(Id, u64)>,
    level: bool,
    pending: bool,
    again: bool,
    pub masked: bool,
}

/// A CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// Whose time it is, and when that ends.
    pub running: Option<Id>,
    slice_end: u64,
    /// Its turn is over: it has yielded, or its time has ended.
    over: bool,
    /// From other CPUs: notifications that were signalled, scheduling contexts that were bound.
    pub posted: BTreeSet<Id>,
    starts: Vec<Id>,
}

/// What the end of a chain of calls does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Runs(Id),
    /// Helped a handler that can be called now, and tries again.
    Retries(Id),
    Blocked,
}

impl Context {
    pub fn new(cpu: u32, state: State) -> Context {
        Context {
            cpu,
            state,
            depth: 0,
            sched: None,
            was_started: false,
        }
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
    pub fn new(cpu: u32, priority: u8, budget: u64, period: u64) -> Sched {
        Sched {
            cpu,
            priority,
            budget,
            period,
            left: if budget == 0 { SLICE } else { budget },
            until: None,
            home: None,
            begun: false,
            preempted: false,
        }
    }
}

impl Line {
    pub fn new(number: u32) -> Line {
        Line {
            number,
            binding: None,
            level: false,
            pending: false,
            again: false,
            masked: true,
        }
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

    fn set_state(&mut self, id: Id, state: State) {
        self.context_mut(id).state = state;
    }

    pub fn is_thread(&self, id: Id) -> bool {
        matches!(self.objects[&id].0, Object::Thread(_))
    }

    /// Threads and vCPUs.
    pub fn contexts(&self) -> Vec<Id> {
        let is_context = |o: &Object| matches!(o, Object::Thread(_) | Object::Vcpu(_));
        let objects = self.objects.iter();
        objects
            .filter(|(_, (object, _))| is_context(object))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Scheduling contexts of a CPU.
    fn scheds(&self, cpu: u32) -> Vec<Id> {
        let here = |o: &Object| matches!(o, Object::Sched(sched) if sched.cpu == cpu);
        let objects = self.objects.iter();
        objects
            .filter(|(_, (object, _))| here(object))
            .map(|(&id, _)| id)
            .collect()
    }
}

/// Calls.
impl Model {
    /// Begins a call; the handler, or `None` if it is busy and helped.
    fn enter(&mut self, caller: Id, portal: Id) -> Result<Option<Id>, Status> {
        let handler = self.portal(portal).handler.ok_or(Status::Dead)?;
        if self.context(handler).cpu != self.context(caller).cpu {
            return Err(Status::WrongCpu);
        }
        let depth = self.context(caller).depth + 1;
        if depth as usize > MAX_CALL_DEPTH {
            return Err(Status::Depth);
        }
        match self.state(handler) {
            State::Stopped => Err(Status::Dead),
            State::New | State::Idle => {
                let thread = self.thread_mut(handler);
                thread.caller = Some(caller);
                thread.context.depth = depth;
                thread.context.state = State::Ready;
                self.set_state(caller, State::InCall(handler));
                Ok(Some(handler))
            }
            _ if self.waits_for(handler, caller) => Err(Status::Deadlock),
            _ => {
                self.set_state(caller, State::Helping(handler));
                Ok(None)
            }
        }
    }

    /// Whether `id` waits, directly or not, for what `other` does.
    fn waits_for(&self, id: Id, other: Id) -> bool {
        id == other
            || match self.state(id) {
                State::InCall(next) | State::Helping(next) => self.waits_for(next, other),
                _ => false,
            }
    }

    fn call_portal(&mut self, id: Id) -> Result<(), Status> {
        let frame = &mut self.thread_mut(id).frame;
        let (count, message) = (frame.tag().utcb_words(), frame.message());
        // The kernel looks at the lower half only.
        let at = frame.arg(0) as u32;
        if count > abi::utcb::WORDS {
            return Err(Status::BadArgument);
        }
        let portal = self.find(self.payer(id), at as u64, Kind::Portal, Rights::CALL)?;
        let identity = self.portal(portal).identity;
        match self.enter(id, portal)? {
            Some(handler) => {
                self.copy_words(id, handler, count);
                let frame = &mut self.thread_mut(handler).frame;
                frame.receive(identity, count, 0);
                frame.set_message(&message);
            }
            None => self.thread_mut(id).frame.restart(),
        }
        Ok(())
    }

    fn copy_words(&mut self, from: Id, to: Id, count: usize) {
        let words = self.thread(from).words;
        self.thread_mut(to).words[..count].copy_from_slice(&words[..count]);
    }

    fn reply_wait(&mut self, id: Id) -> Result<(), Status> {
        let frame = &mut self.thread_mut(id).frame;
        let (count, message) = (frame.tag().utcb_words(), frame.message());
        if count > abi::utcb::WORDS {
            return Err(Status::BadArgument);
        }
        let thread = self.thread_mut(id);
        (thread.context.state, thread.context.depth) = (State::Idle, 0);
        let Some(client) = thread.caller.take() else {
            return Ok(());
        };
        self.set_state(client, State::Ready);
        if !self.is_thread(client) {
            self.resume(client, message[0]);
        } else if self.thread(client).in_exception {
            self.answer_exception(client, id, &message);
        } else {
            self.copy_words(id, client, count);
            let frame = &mut self.thread_mut(client).frame;
            frame.set_message(&message);
            frame.set_arg(0, 0);
            frame.scrub();
            frame.set_result_tag(Tag::result(Status::Success, count as u16));
        }
        Ok(())
    }

    fn answer_exception(&mut self, client: Id, handler: Id, message: &[u64; 8]) {
        let gprs = self.thread(handler).words;
        let thread = self.thread_mut(client);
        thread.in_exception = false;
        let action = ExceptionReply::from_bits_truncate(message[0]);
        if !action.contains(ExceptionReply::RESUME) {
            return self.stop(client);
        }
        if action.contains(ExceptionReply::SET_GPRS) {
            thread.frame.set_gprs(&gprs);
        }
        if action.contains(ExceptionReply::SET_FRAME) {
            thread.frame.set_user(message[3], message[4], message[5]);
        }
    }

    /// `id` never runs again.
    fn stop(&mut self, id: Id) {
        self.set_state(id, State::Stopped);
        if self.is_thread(id) {
            self.abandon(id);
        }
    }

    /// Who waits for the reply of `id` will not get it.
    fn abandon(&mut self, id: Id) {
        let Some(client) = self.thread_mut(id).caller.take() else {
            return;
        };
        if self.is_thread(client) && !self.thread(client).in_exception {
            self.thread_mut(client).frame.set_result(Status::Dead);
            self.set_state(client, State::Ready);
        } else {
            if self.is_thread(client) {
                self.thread_mut(client).in_exception = false;
            }
            self.stop(client);
        }
    }

    /// Thread `id`, which runs, has an exception.
    pub fn raise(&mut self, id: Id, exception: [u64; 3]) {
        let at = self.thread(id).exceptions as u64;
        let found = self.find(self.payer(id), at, Kind::Portal, Rights::CALL);
        let portal = found.map(|portal| (self.portal(portal).identity, portal));
        match portal.and_then(|(identity, portal)| Ok((identity, self.enter(id, portal)?))) {
            Err(_) => self.stop(id),
            Ok((_, None)) => self.thread_mut(id).pending = Some(exception),
            Ok((identity, Some(handler))) => {
                self.thread_mut(id).in_exception = true;
                let from = self.thread(id).frame;
                let thread = self.thread_mut(handler);
                thread.words = from.gprs();
                thread.frame.receive(identity, GPRS, 0);
                let [vector, error, address] = exception;
                let (ip, sp, flags) = (from.ip(), from.sp(), from.flags());
                thread
                    .frame
                    .set_message(&[vector, error, address, ip, sp, flags, 0, 0]);
            }
        }
    }
}

/// vCPUs.
impl Model {
    /// An exit that vCPU `id` has to tell before it enters guest mode.
    fn take_exit(&mut self, id: Id) -> Option<Exit> {
        let kick = self.vcpu(id).kick;
        let vcpu = self.vcpu_mut(id);
        if let Some(exit) = vcpu.pending.take() {
            return Some(exit);
        }
        let expired = std::mem::take(&mut vcpu.expired);
        let bits = kick.map_or(0, |n| std::mem::take(&mut self.notification_mut(n).word));
        (bits != 0 || expired).then_some([ExitKind::Kick as u64, bits, expired as u64, 0])
    }

    /// Calls the portal of `exit`.
    pub fn tell(&mut self, id: Id, exit: Exit) {
        let at = self.vcpu(id).exits as u64 + (exit[0] & 0xff);
        let found = self.find(self.payer(id), at, Kind::Portal, Rights::CALL);
        let portal = found.map(|portal| (self.portal(portal).identity, portal));
        match portal.and_then(|(identity, portal)| Ok((identity, self.enter(id, portal)?))) {
            Err(_) => self.stop(id),
            Ok((_, None)) => self.vcpu_mut(id).pending = Some(exit),
            Ok((identity, Some(handler))) => {
                let frame = &mut self.thread_mut(handler).frame;
                frame.receive(identity, 0, 0);
                frame.set_message(&[exit[0], exit[1], exit[2], exit[3], 0, 0, 0, 0]);
            }
        }
    }

    /// The monitor's reply.
    fn resume(&mut self, id: Id, groups: u64) {
        let groups = Groups::from_bits_truncate(groups);
        let kicked = self
            .vcpu(id)
            .kick
            .is_some_and(|n| self.notification(n).word != 0);
        let vcpu = self.vcpu_mut(id);
        if groups.contains(Groups::DEADLINE) {
            vcpu.expired = false;
            vcpu.deadline = vcpu.next_deadline;
        }
        let halt = groups.contains(Groups::EVENTS) && vcpu.controls & CONTROL_HALT != 0;
        if halt && !kicked && !vcpu.expired {
            vcpu.context.state = State::Halted;
        }
    }
}

/// Signals.
impl Model {
    /// The notification and the bits that the capability `at` may signal.
    fn signal_target(&self, domain: Id, at: u64) -> Result<(Id, u64), Status> {
        let n = self.find(domain, at, Kind::Notification, Rights::SIGNAL)?;
        Ok((n, self.caps[&(domain, at as u32)].first))
    }

    pub(super) fn signal_by(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let (n, bits) = self.signal_target(by.domain, args[0])?;
        self.signal(by.cpu, n, bits);
        Ok(())
    }

    fn signal(&mut self, cpu: u32, n: Id, bits: u64) {
        self.notification_mut(n).word |= bits;
        self.arrive(cpu, n);
    }

    /// Bits of `n` reach its waiter, or its waiter's CPU.
    fn arrive(&mut self, cpu: u32, n: Id) {
        let Some(waiter) = self.notification(n).waiter else {
            return;
        };
        let there = self.context(waiter).cpu;
        if there != cpu {
            self.cpus[there as usize].posted.insert(n);
            return;
        }
        let bits = self.notification(n).word;
        match self.state(waiter) {
            _ if bits == 0 => {}
            State::Waiting(..) => {
                *self.notification_mut(n) = Notification::default();
                let frame = &mut self.thread_mut(waiter).frame;
                frame.set_result(Status::Success);
                frame.set_arg(1, bits);
                self.set_state(waiter, State::Ready);
            }
            State::Halted => self.set_state(waiter, State::Ready),
            _ => {}
        }
    }

    /// The status of a wait that does not have to wait.
    fn wait(&mut self, id: Id, args: &[u64; 9]) -> Option<Result<(), Status>> {
        let (at, deadline) = (args[0], args[1]);
        let found = self.find(self.payer(id), at, Kind::Notification, Rights::WAIT);
        let n = match found {
            Ok(n) => n,
            Err(status) => return Some(Err(status)),
        };
        let notification = self.notification_mut(n);
        if notification.word != 0 {
            let bits = std::mem::take(&mut notification.word);
            self.thread_mut(id).frame.set_arg(1, bits);
            return Some(Ok(()));
        }
        if deadline == 0 {
            return Some(Err(Status::Timeout));
        }
        if notification.waiter.is_some() {
            return Some(Err(Status::Busy));
        }
        notification.waiter = Some(id);
        self.set_state(id, State::Waiting(n, deadline));
        None
    }

    fn end_wait(&mut self, id: Id, status: Status) {
        if let State::Waiting(n, _) = self.state(id) {
            self.notification_mut(n).waiter = None;
            self.thread_mut(id).frame.set_result(status);
            self.set_state(id, State::Ready);
        }
    }

    pub(super) fn bind_kick(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let vcpu = self.find(by.domain, args[0], Kind::Vcpu, Rights::CONTROL)?;
        let n = self.find(by.domain, args[1], Kind::Notification, Rights::WAIT)?;
        if self.context(vcpu).was_started
            || self.vcpu(vcpu).kick.is_some()
            || self.notification(n).waiter.is_some()
        {
            return Err(Status::Busy);
        }
        self.vcpu_mut(vcpu).kick = Some(n);
        self.notification_mut(n).waiter = Some(vcpu);
        Ok(())
    }

    pub(super) fn interrupt_bind(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let id = self.find(by.domain, args[0], Kind::Interrupt, Rights::CONTROL)?;
        let binding = self.signal_target(by.domain, args[1])?;
        let mode = TriggerMode::from_code(args[2]).ok_or(Status::BadArgument)?;
        let line = self.line_mut(id);
        if line.binding.is_some() {
            return Err(Status::Busy);
        }
        // The host's machine has three lines.
        if line.number == 3 {
            return Err(Status::Unsupported);
        }
        *line = Line {
            binding: Some(binding),
            level: mode == TriggerMode::Level,
            masked: false,
            ..Line::new(line.number)
        };
        Ok(())
    }

    pub(super) fn interrupt_ack(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let id = self.find(by.domain, args[0], Kind::Interrupt, Rights::CONTROL)?;
        let line = self.line_mut(id);
        if line.pending {
            line.pending = std::mem::take(&mut line.again);
            line.masked &= !line.level && !line.pending;
            if let Some((n, bits)) = line.binding.filter(|_| line.pending) {
                self.signal(by.cpu, n, bits);
            }
        }
        Ok(())
    }

    /// The device at line `number`, which is not masked, fires.
    pub fn fire(&mut self, cpu: u32, number: u32) {
        let mut objects = self.objects.values_mut();
        let line = objects.find_map(|(object, _)| match object {
            Object::Line(line) if line.number == number => Some(line),
            _ => None,
        });
        let line = line.expect("there is such a line");
        let before = std::mem::replace(&mut line.pending, true);
        line.masked |= line.level || before;
        line.again |= before && !line.level;
        if let Some((n, bits)) = line.binding.filter(|_| line.level || !before) {
            self.signal(cpu, n, bits);
        }
    }
}

/// Ends.
impl Model {
    /// Nothing refers to `id` any more.
    pub(super) fn detach(&mut self, id: Id) {
        match &self.objects[&id].0 {
            Object::Thread(_) | Object::Vcpu(_) => self.detach_context(id),
            Object::Sched(_) => self.unbind(id),
            Object::Notification(notification) => {
                if let Some(waiter) = notification.waiter {
                    if self.is_thread(waiter) {
                        self.end_wait(waiter, Status::Aborted);
                    } else {
                        self.vcpu_mut(waiter).kick = None;
                    }
                }
                for (object, _) in self.objects.values_mut() {
                    if let Object::Line(line) = object
                        && line.binding.is_some_and(|(n, _)| n == id)
                    {
                        *line = Line::new(line.number);
                    }
                }
            }
            _ => {}
        }
    }

    fn detach_context(&mut self, id: Id) {
        for helper in self.contexts() {
            if self.state(helper) == State::Helping(id) {
                self.set_state(helper, State::Ready);
            }
        }
        for (object, _) in self.objects.values_mut() {
            match object {
                Object::Portal(portal) if portal.handler == Some(id) => portal.handler = None,
                Object::Notification(n) if n.waiter == Some(id) => n.waiter = None,
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

    fn unbind(&mut self, id: Id) {
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

/// Time.
impl Model {
    pub(super) fn bind_sched(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let sched = self.find(by.domain, args[0], Kind::Sched, Rights::CONTROL)?;
        let at = (by.domain, selector(args[1])?);
        let cap = self.caps.get(&at);
        let cap = cap.filter(|cap| matches!(cap.kind, Kind::Thread | Kind::Vcpu));
        let cap = cap.ok_or(Status::BadCapability)?;
        if !cap.rights.contains(Rights::CONTROL) {
            return Err(Status::Denied);
        }
        let id = cap.object.unwrap();
        let cpu = self.sched(sched).cpu;
        if cpu != self.context(id).cpu {
            return Err(Status::WrongCpu);
        }
        if self.context(id).sched.is_some() || self.sched(sched).home.is_some() {
            return Err(Status::Busy);
        }
        self.sched_mut(sched).home = Some(id);
        let context = self.context_mut(id);
        (context.sched, context.was_started) = (Some(sched), true);
        if cpu == by.cpu {
            self.begin(sched);
        } else {
            self.cpus[cpu as usize].starts.push(sched);
        }
        Ok(())
    }

    fn begin(&mut self, sched: Id) {
        self.sched_mut(sched).begun = true;
        let home = self.sched(sched).home.unwrap();
        if self.state(home) == State::New {
            self.set_state(home, State::Ready);
        }
    }

    /// The CPU takes the interrupt that others have sent.
    pub fn take_posted(&mut self, cpu: u32) {
        for sched in std::mem::take(&mut self.cpus[cpu as usize].starts) {
            self.begin(sched);
        }
        for n in std::mem::take(&mut self.cpus[cpu as usize].posted) {
            self.arrive(cpu, n);
        }
    }

    /// The CPU's timer fires.
    pub fn take_timer(&mut self, cpu: u32) {
        let now = self.now;
        for id in self.contexts() {
            if self.context(id).cpu != cpu {
                continue;
            }
            if let State::Waiting(_, deadline) = self.state(id) {
                if deadline <= now {
                    self.end_wait(id, Status::Timeout);
                }
            } else if !self.is_thread(id) && self.vcpu(id).deadline <= now {
                let vcpu = self.vcpu_mut(id);
                (vcpu.deadline, vcpu.expired) = (u64::MAX, true);
                if vcpu.context.state == State::Halted {
                    vcpu.context.state = State::Ready;
                }
            }
        }
        for id in self.scheds(cpu) {
            let sched = self.sched_mut(id);
            if sched.until.is_some_and(|until| until <= now) {
                (sched.until, sched.left) = (None, sched.budget);
            }
        }
        let cpu = &mut self.cpus[cpu as usize];
        cpu.over |= cpu.running.is_some() && cpu.slice_end <= now;
    }

    /// Whether something is due on a CPU that its timer should have said.
    pub fn is_due(&self, cpu: u32) -> bool {
        let late = |id: &Id| match (&self.objects[id].0, self.context(*id).state) {
            (_, State::Waiting(_, deadline)) => deadline <= self.now,
            (Object::Vcpu(vcpu), _) => vcpu.deadline <= self.now,
            _ => false,
        };
        let spent = |id: &Id| self.sched(*id).until.is_some_and(|until| until <= self.now);
        let mut contexts = self.contexts().into_iter();
        let running = &self.cpus[cpu as usize];
        contexts.any(|id| self.context(id).cpu == cpu && late(&id))
            || self.scheds(cpu).iter().any(spent)
            || running.running.is_some() && running.slice_end <= self.now
    }

    /// The same state, with all times counted from now.
    pub fn since_now(&self) -> Model {
        let mut model = self.clone();
        let now = std::mem::take(&mut model.now);
        let count = |time: &mut u64| {
            if *time != u64::MAX {
                *time = time.saturating_sub(now);
            }
        };
        for (object, _) in model.objects.values_mut() {
            match object {
                Object::Thread(thread) => {
                    if let State::Waiting(_, deadline) = &mut thread.context.state {
                        count(deadline);
                    }
                }
                Object::Vcpu(vcpu) => {
                    count(&mut vcpu.deadline);
                    vcpu.next_deadline = 0;
                }
                Object::Sched(sched) => {
                    if let Some(until) = &mut sched.until {
                        count(until);
                    }
                }
                _ => {}
            }
        }
        for cpu in &mut model.cpus {
            count(&mut cpu.slice_end);
        }
        model
    }

    /// Where the chain of calls from `id` leads.
    fn follow(&self, id: Id) -> End {
        match self.state(id) {
            State::Ready => End::Runs(id),
            State::InCall(next) => self.follow(next),
            State::Helping(next) => match self.state(next) {
                State::Idle | State::New | State::Stopped => End::Retries(id),
                _ => self.follow(next),
            },
            _ => End::Blocked,
        }
    }

    /// What runs on the time of `id`.
    pub fn leads_to(&self, id: Id) -> Option<Id> {
        match self.follow(id) {
            End::Runs(context) | End::Retries(context) => Some(context),
            End::Blocked => None,
        }
    }

    /// Whether a scheduling context has somebody to run, and time.
    fn is_eligible(&self, id: Id) -> bool {
        let sched = self.sched(id);
        let home = sched.home.filter(|_| sched.begun && sched.until.is_none());
        home.is_some_and(|home| self.follow(home) != End::Blocked)
    }

    /// Whether it must be considered: a handler's own time may sleep while the handler serves others on theirs.
    fn must_compete(&self, id: Id) -> bool {
        self.context(self.sched(id).home.unwrap()).depth == 0
    }

    /// Charges `id`, which ran on `cpu`.
    fn leave(&mut self, id: Id, cpu: usize) {
        let over = std::mem::take(&mut self.cpus[cpu].over);
        let (now, slice_end) = (self.now, self.cpus[cpu].slice_end);
        self.cpus[cpu].running = None;
        let sched = self.sched_mut(id);
        sched.left = slice_end.saturating_sub(now);
        if sched.budget == 0 && (sched.left == 0 || over) {
            sched.left = SLICE;
        } else if sched.left == 0 {
            sched.until = Some(now.saturating_add(sched.period - sched.budget));
        }
    }

    /// The kernel has chosen `chosen` to run on `cpu`: whether it may, and the context that runs.
    pub fn choose(&mut self, cpu: u32, chosen: Option<Id>) -> Result<Option<Id>, String> {
        let at = cpu as usize;
        let (before, over) = (self.cpus[at].running, self.cpus[at].over);
        if over || before != chosen {
            if let Some(id) = before {
                // Whoever is pre-empted goes on before its equals.
                self.sched_mut(id).preempted = !over;
                self.leave(id, at);
            }
            if let Some(id) = chosen {
                self.cpus[at].slice_end = self.now.saturating_add(self.sched(id).left);
            }
            self.cpus[at].running = chosen;
        }
        let scheds = self.scheds(cpu);
        for &id in &scheds {
            if self.sched(id).preempted && !self.is_eligible(id) {
                self.sched_mut(id).preempted = false;
            }
        }
        let compete = |model: &Model, id: &Id| model.is_eligible(*id) && model.must_compete(*id);
        let others = scheds.iter().filter(|&&id| Some(id) != chosen);
        let mut others = others.filter(|id| compete(self, id));
        let Some(id) = chosen else {
            return match others.next() {
                Some(id) => Err(format!("CPU {cpu} is idle, and {id} is ready")),
                None => Ok(None),
            };
        };
        if !self.is_eligible(id) {
            return Err(format!("CPU {cpu} runs {id}, which is not ready"));
        }
        let priority = self.sched(id).priority;
        for &other in others {
            let other_priority = self.sched(other).priority;
            if other_priority > priority {
                return Err(format!("CPU {cpu} runs {id}, and {other} comes first"));
            }
            if other_priority == priority
                && self.sched(other).preempted
                && !self.sched(id).preempted
            {
                return Err(format!("CPU {cpu} runs {id}, and {other} was pre-empted"));
            }
            if other_priority == priority && over && before == Some(id) {
                return Err(format!("{id} goes on after its turn, {other} waits"));
            }
        }
        let sched = self.sched_mut(id);
        sched.preempted = false;
        let home = sched.home.unwrap();
        Ok(Some(match self.follow(home) {
            End::Retries(context) => {
                self.set_state(context, State::Ready);
                context
            }
            End::Runs(context) => context,
            End::Blocked => panic!("{id} is eligible"),
        }))
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
        let by = Caller {
            domain: self.payer(id),
            cpu: self.context(id).cpu,
            thread: Some(id),
        };
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
            Some(Op::QuotaQuery) => self
                .find(by.domain, args[0], Kind::Domain, Rights::CONTROL)
                .map(|domain| {
                    let (limit, used) = (self.table(domain).limit, self.table(domain).used);
                    let frame = &mut self.thread_mut(id).frame;
                    frame.set_arg(1, limit);
                    frame.set_arg(2, used);
                }),
            Some(op) => self.call(by, op, &args),
        };
        let status = result.err().unwrap_or(Status::Success);
        self.thread_mut(id).frame.set_result(status);
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
