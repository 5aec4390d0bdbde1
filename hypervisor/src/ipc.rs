//! Synchronous calls: the general path, which defines the meaning of the architecture's fast one.
//!
//! The fast path (`arch::*::fastpath`) takes a call or reply without words in the UTCB between idle handlers of one
//! CPU, and leaves everything else to this one.

use crate::arch::Frame;
use crate::cell::Ref;
use crate::context::{Context, ReplyPath, State};
use crate::cpu::Cpu;
use crate::delegate;
use crate::log;
use crate::portal::Portal;
use crate::sched::{self, Activation};
use crate::space::Progress;
use crate::thread::{Exception, Thread};
use crate::vcpu::{self, Vcpu};
use abi::argument::{Cap, right::CALL};
use abi::syscall::Tag;
use abi::text::{Dec, Hex, Text};
use abi::utcb::{ITEMS, Item, WORDS, exception::ExceptionReply};
use abi::{MAX_CALL_DEPTH, Rights, Status, kind};

/// Why a call did not enter the handler.
pub enum Refusal {
    /// It never will; the cause.
    Status(Status),
    /// The handler is busy: the caller now helps it and tries again later.
    Busy,
}

/// Starts a call of `caller`, the current context, to a portal that `handler` handles: on success that is the current
/// context then, and the message is still to be written to its registers.
#[inline(always)]
pub fn enter(
    cpu: &Cpu,
    caller: Ref<Context>,
    handler: Option<Ref<Thread>>,
) -> Result<Ref<Thread>, Refusal> {
    let handler = handler.ok_or(Refusal::Status(Status::Dead))?;
    if !can_enter(cpu, caller, handler) {
        return Err(cannot_enter(cpu, caller, handler));
    }
    handler.context.depth.set(caller.depth.get() + 1);
    handler.context.reply_path.set(ReplyPath::General);
    handler.caller.set(Some(caller));
    handler.context.state.set(State::Ready);
    caller.callee.set(Some(handler));
    caller.state.set(State::InCall);
    cpu.current.set(Some(handler.context()));
    Ok(handler)
}

/// Whether `caller` can call `handler` now.
#[inline(always)]
fn can_enter(cpu: &Cpu, caller: Ref<Context>, handler: Ref<Thread>) -> bool {
    // First the CPU: the state on another one is not that with which it comes here.
    handler.context.cpu() == cpu.index
        && matches!(handler.context.state.get(), State::Idle | State::New)
        && (caller.depth.get() as usize) < MAX_CALL_DEPTH
}

/// Words in the UTCB and capabilities of the message that `tag` describes.
fn lengths(tag: Tag) -> Result<(usize, usize), Status> {
    let (words, items) = (tag.utcb_words(), tag.items());
    if items > ITEMS || words > Item::words_beside(items) {
        return Err(Status::BadArgument);
    }
    Ok((words, items))
}

/// Why `caller` cannot call `handler` now; if that is busy, `caller` helps it.
#[cold]
fn cannot_enter(cpu: &Cpu, caller: Ref<Context>, handler: Ref<Thread>) -> Refusal {
    if handler.context.cpu() != cpu.index {
        return Refusal::Status(Status::WrongCpu);
    }
    if caller.depth.get() as usize >= MAX_CALL_DEPTH {
        return Refusal::Status(Status::Depth);
    }
    match handler.context.state.get() {
        State::Stopped => Refusal::Status(Status::Dead),
        _ if waits_for(handler.context(), caller) => Refusal::Status(Status::Deadlock),
        _ => {
            handler.context.reply_path.set(ReplyPath::General);
            caller.start_helping(handler);
            run_chain(cpu);
            Refusal::Busy
        }
    }
}

/// Whether the chain of calls from `from` leads to `to`.
fn waits_for(from: Ref<Context>, to: Ref<Context>) -> bool {
    let mut context = from;
    for _ in 0..=sched::LONGEST_CHAIN {
        if context == to {
            return true;
        }
        match (context.state.get(), context.callee.get()) {
            (State::InCall | State::Helping, Some(callee)) => context = callee.context(),
            _ => return false,
        }
    }
    true
}

/// Goes on with whatever the current scheduling context leads to now.
fn run_chain(cpu: &Cpu) {
    let home = cpu.sched.get().and_then(|sched| sched.home.get());
    match home.map(sched::activation) {
        Some(Activation::Run(context)) => cpu.current.set(Some(context)),
        _ => cpu.reschedule.set(true),
    }
}

/// System call [`abi::Op::Call`].
pub fn call(cpu: &Cpu, thread: Ref<Thread>, portal: Cap<kind::Portal, CALL>) -> Result<(), Status> {
    let (words, items) = lengths(thread.with_frame(|frame| frame.tag()))?;
    let portal = thread.domain.object_of_hot_path(portal)?;
    // Once: the portal may end on another CPU, and capabilities must not arrive without their message.
    let handler = portal.handler();
    if items > 0
        && let Some(handler) = handler
        && can_enter(cpu, thread.context(), handler)
        && delegate::transfer(thread, handler, items)? == Progress::Again
    {
        thread.with_frame(Frame::restart);
        return Ok(());
    }
    match enter(cpu, thread.context(), handler) {
        Ok(handler) => {
            handler.context.reply_path.set(ReplyPath::Thread);
            let message = thread.with_frame(|frame| frame.message());
            copy_words(thread, handler, words);
            handler.with_frame(|frame| {
                frame.receive(portal.identity, words, items);
                frame.set_message(&message);
            });
            Ok(())
        }
        Err(Refusal::Busy) => {
            thread.with_frame(Frame::restart);
            Ok(())
        }
        Err(Refusal::Status(status)) => Err(status),
    }
}

/// System call [`abi::Op::ReplyWait`].
pub fn reply_wait(cpu: &Cpu, thread: Ref<Thread>) -> Result<(), Status> {
    let (words, items) = lengths(thread.with_frame(|frame| frame.tag()))?;
    if items > 0 {
        let client = thread.caller.get().and_then(|caller| caller.as_thread());
        let client = client.filter(|client| !client.in_exception.get());
        let client = client.ok_or(Status::BadArgument)?;
        if delegate::transfer(thread, client, items)? == Progress::Again {
            thread.with_frame(Frame::restart);
            return Ok(());
        }
    }
    thread.context.state.set(State::Idle);
    thread.context.depth.set(0);
    thread.context.reply_path.set(ReplyPath::Thread);
    if let Some(caller) = thread.caller.take() {
        caller.callee.set(None);
        caller.state.set(State::Ready);
        if let Some(client) = caller.as_thread() {
            if client.in_exception.get() {
                exception_reply(cpu, client, thread);
            } else {
                let message = thread.with_frame(|frame| frame.message());
                copy_words(thread, client, words);
                client.with_frame(|frame| {
                    frame.set_message(&message);
                    frame.set_arg(0, 0);
                    frame.scrub();
                    frame.set_result_tag(
                        Tag::result(Status::Success, words as u16).with_items(items),
                    );
                });
            }
        } else if let Some(client) = caller.as_vcpu() {
            let groups = thread.with_frame(|frame| frame.arg(1));
            vcpu::resume(cpu, client, groups);
        }
    }
    // Those who helped try their calls again.
    thread.context.release_other_waiters(cpu, thread.context.sched.get());
    run_chain(cpu);
    Ok(())
}

/// As [`reply_wait`], for a handler whose reply path is [`ReplyPath::Vcpu`]; the vCPU, if it is to run next, unless the
/// scheduler is to be asked.
#[inline]
pub fn reply_to_vcpu(cpu: &Cpu, handler: Ref<Thread>, groups: u64) -> Option<Ref<Vcpu>> {
    handler.context.state.set(State::Idle);
    handler.context.depth.set(0);
    handler.context.reply_path.set(ReplyPath::Thread);
    let Some(vcpu) = handler.caller.take().and_then(|caller| caller.as_vcpu()) else {
        run_chain(cpu);
        return None;
    };
    vcpu.context.callee.set(None);
    vcpu::resume(cpu, vcpu, groups);
    if vcpu.context.state.get() == State::Ready {
        cpu.current.set(Some(vcpu.context()));
        return Some(vcpu);
    }
    cpu.reschedule.set(true);
    None
}

/// The handler `thread` ends: whoever waits for its reply gets a status, or, if it was told an exception or exit,
/// never runs again.
pub fn abandon(cpu: &Cpu, thread: Ref<Thread>) {
    let mut link = Some(thread);
    // Calls nest at most so deep.
    for _ in 0..=MAX_CALL_DEPTH {
        let Some(caller) = link.take().and_then(|thread| thread.caller.take()) else {
            return;
        };
        caller.callee.set(None);
        match caller.as_thread() {
            Some(client) if client.in_exception.get() => {
                client.in_exception.set(false);
                link = Some(client);
                client.context.state.set(State::Stopped);
                client.context.release_waiters(cpu);
            }
            Some(client) => {
                client.with_frame(|frame| {
                    // A call on the fast path has not done it.
                    frame.scrub();
                    frame.set_result(Status::Dead);
                });
                client.context.wake(cpu);
            }
            None => {
                log::warning!("vCPU stopped: its handler ended");
                if let Some(client) = caller.as_vcpu() {
                    vcpu::stop(cpu, client);
                }
            }
        }
    }
}

/// `thread` never runs again.
fn stop(cpu: &Cpu, thread: Ref<Thread>) {
    thread.context.state.set(State::Stopped);
    thread.context.release_waiters(cpu);
    abandon(cpu, thread);
    cpu.reschedule.set(true);
}

/// Copies `count` message words from one UTCB to the other, each read once.
fn copy_words(from: Ref<Thread>, to: Ref<Thread>, count: usize) {
    let head = (abi::PAGE_SIZE / 8) - WORDS;
    to.utcb.copy(from.utcb, head, count);
}

/// Tells the exception of `thread`, the current context, to its handler.
pub fn raise(cpu: &Cpu, thread: Ref<Thread>, exception: Exception) {
    let portal = thread.domain.find::<Portal>(thread.exception_portal, Rights::CALL);
    match portal
        .map_err(Refusal::Status)
        .and_then(|p| enter(cpu, thread.context(), p.handler()).map(|handler| (handler, p)))
    {
        Ok((handler, portal)) => {
            thread.in_exception.set(true);
            let (gprs, ip, sp, flags) =
                thread.with_frame(|f| (f.gprs(), f.ip(), f.sp(), f.flags()));
            let head = (abi::PAGE_SIZE / 8) - WORDS;
            for (i, &value) in gprs.iter().enumerate() {
                handler.utcb.write(head + i, value);
            }
            handler.with_frame(|frame| {
                frame.receive(portal.identity, gprs.len(), 0);
                let Exception { vector, error, address } = exception;
                frame.set_message(&[vector, error, address, ip, sp, flags, 0, 0]);
            });
        }
        Err(Refusal::Busy) => thread.pending.set(Some(exception)),
        Err(Refusal::Status(status)) => {
            log::warning!(
                "thread stopped: exception {} at {} has no handler: {}",
                Dec(exception.vector),
                Hex(thread.with_frame(|f| f.ip())),
                Text(status.name())
            );
            stop(cpu, thread);
        }
    }
}

fn exception_reply(cpu: &Cpu, client: Ref<Thread>, handler: Ref<Thread>) {
    let message = handler.with_frame(|frame| frame.message());
    let action = ExceptionReply::from_bits_truncate(message[0]);
    client.in_exception.set(false);
    if !action.contains(ExceptionReply::RESUME) {
        return stop(cpu, client);
    }
    let head = (abi::PAGE_SIZE / 8) - WORDS;
    // Whether what it goes on with can be another system call than the one that is not finished.
    let mut anew = false;
    client.with_frame(|frame| {
        if action.contains(ExceptionReply::SET_GPRS) {
            let mut gprs = frame.gprs();
            for (i, value) in gprs.iter_mut().enumerate() {
                let new = handler.utcb.read(head + i);
                anew |= *value != new;
                *value = new;
            }
            frame.set_gprs(&gprs);
        }
        if action.contains(ExceptionReply::SET_FRAME) {
            anew |= message[3] != frame.ip();
            frame.set_user(message[3], message[4], message[5]);
        }
    });
    if anew {
        client.sync.set(None);
    }
}
