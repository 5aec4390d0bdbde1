//! Decoding of system calls.

use crate::arch::{self, Frame};
use crate::binding;
use crate::cell::Ref;
use crate::context::State;
use crate::cpu::Cpu;
use crate::create;
use crate::domain::Domain;
use crate::doorbell;
use crate::epoch::Round;
use crate::interrupt;
use crate::latency::{self, Path};
use crate::logring;
use crate::lookup::Held;
use crate::notification;
use crate::slot::{self, Slot, Tree};
use crate::space::{self, Progress};
use crate::thread::{Exception, Sync, Thread};
use crate::{delegate, destroy, epoch, ipc, migrate, time};
use abi::argument::right::CREATE;
use abi::argument::{Cap, LogBytes, Words};
use abi::operation::{Operation, are_narrow};
use abi::utcb::exception;
use abi::{LOG_CHUNK, Op, Selector, Status, call, kind};

/// How a system call ends that does not put success into the caller's registers.
pub enum Otherwise {
    /// It has failed.
    Fail(Status),
    /// It has to go on: the instruction is executed again.
    Restart,
    /// The operation has written the registers itself, or the caller does not go on now.
    Written,
}

impl From<Status> for Otherwise {
    fn from(status: Status) -> Otherwise {
        Otherwise::Fail(status)
    }
}

/// Carries out the system call in the registers of `thread`, the current context, or has it told to who carries out the
/// calls of that thread. `syndrome` is what the processor says of it, or 0.
pub fn dispatch(cpu: &Cpu, thread: Ref<Thread>, syndrome: u64) {
    if thread.foreign {
        let call = Exception { vector: exception::SYSTEM_CALL, error: syndrome, address: 0 };
        return ipc::raise(cpu, thread, call);
    }
    let tag = thread.with_frame(|frame| frame.tag());
    latency::is(Path::SystemCall(tag.op()));
    let op = Op::from_code(tag.op());
    let result = match op {
        None => Err(Status::BadOperation.into()),
        Some(_) if tag.has_reserved() => Err(Status::BadArgument.into()),
        Some(op) => execute(cpu, thread, op),
    };
    match result {
        Ok(()) => thread.with_frame(|frame| frame.set_result(Status::Success)),
        Err(Otherwise::Written) => {}
        Err(Otherwise::Restart) => thread.with_frame(Frame::restart),
        Err(Otherwise::Fail(status)) => thread.with_frame(|frame| fail(frame, op, status)),
    }
}

/// `op`, if it is a known one, has failed with `status`.
#[cold]
fn fail(frame: &mut Frame, op: Option<Op>, status: Status) {
    // Who calls or replies gets back only what those preserve, even if they fail.
    if matches!(op, Some(Op::Call | Op::ReplyWait)) {
        frame.scrub();
    }
    frame.set_result(status);
    // Only operations that are known charge anybody.
    if let (Status::Quota, Some(op)) = (status, op) {
        frame.set_arg(1, op.payer());
    }
}

fn execute(cpu: &Cpu, thread: Ref<Thread>, op: Op) -> Result<(), Otherwise> {
    let domain = &*thread.domain;
    let locked: fn(&Caller) -> Result<(), Status> = match op {
        Op::Call => return ipc::call(cpu, thread, arguments::<call::Call>(thread)?.portal),
        Op::ReplyWait => return ipc::reply_wait(cpu, thread),
        Op::Signal => return Ok(signal(cpu, thread)?),
        Op::Wait => return wait(cpu, thread),
        Op::Yield => {
            cpu.yielded.set(true);
            cpu.reschedule.set(true);
            return Ok(());
        }
        Op::InterruptAck => return Ok(interrupt_ack(cpu, thread)?),
        Op::LogWrite => return Ok(log_write(thread)?),
        Op::LogRead => return Ok(log_read(thread)?),
        Op::Power => return Ok(power(thread)?),
        Op::Revoke | Op::Delete => return revoke(cpu, thread, op),
        Op::Map => return map(thread),
        Op::Migrate => return migrate(thread),
        Op::CreateDomain => |caller| create::create(caller, create::domain),
        Op::CreateSpace => |caller| create::create(caller, create::space),
        Op::CreateThread => |caller| create::create(caller, create::thread),
        Op::CreateVcpu => |caller| create::create(caller, create::vcpu),
        Op::CreateSched => |caller| create::create(caller, time::sched),
        Op::CreatePortal => |caller| create::create(caller, create::portal),
        Op::CreateNotification => |caller| create::create(caller, create::notification),
        Op::Delegate => delegate::delegate,
        Op::BindSched => time::bind_sched,
        Op::BindOverrun => time::bind_overrun,
        Op::SetSchedule => time::set_schedule,
        Op::BindKick => create::bind_kick,
        Op::InterruptBind => interrupt_bind,
        Op::QuotaQuery => quota_query,
        Op::LogBind => log_bind,
        Op::QuotaGive => quota_give,
        Op::QuotaTake => quota_take,
        Op::BindDoorbell => doorbell::bind,
    };
    // While another CPU changes the tree, this one waits in user mode.
    let tree = slot::try_lock().ok_or(Otherwise::Restart)?;
    let words = thread.with_frame(|frame| frame.args());
    if !are_narrow(&words, op.narrow()) {
        return Err(Status::BadArgument.into());
    }
    Ok(locked(&Caller { cpu, tree: &tree, thread, domain, words: &words })?)
}

/// Who calls, with the tree of derivations locked: the operation changes it, or binds to what is in it.
pub struct Caller<'a> {
    /// The CPU.
    pub cpu: &'a Cpu,
    /// Proof of the lock.
    pub tree: &'a Tree,
    /// The current thread.
    pub thread: Ref<Thread>,
    /// Its domain.
    pub domain: &'a Domain,
    /// Its arguments; those that are to be narrow are.
    words: &'a Words,
}

impl Caller<'_> {
    /// The arguments.
    #[inline(always)]
    pub fn arguments<T: Operation>(&self) -> Result<T, Status> {
        T::load(self.words).ok_or(Status::BadArgument)
    }
}

/// The arguments of an operation, in the registers of who calls: each operation reads those that it has.
#[inline(always)]
fn arguments<T: Operation>(thread: Ref<Thread>) -> Result<T, Status> {
    thread.with_frame(|frame| {
        debug_assert_eq!(Op::from_code(frame.tag().op()), Some(T::OP));
        T::decode(&frame.args()).ok_or(Status::BadArgument)
    })
}

#[inline(always)]
fn signal(cpu: &Cpu, thread: Ref<Thread>) -> Result<(), Status> {
    let call: call::Signal = arguments(thread)?;
    let (notification, bits) = thread.domain.signal_target(call.notification)?;
    notification::signal(cpu, notification, bits);
    Ok(())
}

#[inline(always)]
fn wait(cpu: &Cpu, thread: Ref<Thread>) -> Result<(), Otherwise> {
    let call: call::Wait = arguments(thread)?;
    let Held { slot, word, object: notification } = thread.domain.held(call.notification)?;
    let deadline = call.deadline;
    let waits = deadline != 0 && !notification.is_set();
    if waits {
        notification.attach(thread.context(), [slot.link(), 0])?;
        // Whoever takes the capability back looks for who waits through it afterwards.
        if !slot.still_holds(word) {
            notification.detach(thread.context());
            return Err(Status::BadCapability.into());
        }
    }
    // Attached first, looked at second: a signal from another CPU is seen on one side or the other.
    let bits = notification.take();
    if bits != 0 {
        if waits {
            notification.detach(thread.context());
        }
        thread.return_values(&call::Waited { bits });
        return Ok(());
    }
    if deadline == 0 {
        return Err(Status::Timeout.into());
    }
    if notification.waiter() != Some(thread.context()) {
        // Bits were seen and then taken by somebody else: try again.
        return Err(Otherwise::Restart);
    }
    thread.context.notification.set(Some(notification));
    thread.context.state.set(State::Waiting);
    if deadline != u64::MAX {
        cpu.timeouts.arm(&thread.context.timeout, deadline);
    }
    cpu.reschedule.set(true);
    Err(Otherwise::Written)
}

/// The epoch whose end `thread` waits for since an earlier run of this system call.
fn synchronised(thread: Ref<Thread>, op: Op, selector: Selector) -> Option<Round> {
    let sync = thread.sync.get()?;
    (sync.op == op && sync.selector == selector).then_some(sync.round)
}

/// This system call waits for the end of `round`, from its next run on.
fn synchronise(thread: Ref<Thread>, op: Op, selector: Selector, round: Round) {
    thread.sync.set(Some(Sync { op, selector, round }));
}

/// Revocation and destruction return only when no CPU can use what was taken back.
fn revoke(cpu: &Cpu, thread: Ref<Thread>, op: Op) -> Result<(), Otherwise> {
    // Those of both are the same.
    let selector = match op {
        Op::Revoke => arguments::<call::Revoke>(thread)?.capability.selector(),
        _ => arguments::<call::Delete>(thread)?.capability.selector(),
    };
    let Some(round) = synchronised(thread, op, selector) else {
        // Not only capabilities: also those that are gone, but not what was derived from them.
        let slot = thread.domain.slot(selector).filter(|slot| !slot.is_free());
        let slot = slot.ok_or(Status::BadCapability)?;
        let tree = slot::try_lock().ok_or(Otherwise::Restart)?;
        if destroy::revoke(cpu, &tree, slot, op == Op::Delete)? == Progress::Done {
            synchronise(thread, op, selector, epoch::begin());
        }
        return Err(Otherwise::Restart);
    };
    latency::is(Path::Reclaim);
    if !epoch::is_over(round) || destroy::reclaim() == Progress::Again {
        return Err(Otherwise::Restart);
    }
    thread.sync.set(None);
    Ok(())
}

/// The CPU that holds the context lets go of it, and the other one takes it up, while this one goes through user mode.
fn migrate(thread: Ref<Thread>) -> Result<(), Otherwise> {
    let call: call::Migrate = arguments(thread)?;
    let tree = slot::try_lock().ok_or(Otherwise::Restart)?;
    let selector = call.context.selector();
    let asked = synchronised(thread, Op::Migrate, selector).is_some();
    thread.sync.set(None);
    let context = thread.domain.context(call.context)?;
    if !asked {
        let to = create::check_cpu(call.cpu)?;
        let limit = time::limit(&tree, &thread.domain, call.time, to)?;
        migrate::ask(&tree, context, migrate::Request { to, limit, exit_base: call.portals })?;
    } else if migrate::answer(context, call.cpu)? == Progress::Done {
        return Ok(());
    }
    synchronise(thread, Op::Migrate, selector, Round::NOBODY);
    Err(Otherwise::Restart)
}

fn map(thread: Ref<Thread>) -> Result<(), Otherwise> {
    let call: call::Map = arguments(thread)?;
    let selector = call.memory.selector();
    let Some(round) = synchronised(thread, Op::Map, selector) else {
        let tree = slot::try_lock().ok_or(Otherwise::Restart)?;
        if space::map(&tree, &thread.domain, &call)? == Progress::Again {
            return Err(Otherwise::Restart);
        }
        if !space::is_port_mapping(&thread.domain, call.destination.0) {
            return Ok(());
        }
        // CPUs that run in the space have a copy of its I/O permissions.
        synchronise(thread, Op::Map, selector, epoch::begin());
        return Err(Otherwise::Restart);
    };
    if !epoch::is_over(round) {
        return Err(Otherwise::Restart);
    }
    thread.sync.set(None);
    Ok(())
}

fn interrupt_bind(caller: &Caller) -> Result<(), Status> {
    let call: call::InterruptBind = caller.arguments()?;
    let line = caller.domain.line(call.line)?;
    let bind = |target, _| interrupt::bind(line, target, call.mode);
    binding::bind(caller, call.line.selector(), call.notification, &bind)
}

fn interrupt_ack(cpu: &Cpu, thread: Ref<Thread>) -> Result<(), Status> {
    let call: call::InterruptAck = arguments(thread)?;
    interrupt::acknowledge(cpu, thread.domain.line(call.line)?);
    Ok(())
}

fn quota_query(caller: &Caller) -> Result<(), Status> {
    let call: call::QuotaQuery = caller.arguments()?;
    // What moves a quota holds the lock.
    let (pages, used) = caller.domain.object(call.domain)?.quota();
    caller.thread.return_values(&call::Quota { pages, used });
    Ok(())
}

fn quota_give(caller: &Caller) -> Result<(), Status> {
    let call: call::QuotaGive = caller.arguments()?;
    let (payer, domain) = payer_and_paid(caller.domain, call.payer, call.domain)?;
    payer.give(caller.tree, &domain, call.pages)
}

fn quota_take(caller: &Caller) -> Result<(), Status> {
    let call: call::QuotaTake = caller.arguments()?;
    let (payer, domain) = payer_and_paid(caller.domain, call.payer, call.domain)?;
    payer.take_back(caller.tree, &domain, call.pages)
}

/// A payer, and a domain that it paid for.
fn payer_and_paid(
    caller: &Domain,
    payer: Cap<kind::Domain, CREATE>,
    domain: Cap<kind::Domain, CREATE>,
) -> Result<(Ref<Domain>, Ref<Domain>), Status> {
    let (payer, domain) = (caller.object(payer)?, caller.object(domain)?);
    if domain.header.payer != payer || domain == payer {
        return Err(Status::BadArgument);
    }
    Ok((payer, domain))
}

fn log_write(thread: Ref<Thread>) -> Result<(), Status> {
    let call: call::LogWrite = arguments(thread)?;
    thread.domain.holder(call.log)?;
    logring::append(call.bytes.bytes());
    Ok(())
}

fn log_read(thread: Ref<Thread>) -> Result<(), Status> {
    let call: call::LogRead = arguments(thread)?;
    thread.domain.holder(call.log)?;
    let mut bytes = [0; LOG_CHUNK];
    let count = logring::take(&mut bytes, call.take_over);
    thread.return_values(&call::LogTaken { bytes: LogBytes::new(&bytes[..count]) });
    Ok(())
}

fn log_bind(caller: &Caller) -> Result<(), Status> {
    let call: call::LogBind = caller.arguments()?;
    caller.domain.holder(call.log)?;
    let bind = |target, source| {
        let before = logring::listen(None).and_then(|(_, before)| Slot::from_link(before));
        if let Some(before) = before {
            binding::unbind(caller.tree, &before, before.word());
        }
        logring::listen(Some((target, source)));
        Ok(())
    };
    binding::bind(caller, call.log.selector(), call.notification, &bind)
}

fn power(thread: Ref<Thread>) -> Result<(), Status> {
    let call: call::Power = arguments(thread)?;
    thread.domain.holder(call.platform)?;
    Err(arch::power(call.action))
}
