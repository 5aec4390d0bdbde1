//! Who runs, and for how long.
//!
//! Which of several equals goes next is not said here: [`Model::choose`] takes what the kernel chose and says whether
//! it may.

use super::running::{Binding, SLICE, Sched, State};
use super::{Caller, Id, Model, Object};
use abi::cap::Kind;
use abi::{Rights, Status};

/// What the end of a chain of calls does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Runs(Id),
    /// Helped a handler that can be called now, and tries again.
    Retries(Id),
    Blocked,
}

impl Model {
    pub(super) fn bind_sched(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let sched = self.find(by.domain, args[0], Kind::Sched, Rights::CONTROL)?;
        let id = self.controlled(by.domain, args[1])?;
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

    pub(super) fn begin(&mut self, sched: Id) {
        self.sched_mut(sched).begun = true;
        let home = self.sched(sched).home.unwrap();
        if self.state(home) == State::New {
            self.set_state(home, State::Ready);
        }
    }

    /// The CPU takes the interrupt that others have sent.
    pub fn take_posted(&mut self, cpu: u32) {
        self.begin_schedule(cpu);
        for sched in std::mem::take(&mut self.cpus[cpu as usize].starts) {
            self.begin(sched);
        }
        for n in std::mem::take(&mut self.cpus[cpu as usize].posted) {
            self.arrive(cpu, n);
        }
        let migrations = std::mem::take(&mut self.cpus[cpu as usize].migrations);
        for id in migrations.into_iter().rev() {
            self.serve_migration(cpu, id);
        }
    }

    /// The CPU's timer fires.
    pub fn take_timer(&mut self, cpu: u32) {
        let now = self.now;
        for id in self.contexts() {
            if self.context(id).cpu != cpu || self.moves(id) {
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
            if self.is_replenished(id) {
                let sched = self.sched_mut(id);
                (sched.until, sched.left, sched.told) = (None, sched.budget, false);
            }
        }
        let cpu = &mut self.cpus[cpu as usize];
        cpu.cyclic.advance(now);
        cpu.over |= cpu.running.is_some() && cpu.slice_end <= now;
    }

    /// Whether the end of the period has come of a scheduling context whose budget was spent.
    fn is_replenished(&self, id: Id) -> bool {
        let sched = self.sched(id);
        let moves = sched.home.is_some_and(|home| self.moves(home));
        !moves && sched.until.is_some_and(|until| until <= self.now)
    }

    /// Whether something is due on a CPU that its timer should have said.
    pub fn is_due(&self, cpu: u32) -> bool {
        let late = |id: &Id| match (&self.objects[id].0, self.context(*id).state) {
            (_, State::Waiting(_, deadline)) => deadline <= self.now,
            (Object::Vcpu(vcpu), state) => state != State::Moving && vcpu.deadline <= self.now,
            _ => false,
        };
        let spent = |id: &Id| self.is_replenished(*id);
        let mut contexts = self.contexts().into_iter();
        let running = &self.cpus[cpu as usize];
        contexts.any(|id| self.context(id).cpu == cpu && late(&id))
            || self.scheds(cpu).iter().any(spent)
            || running.cyclic.is_due(self.now)
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
                    let context = &mut thread.context;
                    for state in [Some(&mut context.state), context.moves_as.as_mut()] {
                        if let Some(State::Waiting(_, deadline)) = state {
                            count(deadline);
                        }
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
            cpu.cyclic.since(now);
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

    /// Whoever helped somebody with the time that `cpu` runs on tries its call again, if that can be called now.
    pub(super) fn go_on(&mut self, cpu: u32) {
        let running = self.cpus[cpu as usize].running;
        let home = running.and_then(|sched| self.sched(sched).home);
        if let Some(End::Retries(context)) = home.map(|home| self.follow(home)) {
            self.set_state(context, State::Ready);
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
    pub(super) fn is_eligible(&self, id: Id) -> bool {
        let sched = self.sched(id);
        let home = sched.home.filter(|_| sched.begun && sched.until.is_none());
        home.is_some_and(|home| self.follow(home) != End::Blocked)
    }

    /// Whether it is eligible, and its partition's turn.
    fn may_run(&self, id: Id) -> bool {
        let sched = self.sched(id);
        let cyclic = &self.cpus[sched.cpu as usize].cyclic;
        self.is_eligible(id) && cyclic.is_open(self.now, sched.partition)
    }

    /// Whether it must be considered: a handler's own time may sleep while the handler serves others on theirs.
    pub(super) fn must_compete(&self, id: Id) -> bool {
        self.context(self.sched(id).home.unwrap()).depth == 0
    }

    pub(super) fn bind_overrun(&mut self, caller: Id, args: &[u64; 9]) -> Result<(), Status> {
        let id = self.find(caller, args[0], Kind::Sched, Rights::CONTROL)?;
        let event = self.binding(caller, args[0], args[1])?;
        let sched = self.sched_mut(id);
        if sched.overrun.is_some() {
            return Err(Status::Busy);
        }
        sched.overrun = Some(event);
        Ok(())
    }

    /// Whether the budget of `id` is spent, and whoever would run on it would go on.
    pub fn overruns(&self, id: Id) -> bool {
        let sched = self.sched(id);
        let home = sched.home.filter(|_| sched.begun && sched.until.is_some());
        home.is_some_and(|home| self.follow(home) != End::Blocked)
    }

    /// The overrun of `id` is told, by an interrupt of whoever waits for that.
    pub fn tell_overrun(&mut self, id: Id) {
        let sched = self.sched_mut(id);
        if std::mem::replace(&mut sched.told, true) {
            return;
        }
        // Who helped somebody who can be called now does not help any more.
        let home = sched.home;
        if let Some(End::Retries(context)) = home.map(|home| self.follow(home)) {
            self.set_state(context, State::Ready);
        }
        let sched = self.sched(id);
        if let Some(Binding { notification: n, bits, .. }) = sched.overrun {
            let notification = self.notification_mut(n);
            notification.word |= bits;
            if let Some(waiter) = notification.waiter {
                let cpu = self.context(waiter).cpu;
                self.cpus[cpu as usize].posted.insert(n);
            }
        }
    }

    /// A scheduling context of `cpu` whose overrun should have been told by now.
    pub fn untold(&self, cpu: u32) -> Option<Id> {
        let untold = |&id: &Id| !self.sched(id).told && self.overruns(id) && self.must_compete(id);
        self.scheds(cpu).into_iter().find(untold)
    }

    /// Scheduling contexts.
    pub fn all_scheds(&self) -> impl Iterator<Item = (Id, &Sched)> {
        self.objects.iter().filter_map(|(&id, (object, _))| match object {
            Object::Sched(sched) => Some((id, sched)),
            _ => None,
        })
    }

    /// Charges `id`, which ran on `cpu`.
    pub(super) fn leave(&mut self, id: Id, cpu: usize) {
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
        let compete = |model: &Model, id: &Id| model.may_run(*id) && model.must_compete(*id);
        let others = scheds.iter().filter(|&&id| Some(id) != chosen);
        let mut others = others.filter(|id| compete(self, id));
        let Some(id) = chosen else {
            return match others.next() {
                Some(id) => Err(format!("CPU {cpu} is idle, and {id} is ready")),
                None => Ok(None),
            };
        };
        if !self.may_run(id) {
            return Err(format!("CPU {cpu} runs {id}, which is not ready, or not in its window"));
        }
        let priority = self.sched(id).priority;
        for &other in others {
            let other_priority = self.sched(other).priority;
            if other_priority > priority {
                return Err(format!("CPU {cpu} runs {id}, and {other} comes first"));
            }
            // In another partition somebody else's turn may have come since.
            let is_beside = self.sched(other).partition == self.sched(id).partition;
            if other_priority == priority
                && is_beside
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
