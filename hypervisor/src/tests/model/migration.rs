//! Migration: a context lets go of its CPU when that takes the request, and is taken up when the other one does.

use super::running::State;
use super::{Caller, Id, Model, selector};
use abi::cap::Kind;
use abi::{Op, Rights, Status};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Request {
    to: u32,
    /// What the time there allows.
    priority: u64,
    partition: u64,
    /// Selector of a vCPU's portal for exit kind 0.
    exits: u32,
}

/// How far a context is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Migration {
    /// Nobody asks, or the answer was no.
    #[default]
    None,
    Asked(Request),
    /// With this status.
    Refused(u8),
}

impl Model {
    /// The thread or vCPU at a selector, to be controlled.
    pub(super) fn controlled(&self, caller: Id, argument: u64) -> Result<Id, Status> {
        let at = (caller, selector(argument)?);
        let cap = self.caps.get(&at);
        let cap = cap.filter(|cap| matches!(cap.kind, Kind::Thread | Kind::Vcpu));
        let cap = cap.ok_or(Status::BadCapability)?;
        if !cap.rights.contains(Rights::CONTROL) {
            return Err(Status::Denied);
        }
        Ok(cap.object.unwrap())
    }

    /// A turn of the system call; `None`: it is not decided yet.
    pub(super) fn migrate(&mut self, by: Caller, args: &[u64; 9]) -> Option<Result<(), Status>> {
        let asked = by.thread.map(|id| self.thread(id).asks) == Some(Some(args[0]));
        let result = if let Err(status) = Op::Migrate.check(args) {
            Some(Err(status))
        } else if asked {
            self.controlled(by.domain, args[0])
                .map_or_else(|status| Some(Err(status)), |id| self.answer(id, args[1]))
        } else {
            self.ask(by.domain, args).err().map(Err)
        };
        if let Some(id) = by.thread {
            self.thread_mut(id).asks = result.is_none().then_some(args[0]);
        }
        result
    }

    /// The system call when all CPUs do at once what is asked of them.
    pub(super) fn migrate_at_once(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let id = self.ask(by.domain, args)?;
        loop {
            for cpu in 0..self.cpus.len() as u32 {
                self.take_posted(cpu);
            }
            if let Some(result) = self.answer(id, args[1]) {
                return result;
            }
        }
    }

    fn ask(&mut self, caller: Id, args: &[u64; 9]) -> Result<Id, Status> {
        let id = self.controlled(caller, args[0])?;
        let to = self.check_cpu(args[1])?;
        let limit = self.limit(caller, args[2], to, Rights::CREATE)?;
        let exits = selector(args[3])?;
        let context = self.context_mut(id);
        if matches!(context.migration, Migration::Asked(_)) {
            return Err(Status::Busy);
        }
        context.migration =
            Migration::Asked(Request { to, priority: limit & 0xff, partition: limit >> 8, exits });
        let cpu = context.cpu;
        self.cpus[cpu as usize].migrations.push(id);
        Ok(id)
    }

    fn answer(&self, id: Id, to: u64) -> Option<Result<(), Status>> {
        let context = self.context(id);
        match context.migration {
            Migration::Asked(_) => None,
            Migration::Refused(code) => Some(Err(Status::from_code(code))),
            Migration::None if u64::from(context.cpu) == to => Some(Ok(())),
            Migration::None => Some(Err(Status::Busy)),
        }
    }

    /// `cpu` does what is asked for `id`, or takes it up.
    pub(super) fn serve_migration(&mut self, cpu: u32, id: Id) {
        let Migration::Asked(request) = self.context(id).migration else {
            panic!("nobody asked for {id}");
        };
        let result = if self.state(id) == State::Moving {
            self.arrive_here(cpu, id);
            Ok(())
        } else if request.to == cpu {
            Ok(())
        } else {
            match self.may_leave(id, &request) {
                Ok(()) => return self.leave_for(cpu, id, &request),
                Err(status) => Err(status),
            }
        };
        self.context_mut(id).migration =
            result.map_or_else(|status| Migration::Refused(status as u8), |()| Migration::None);
    }

    fn may_leave(&self, id: Id, request: &Request) -> Result<(), Status> {
        let calls = matches!(self.state(id), State::InCall(_) | State::Helping(_));
        let serves = self.is_thread(id) && self.thread(id).caller.is_some();
        let sched = self.context(id).sched.map(|sched| self.sched(sched));
        if self.state(id) == State::Stopped {
            return Err(Status::Dead);
        }
        if calls || serves || sched.is_some_and(|sched| !sched.begun) {
            return Err(Status::Busy);
        }
        let allows = sched.is_none_or(|sched| {
            u64::from(sched.priority) <= request.priority
                && [0, sched.partition.into()].contains(&request.partition)
        });
        if allows { Ok(()) } else { Err(Status::Denied) }
    }

    fn leave_for(&mut self, cpu: u32, id: Id, request: &Request) {
        for helper in self.contexts() {
            if self.state(helper) == State::Helping(id) {
                self.set_state(helper, State::Ready);
            }
        }
        if !self.is_thread(id) {
            self.vcpu_mut(id).exits = request.exits;
        }
        if let Some(sched) = self.context(id).sched {
            if self.cpus[cpu as usize].running == Some(sched) {
                self.leave(sched, cpu as usize);
                if self.overruns(sched) {
                    self.tell_overrun(sched);
                }
            }
            let sched = self.sched_mut(sched);
            (sched.cpu, sched.preempted) = (request.to, false);
        }
        let context = self.context_mut(id);
        context.moves_as = Some(std::mem::replace(&mut context.state, State::Moving));
        context.cpu = request.to;
        self.cpus[request.to as usize].migrations.push(id);
    }

    fn arrive_here(&mut self, cpu: u32, id: Id) {
        let context = self.context_mut(id);
        let state = context.moves_as.take().unwrap();
        let sched = context.sched;
        let begun = sched.is_some_and(|sched| self.sched(sched).begun);
        let starts = state == State::New && begun;
        self.set_state(id, if starts { State::Ready } else { state });
        let n = match state {
            State::Waiting(n, _) => Some(n),
            _ if !self.is_thread(id) => self.vcpu(id).kick,
            _ => None,
        };
        if let Some(n) = n {
            self.arrive(cpu, n);
        }
    }

    /// Whether somebody is to be moved, or moves.
    pub fn is_migrating(&self) -> bool {
        self.cpus.iter().any(|cpu| !cpu.migrations.is_empty())
    }

    /// Whether `id` is on its way.
    pub(super) fn moves(&self, id: Id) -> bool {
        self.state(id) == State::Moving
    }
}
