//! Decoding of system calls.

use crate::arch::Frame;
use crate::binding::{self, Binding};
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
use crate::notification;
use crate::platform;
use crate::slot::{self, Slot, Tree};
use crate::space::{self, Progress};
use crate::thread::{Exception, Sync, Thread};
use crate::{delegate, destroy, epoch, ipc, time};
use abi::argument::right::{CREATE, NONE};
use abi::argument::{Cap, LogBytes};
use abi::operation::Operation;
use abi::utcb::exception;
use abi::{LOG_CHUNK, Op, Selector, Status, call, kind};

/// How a system call that has not switched to another context ends.
enum Outcome {
    /// With this status in the caller's registers.
    Return(Result<(), Status>),
    /// The operation has written the registers itself, or the caller does not go on now.
    Written,
    /// It has to go on: the instruction is executed again.
    Restart,
}

/// Carries out the system call in the registers of `thread`, the current context, or has it told to who carries out the
/// calls of that thread. `syndrome` is what the processor says of it, or 0.
pub fn dispatch(cpu: &Cpu, thread: Ref<Thread>, syndrome: u64) {
    if thread.foreign {
        let call = Exception {
            vector: exception::SYSTEM_CALL,
            error: syndrome,
            address: 0,
        };
        return ipc::raise(cpu, thread, call);
    }
    let tag = thread.with_frame(|frame| frame.tag());
    latency::is(Path::SystemCall(tag.op()));
    let outcome = match Op::from_code(tag.op()) {
        None => Outcome::Return(Err(Status::BadOperation)),
        Some(op) if tag.has_reserved() => refuse(thread, op),
        Some(op) => execute(cpu, thread, op),
    };
    match outcome {
        Outcome::Return(Ok(())) => thread.with_frame(|frame| frame.set_result(Status::Success)),
        Outcome::Return(Err(status)) => thread.with_frame(|frame| {
            frame.set_result(status);
            // Only operations that are known charge anybody.
            if let (Status::Quota, Some(op)) = (status, Op::from_code(tag.op())) {
                frame.set_arg(1, op.payer());
            }
        }),
        Outcome::Written => {}
        Outcome::Restart => thread.with_frame(Frame::restart),
    }
}

/// The tag of a call of a known operation is not in order.
#[cold]
fn refuse(thread: Ref<Thread>, op: Op) -> Outcome {
    let result = Err(Status::BadArgument);
    match op {
        Op::Call | Op::ReplyWait => written(thread, result),
        _ => Outcome::Return(result),
    }
}

/// How a call or reply ends. If it succeeds, it has written the registers itself; else those that it does not preserve are
/// scrubbed all the same.
#[inline(always)]
fn written(thread: Ref<Thread>, result: Result<(), Status>) -> Outcome {
    if result.is_ok() {
        return Outcome::Written;
    }
    thread.with_frame(Frame::scrub);
    Outcome::Return(result)
}

fn execute(cpu: &Cpu, thread: Ref<Thread>, op: Op) -> Outcome {
    let domain = &*thread.domain;
    let args = Args { op, thread };
    match op {
        // These four in one piece with this function, where a closure would be a function of its own.
        Op::Call => match args.decode::<call::Call>() {
            Ok(call) => written(thread, ipc::call(cpu, thread, call.portal)),
            Err(status) => written(thread, Err(status)),
        },
        Op::ReplyWait => match args.decode::<call::ReplyWait>() {
            Ok(_) => written(thread, ipc::reply_wait(cpu, thread)),
            Err(status) => written(thread, Err(status)),
        },
        Op::Signal => match args.decode() {
            Ok(call) => Outcome::Return(signal(cpu, domain, call)),
            Err(status) => Outcome::Return(Err(status)),
        },
        Op::Wait => match args.decode() {
            Ok(call) => wait(cpu, thread, call),
            Err(status) => Outcome::Return(Err(status)),
        },
        Op::Yield => args.at_once(|call::Yield {}| {
            cpu.yielded.set(true);
            cpu.reschedule.set(true);
            Ok(())
        }),
        Op::CreateDomain => args.locked(|tree, call| create::domain(tree, domain, &call)),
        Op::CreateSpace => args.locked(|tree, call| create::space(tree, domain, &call)),
        Op::CreateThread => args.locked(|tree, call| create::thread(tree, domain, &call)),
        Op::CreateVcpu => args.locked(|tree, call| create::vcpu(tree, domain, &call)),
        Op::CreateSched => args.locked(|tree, call| time::sched(tree, domain, &call)),
        Op::CreatePortal => args.locked(|tree, call| create::portal(tree, domain, &call)),
        Op::CreateNotification => {
            args.locked(|tree, call| create::notification(tree, domain, &call))
        }
        Op::Delegate => args.locked(|tree, call| delegate::delegate(tree, domain, &call)),
        Op::Revoke => args.then(|call: call::Revoke| revoke(cpu, thread, op, call.capability)),
        Op::Delete => args.then(|call: call::Delete| revoke(cpu, thread, op, call.capability)),
        Op::Map => args.then(|call| map(thread, op, &call)),
        Op::BindSched => args.locked(|tree, call| time::bind_sched(cpu, tree, domain, &call)),
        Op::BindOverrun => args.locked(|tree, call| time::bind_overrun(tree, domain, &call)),
        Op::SetSchedule => args.locked(|tree, call| time::set_schedule(tree, thread, &call)),
        Op::Migrate => args.then(|call| migrate(thread, op, &call)),
        Op::BindKick => args.locked(|tree, call| create::bind_kick(tree, domain, &call)),
        Op::InterruptBind => args.locked(|tree, call| interrupt_bind(tree, domain, &call)),
        Op::InterruptAck => args.at_once(|call: call::InterruptAck| {
            interrupt::acknowledge(cpu, domain.object_of_hot_path(call.line)?);
            Ok(())
        }),
        Op::QuotaQuery => args.locked(|tree, call| quota_query(tree, thread, &call)),
        Op::LogWrite => args.at_once(|call: call::LogWrite| {
            domain.object(call.log)?;
            logring::append(call.bytes.bytes());
            Ok(())
        }),
        Op::LogRead => args.at_once(|call| log_read(thread, &call)),
        Op::LogBind => args.locked(|tree, call| log_bind(tree, domain, &call)),
        Op::Power => args.at_once(|call: call::Power| {
            domain.object(call.platform)?;
            Err(platform::power(call.action))
        }),
        Op::QuotaGive => args.locked(|tree, call: call::QuotaGive| {
            let (payer, domain) = payer_and_paid(domain, call.payer, call.domain)?;
            payer.give(tree, &domain, call.pages)
        }),
        Op::QuotaTake => args.locked(|tree, call: call::QuotaTake| {
            let (payer, domain) = payer_and_paid(domain, call.payer, call.domain)?;
            payer.take_back(tree, &domain, call.pages)
        }),
        Op::BindDoorbell => args.locked(|tree, call| doorbell::bind(tree, domain, &call)),
    }
}

/// The arguments of an operation, in the registers of who calls: each operation reads those that it has.
struct Args {
    op: Op,
    thread: Ref<Thread>,
}

impl Args {
    /// What they are.
    #[inline(always)]
    fn decode<T: Operation>(&self) -> Result<T, Status> {
        debug_assert_eq!(self.op, T::OP);
        T::decode(&self.thread.with_frame(|frame| frame.args()))
    }

    /// Does `work` with them, if they are in order.
    #[inline(always)]
    fn then<T: Operation>(&self, work: impl FnOnce(T) -> Outcome) -> Outcome {
        match self.decode() {
            Ok(call) => work(call),
            Err(status) => Outcome::Return(Err(status)),
        }
    }

    /// Does what is done then.
    #[inline(always)]
    fn at_once<T: Operation>(&self, work: impl FnOnce(T) -> Result<(), Status>) -> Outcome {
        self.then(|call| Outcome::Return(work(call)))
    }

    /// Does what changes or binds to the tree of derivations. While another CPU does, this one waits in user mode.
    fn locked<T: Operation>(&self, work: impl FnOnce(&Tree, T) -> Result<(), Status>) -> Outcome {
        self.then(|call| match slot::try_lock() {
            Some(tree) => Outcome::Return(work(&tree, call)),
            None => Outcome::Restart,
        })
    }
}

#[inline(always)]
fn signal(cpu: &Cpu, domain: &Domain, call: call::Signal) -> Result<(), Status> {
    let (notification, bits) = domain.signal_target(call.notification)?;
    notification::signal(cpu, notification, bits);
    Ok(())
}

#[inline(always)]
fn wait(cpu: &Cpu, thread: Ref<Thread>, call: call::Wait) -> Outcome {
    let (slot, word, notification) = match thread.domain.held(call.notification) {
        Ok(found) => found,
        Err(status) => return Outcome::Return(Err(status)),
    };
    let deadline = call.deadline;
    let waits = deadline != 0 && !notification.is_set();
    if waits {
        if let Err(status) = notification.attach(thread.context(), [slot.link(), 0]) {
            return Outcome::Return(Err(status));
        }
        // Whoever takes the capability back looks for who waits through it afterwards.
        if !slot.still_holds(word) {
            notification.detach(thread.context());
            return Outcome::Return(Err(Status::BadCapability));
        }
    }
    // Attached first, looked at second: a signal from another CPU is seen on one side or the other.
    let bits = notification.take();
    if bits != 0 {
        if waits {
            notification.detach(thread.context());
        }
        thread.return_values(&call::Waited { bits });
        return Outcome::Return(Ok(()));
    }
    if deadline == 0 {
        return Outcome::Return(Err(Status::Timeout));
    }
    if notification.waiter() != Some(thread.context()) {
        // Bits were seen and then taken by somebody else: try again.
        return Outcome::Restart;
    }
    thread.context.notification.set(Some(notification));
    thread.context.state.set(State::Waiting);
    if deadline != u64::MAX {
        cpu.timeouts.arm(&thread.context.timeout, deadline);
    }
    cpu.reschedule.set(true);
    Outcome::Written
}

/// The epoch whose end `thread` waits for since an earlier run of this system call.
fn synchronised(thread: Ref<Thread>, op: Op, selector: Selector) -> Option<Round> {
    let sync = thread.sync.get()?;
    (sync.op == op && sync.selector == selector).then_some(sync.round)
}

/// Begins an epoch whose end this system call waits for, from its next run on.
fn synchronise(thread: Ref<Thread>, op: Op, selector: Selector) {
    thread.sync.set(Some(Sync {
        op,
        selector,
        round: epoch::begin(),
    }));
}

/// Revocation and destruction return only when no CPU can use what was taken back.
fn revoke(cpu: &Cpu, thread: Ref<Thread>, op: Op, capability: Cap<kind::Any, NONE>) -> Outcome {
    let selector = capability.selector();
    let Some(round) = synchronised(thread, op, selector) else {
        // Not only capabilities: also those that are gone, but not what was derived from them.
        let slot = thread.domain.slot(selector).filter(|slot| !slot.is_free());
        let Some(slot) = slot else {
            return Outcome::Return(Err(Status::BadCapability));
        };
        let Some(tree) = slot::try_lock() else {
            return Outcome::Restart;
        };
        match destroy::revoke(cpu, &tree, slot, op == Op::Delete) {
            Err(status) => return Outcome::Return(Err(status)),
            Ok(Progress::Again) => {}
            Ok(Progress::Done) => synchronise(thread, op, selector),
        }
        return Outcome::Restart;
    };
    latency::is(Path::Reclaim);
    if !epoch::is_over(round) || destroy::reclaim() == Progress::Again {
        return Outcome::Restart;
    }
    thread.sync.set(None);
    Outcome::Return(Ok(()))
}

/// The CPU that holds the context lets go of it, and the other one takes it up, while this one goes through user mode.
fn migrate(thread: Ref<Thread>, op: Op, call: &call::Migrate) -> Outcome {
    let Some(tree) = slot::try_lock() else {
        return Outcome::Restart;
    };
    let selector = call.context.selector();
    let asked = synchronised(thread, op, selector).is_some();
    let progress = time::migrate(&tree, &thread.domain, call, asked);
    let again = progress == Ok(Progress::Again);
    thread.sync.set(again.then_some(Sync {
        op,
        selector,
        round: Round::NOBODY,
    }));
    match progress {
        Ok(Progress::Again) => Outcome::Restart,
        Ok(Progress::Done) => Outcome::Return(Ok(())),
        Err(status) => Outcome::Return(Err(status)),
    }
}

fn map(thread: Ref<Thread>, op: Op, call: &call::Map) -> Outcome {
    let selector = call.memory.selector();
    let Some(round) = synchronised(thread, op, selector) else {
        let Some(tree) = slot::try_lock() else {
            return Outcome::Restart;
        };
        match space::map(&tree, &thread.domain, call) {
            Ok(Progress::Done) => {}
            Ok(Progress::Again) => return Outcome::Restart,
            Err(status) => return Outcome::Return(Err(status)),
        }
        if !space::is_port_mapping(&thread.domain, call.destination.0) {
            return Outcome::Return(Ok(()));
        }
        // CPUs that run in the space have a copy of its I/O permissions.
        synchronise(thread, op, selector);
        return Outcome::Restart;
    };
    if !epoch::is_over(round) {
        return Outcome::Restart;
    }
    thread.sync.set(None);
    Outcome::Return(Ok(()))
}

fn interrupt_bind(tree: &Tree, domain: &Domain, call: &call::InterruptBind) -> Result<(), Status> {
    let interrupt = domain.object(call.line)?;
    let binding = Binding::new(domain, call.line.selector(), call.notification)?;
    interrupt::bind(interrupt, binding.target, call.mode)?;
    binding.note(tree);
    Ok(())
}

fn quota_query(_tree: &Tree, thread: Ref<Thread>, call: &call::QuotaQuery) -> Result<(), Status> {
    // What moves a quota holds the lock.
    let (pages, used) = thread.domain.object(call.domain)?.quota();
    thread.return_values(&call::Quota { pages, used });
    Ok(())
}

/// A payer, and a domain that it paid for.
fn payer_and_paid(
    caller: &Domain,
    payer: Cap<kind::Domain, CREATE>,
    domain: Cap<kind::Domain, CREATE>,
) -> Result<(Ref<Domain>, Ref<Domain>), Status> {
    let (payer, domain) = (caller.object(payer)?, caller.object(domain)?);
    if domain.header.payer != Some(payer) {
        return Err(Status::BadArgument);
    }
    Ok((payer, domain))
}

fn log_read(thread: Ref<Thread>, call: &call::LogRead) -> Result<(), Status> {
    thread.domain.object(call.log)?;
    let mut bytes = [0; LOG_CHUNK];
    let count = logring::take(&mut bytes, call.take_over);
    thread.return_values(&call::LogTaken {
        bytes: LogBytes::new(&bytes[..count]),
    });
    Ok(())
}

fn log_bind(tree: &Tree, domain: &Domain, call: &call::LogBind) -> Result<(), Status> {
    domain.object(call.log)?;
    let binding = Binding::new(domain, call.log.selector(), call.notification)?;
    if let Some(before) = Slot::from_link(logring::listener()) {
        binding::unbind(tree, &before, before.word());
    }
    logring::listen(binding.target, binding.link());
    binding.note(tree);
    Ok(())
}
