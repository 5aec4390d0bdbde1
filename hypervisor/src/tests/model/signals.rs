//! Notifications and interrupt lines.

use super::running::{Binding, Line, Notification, State};
use super::{Caller, Id, Model, Object, Place};
use abi::cap::Kind;
use abi::syscall::TriggerMode;
use abi::{Rights, Status};

impl Notification {
    pub(super) fn forget_waiter(&mut self) {
        self.waiter = None;
        self.through.clear();
    }
}

impl Model {
    /// The notification and the bits that the capability `at` may signal.
    pub(super) fn signal_target(&self, domain: Id, at: u64) -> Result<(Id, u64), Status> {
        let n = self.find(domain, at, Kind::Notification, Rights::SIGNAL)?;
        Ok((n, self.caps[&(domain, at as u32)].first))
    }

    pub(super) fn signal_by(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let (n, bits) = self.signal_target(by.domain, args[0])?;
        self.signal(by.cpu, n, bits);
        Ok(())
    }

    pub(super) fn signal(&mut self, cpu: u32, n: Id, bits: u64) {
        self.notification_mut(n).word |= bits;
        self.arrive(cpu, n);
    }

    /// Bits of `n` reach its waiter, or its waiter's CPU.
    pub(super) fn arrive(&mut self, cpu: u32, n: Id) {
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
    pub(super) fn wait(&mut self, id: Id, args: &[u64; 9]) -> Option<Result<(), Status>> {
        let (at, deadline) = (args[0], args[1]);
        let domain = self.payer(id);
        let found = self.find(domain, at, Kind::Notification, Rights::WAIT);
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
        notification.through = vec![(domain, at as u32)];
        self.set_state(id, State::Waiting(n, deadline));
        None
    }

    pub(super) fn end_wait(&mut self, id: Id, status: Status) {
        if let State::Waiting(n, _) = self.state(id) {
            self.notification_mut(n).forget_waiter();
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
        let notification = self.notification_mut(n);
        notification.waiter = Some(vcpu);
        notification.through = vec![(by.domain, args[0] as u32), (by.domain, args[1] as u32)];
        Ok(())
    }

    /// What capabilities `source` and `notification` of `domain` bind.
    pub(super) fn binding(
        &self,
        domain: Id,
        source: u64,
        notification: u64,
    ) -> Result<Binding, Status> {
        let (n, bits) = self.signal_target(domain, notification)?;
        Ok(Binding {
            notification: n,
            bits,
            through: [source, notification].map(|at| (domain, at as u32)),
        })
    }

    /// Whether anything is bound with the capability at `place`.
    pub(super) fn binds(&self, place: Place) -> bool {
        let with = |binding: &Option<Binding>| {
            let through = binding.as_ref().map(|binding| binding.through);
            through.is_some_and(|through| through.contains(&place))
        };
        self.objects.values().any(|(object, _)| match object {
            Object::Line(line) => with(&line.binding),
            Object::Sched(sched) => with(&sched.overrun),
            _ => false,
        })
    }

    /// The capability at `place` is gone: what was bound with it ends, and waits.
    pub(super) fn lose(&mut self, place: Place) {
        let mut waiters = Vec::new();
        for (object, _) in self.objects.values_mut() {
            let gone = |binding: &Binding| binding.through.contains(&place);
            match object {
                Object::Line(line) if line.binding.as_ref().is_some_and(gone) => {
                    *line = Line::new(line.number);
                }
                Object::Sched(sched) => drop(sched.overrun.take_if(|binding| gone(binding))),
                Object::Notification(n) if n.through.contains(&place) => waiters.extend(n.waiter),
                _ => {}
            }
        }
        for waiter in waiters {
            if self.is_thread(waiter) {
                self.end_wait(waiter, Status::Aborted);
            } else if let Some(n) = self.vcpu_mut(waiter).kick.take() {
                self.notification_mut(n).forget_waiter();
            }
        }
    }

    /// The capability at `from` is at `to` now.
    pub(super) fn moved(&mut self, from: Place, to: Place) {
        for (object, _) in self.objects.values_mut() {
            if let Object::Notification(n) = object {
                n.through.iter_mut().filter(|at| **at == from).for_each(|at| *at = to);
            }
        }
    }

    pub(super) fn interrupt_bind(&mut self, by: Caller, args: &[u64; 9]) -> Result<(), Status> {
        let id = self.find(by.domain, args[0], Kind::Interrupt, Rights::CONTROL)?;
        let binding = self.binding(by.domain, args[0], args[1])?;
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
            let binding = line.binding.clone().filter(|_| line.pending);
            self.signal_bound(by.cpu, binding);
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
        let binding = line.binding.clone().filter(|_| line.level || !before);
        self.signal_bound(cpu, binding);
    }

    fn signal_bound(&mut self, cpu: u32, binding: Option<Binding>) {
        if let Some(binding) = binding {
            self.signal(cpu, binding.notification, binding.bits);
        }
    }
}
