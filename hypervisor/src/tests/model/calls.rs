//! The life of a call, and of what arrives as one: exceptions, and the exits of vCPUs.

use super::running::{Exit, State};
use super::{Id, Model};
use abi::cap::Kind;
use abi::utcb::exception::{ExceptionReply, GPRS};
use abi::utcb::{ITEM_WORDS, ITEMS};
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups};
use abi::{MAX_CALL_DEPTH, Rights, Status, Tag};

/// Words in the UTCB and capabilities of a message.
fn lengths(tag: Tag) -> Result<(usize, usize), Status> {
    let (words, items) = (tag.utcb_words(), tag.items());
    if items > ITEMS || words + items * ITEM_WORDS > abi::utcb::WORDS {
        return Err(Status::BadArgument);
    }
    Ok((words, items))
}

/// Calls.
impl Model {
    /// Begins a call; the handler, or `None` if it is busy and helped.
    pub(super) fn enter(&mut self, caller: Id, portal: Id) -> Result<Option<Id>, Status> {
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
    pub(super) fn waits_for(&self, id: Id, other: Id) -> bool {
        id == other
            || match self.state(id) {
                State::InCall(next) | State::Helping(next) => self.waits_for(next, other),
                _ => false,
            }
    }

    pub(super) fn call_portal(&mut self, id: Id) -> Result<(), Status> {
        let frame = &mut self.thread_mut(id).frame;
        let ((count, items), message) = (lengths(frame.tag())?, frame.message());
        let at = frame.arg(0);
        let portal = self.find(self.payer(id), at, Kind::Portal, Rights::CALL)?;
        let identity = self.portal(portal).identity;
        if items > 0 {
            // Whether it is entered is found out first: who is busy is not told anything.
            if let Some(handler) = self.clone().enter(id, portal)? {
                self.transfer(id, handler, items)?;
            }
        }
        match self.enter(id, portal)? {
            Some(handler) => {
                self.copy_words(id, handler, count);
                let frame = &mut self.thread_mut(handler).frame;
                frame.receive(identity, count, items);
                frame.set_message(&message);
            }
            None => self.thread_mut(id).frame.restart(),
        }
        Ok(())
    }

    pub(super) fn copy_words(&mut self, from: Id, to: Id, count: usize) {
        let words = self.thread(from).shared.clone();
        self.thread_mut(to).shared.copy(&words, count);
    }

    pub(super) fn reply_wait(&mut self, id: Id) -> Result<(), Status> {
        let frame = &mut self.thread_mut(id).frame;
        let ((count, items), message) = (lengths(frame.tag())?, frame.message());
        if items > 0 {
            let client = self.thread(id).caller;
            let takes = |&id: &Id| self.is_thread(id) && !self.thread(id).in_exception;
            let client = client.filter(takes).ok_or(Status::BadArgument)?;
            self.transfer(id, client, items)?;
        }
        let thread = self.thread_mut(id);
        (thread.context.state, thread.context.depth) = (State::Idle, 0);
        let client = thread.caller.take();
        if let Some(client) = client {
            self.answer_call(id, client, (count, items), &message);
        }
        let cpu = self.context(id).cpu;
        self.go_on(cpu);
        Ok(())
    }

    fn answer_call(
        &mut self,
        id: Id,
        client: Id,
        (count, items): (usize, usize),
        message: &[u64; 8],
    ) {
        self.set_state(client, State::Ready);
        if !self.is_thread(client) {
            self.resume(client, message[0]);
        } else if self.thread(client).in_exception {
            self.answer_exception(client, id, message);
        } else {
            self.copy_words(id, client, count);
            let frame = &mut self.thread_mut(client).frame;
            frame.set_message(message);
            frame.set_arg(0, 0);
            frame.scrub();
            frame.set_result_tag(Tag::result(Status::Success, count as u16).with_items(items));
        }
    }

    pub(super) fn answer_exception(&mut self, client: Id, handler: Id, message: &[u64; 8]) {
        let gprs = self.thread(handler).shared.words;
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
    pub(super) fn stop(&mut self, id: Id) {
        self.set_state(id, State::Stopped);
        if self.is_thread(id) {
            self.abandon(id);
        }
    }

    /// Who waits for the reply of `id` will not get it.
    pub(super) fn abandon(&mut self, id: Id) {
        let Some(client) = self.thread_mut(id).caller.take() else {
            return;
        };
        if self.is_thread(client) && !self.thread(client).in_exception {
            let frame = &mut self.thread_mut(client).frame;
            frame.scrub();
            frame.set_result(Status::Dead);
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
                thread.shared.words = from.gprs();
                thread.frame.receive(identity, GPRS, 0);
                let [vector, error, address] = exception;
                let (ip, sp, flags) = (from.ip(), from.sp(), from.flags());
                thread.frame.set_message(&[vector, error, address, ip, sp, flags, 0, 0]);
            }
        }
    }
}

/// vCPUs.
impl Model {
    /// An exit that vCPU `id` has to tell before it enters guest mode.
    pub(super) fn take_exit(&mut self, id: Id) -> Option<Exit> {
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
    pub(super) fn resume(&mut self, id: Id, groups: u64) {
        let groups = Groups::from_bits_truncate(groups);
        let kicked = self.vcpu(id).kick.is_some_and(|n| self.notification(n).word != 0);
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
