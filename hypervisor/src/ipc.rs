//! Synchronous calls: the general path, which defines the meaning of the architecture's fast one.
//!
//! The fast path (`arch::*::fastpath`) takes a call or reply without words in the UTCB between idle handlers of one
//! CPU, and leaves everything else to this one.

use crate::cell::Ref;
use crate::context::{Context, ReplyPath, State};
use crate::cpu::Cpu;
use crate::delegate;
use crate::domain::Domain;
use crate::log;
use crate::portal::Portal;
use crate::sched::{self, Activation};
use crate::space::Progress;
use crate::syscall::Otherwise;
use crate::thread::{Exception, MESSAGE, Thread};
use crate::vcpu::{self, Vcpu};
use abi::argument::{Cap, right::CALL};
use abi::syscall::Tag;
use abi::text::{Dec, Hex, Text};
use abi::utcb::{ITEMS, Item, exception::ExceptionReply};
use abi::{MAX_CALL_DEPTH, Rights, Selector, Status, kind};

/// What a call has entered. `None`: the handler is busy; the caller now helps it and tries again later.
type Entered<T> = Result<Option<T>, Status>;

/// Starts a call of `caller`, the current context, to a portal that `handler` handles, which is returned: it is the current
/// context then, and the message is still to be written to its registers.
#[inline(always)]
fn enter(cpu: &Cpu, caller: Ref<Context>, handler: Option<Ref<Thread>>) -> Entered<Ref<Thread>> {
    let handler = handler.ok_or(Status::Dead)?;
    if !can_enter(cpu, caller, handler) {
        return help(cpu, caller, handler).map(|()| None);
    }
    handler.context.depth.set(caller.depth.get() + 1);
    handler.context.reply_path.set(ReplyPath::General);
    handler.caller.set(Some(caller));
    handler.context.state.set(State::Ready);
    caller.callee.set(Some(handler));
    caller.state.set(State::InCall);
    cpu.current.set(Some(handler.context()));
    Ok(Some(handler))
}

/// The same, with the portal that `selector` names in `domain`, which is returned too.
#[inline(always)]
pub fn enter_portal(
    cpu: &Cpu,
    caller: Ref<Context>,
    domain: &Domain,
    selector: Selector,
) -> Entered<(Ref<Portal>, Ref<Thread>)> {
    let portal = domain.find::<Portal>(selector, Rights::CALL)?;
    Ok(enter(cpu, caller, portal.handler())?.map(|handler| (portal, handler)))
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

/// Has `caller`, which cannot call `handler` now, help it, if that is because it is busy.
#[cold]
fn help(cpu: &Cpu, caller: Ref<Context>, handler: Ref<Thread>) -> Result<(), Status> {
    if handler.context.cpu() != cpu.index {
        return Err(Status::WrongCpu);
    }
    if caller.depth.get() as usize >= MAX_CALL_DEPTH {
        return Err(Status::Depth);
    }
    if handler.context.state.get() == State::Stopped {
        return Err(Status::Dead);
    }
    if waits_for(handler.context(), caller) {
        return Err(Status::Deadlock);
    }
    handler.context.reply_path.set(ReplyPath::General);
    caller.start_helping(handler);
    run_chain(cpu);
    Ok(())
}

/// Whether the chain of calls from `from` leads to `to`, or so far that nobody looks.
fn waits_for(from: Ref<Context>, to: Ref<Context>) -> bool {
    from.chain().zip(0..).any(|(context, links)| context == to || links > sched::LONGEST_CHAIN)
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
pub fn call(
    cpu: &Cpu,
    thread: Ref<Thread>,
    portal: Cap<kind::Portal, CALL>,
) -> Result<(), Otherwise> {
    let (words, items) = lengths(thread.with_frame(|frame| frame.tag()))?;
    let portal = thread.domain.object_of_hot_path(portal)?;
    // Once: the portal may end on another CPU, and capabilities must not arrive without their message.
    let handler = portal.handler();
    if items > 0
        && let Some(handler) = handler
        && can_enter(cpu, thread.context(), handler)
        && delegate::transfer(thread, handler, items)? == Progress::Again
    {
        return Err(Otherwise::Restart);
    }
    let handler = enter(cpu, thread.context(), handler)?.ok_or(Otherwise::Restart)?;
    handler.context.reply_path.set(ReplyPath::Thread);
    let message = thread.with_frame(|frame| frame.message());
    copy_words(thread, handler, words);
    handler.with_frame(|frame| {
        frame.receive(portal.identity, words, items);
        frame.set_message(&message);
    });
    Err(Otherwise::Written)
}

/// `handler` is idle from now on; whom it served, who does not go on yet.
#[inline(always)]
fn become_idle(handler: Ref<Thread>) -> Option<Ref<Context>> {
    handler.context.state.set(State::Idle);
    handler.context.depth.set(0);
    handler.context.reply_path.set(ReplyPath::Thread);
    handler.caller.take().inspect(|caller| caller.callee.set(None))
}

/// System call [`abi::Op::ReplyWait`].
pub fn reply_wait(cpu: &Cpu, thread: Ref<Thread>) -> Result<(), Otherwise> {
    let (words, items) = lengths(thread.with_frame(|frame| frame.tag()))?;
    if items > 0 {
        let client = thread.caller.get().and_then(|caller| caller.as_thread());
        let client = client.filter(|client| !client.in_exception.get());
        let client = client.ok_or(Status::BadArgument)?;
        if delegate::transfer(thread, client, items)? == Progress::Again {
            return Err(Otherwise::Restart);
        }
    }
    let caller = become_idle(thread);
    if let Some(client) = caller.and_then(|caller| caller.as_thread()) {
        client.context.state.set(State::Ready);
        if client.in_exception.get() {
            exception_reply(cpu, client, thread);
        } else {
            let message = thread.with_frame(|frame| frame.message());
            copy_words(thread, client, words);
            client.with_frame(|frame| {
                frame.set_message(&message);
                frame.set_arg(0, 0);
                frame.scrub();
                frame.set_result_tag(Tag::result(Status::Success, words as u16).with_items(items));
            });
        }
    } else if let Some(client) = caller.and_then(|caller| caller.as_vcpu()) {
        let groups = thread.with_frame(|frame| frame.arg(1));
        vcpu::resume(cpu, client, groups);
    }
    // Those who helped try their calls again.
    thread.context.release_other_waiters(cpu);
    run_chain(cpu);
    Err(Otherwise::Written)
}

/// As [`reply_wait`], for a handler whose reply path is [`ReplyPath::Vcpu`]; the vCPU, if it is to run next, unless the
/// scheduler is to be asked.
#[inline]
pub fn reply_to_vcpu(cpu: &Cpu, handler: Ref<Thread>, groups: u64) -> Option<Ref<Vcpu>> {
    let Some(vcpu) = become_idle(handler).and_then(|caller| caller.as_vcpu()) else {
        run_chain(cpu);
        return None;
    };
    vcpu::resume(cpu, vcpu, groups);
    if vcpu.context.state.get() == State::Ready {
        cpu.current.set(Some(vcpu.context()));
        return Some(vcpu);
    }
    cpu.reschedule.set(true);
    None
}

/// `thread` never runs again. Whoever waits for its reply gets a status, or, if it was told an exception or exit, never
/// runs again either.
pub fn stop(cpu: &Cpu, thread: Ref<Thread>) {
    let mut link = Some(thread);
    // Calls nest at most so deep.
    for _ in 0..=MAX_CALL_DEPTH {
        let Some(thread) = link.take() else { return };
        thread.context.stop(cpu);
        let Some(caller) = thread.caller.take() else { return };
        caller.callee.set(None);
        match caller.as_thread() {
            Some(client) if client.in_exception.replace(false) => link = Some(client),
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
                caller.stop(cpu);
            }
        }
    }
}

/// Copies `count` message words from one UTCB to the other, each read once.
fn copy_words(from: Ref<Thread>, to: Ref<Thread>, count: usize) {
    to.utcb.copy(from.utcb, MESSAGE, count);
}

/// Tells the exception of `thread`, the current context, to its handler.
pub fn raise(cpu: &Cpu, thread: Ref<Thread>, exception: Exception) {
    match enter_portal(cpu, thread.context(), &thread.domain, thread.exception_portal) {
        Ok(Some((portal, handler))) => {
            thread.in_exception.set(true);
            let (gprs, ip, sp, flags) =
                thread.with_frame(|f| (f.gprs(), f.ip(), f.sp(), f.flags()));
            for (i, &value) in gprs.iter().enumerate() {
                handler.utcb.write(MESSAGE + i, value);
            }
            handler.with_frame(|frame| {
                frame.receive(portal.identity, gprs.len(), 0);
                let Exception { vector, error, address } = exception;
                frame.set_message(&[vector, error, address, ip, sp, flags, 0, 0]);
            });
        }
        Ok(None) => thread.pending.set(Some(exception)),
        Err(status) => {
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
    // Whether what it goes on with can be another system call than the one that is not finished.
    let mut anew = false;
    client.with_frame(|frame| {
        if action.contains(ExceptionReply::SET_GPRS) {
            let mut gprs = frame.gprs();
            for (i, value) in gprs.iter_mut().enumerate() {
                let new = handler.utcb.read(MESSAGE + i);
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
