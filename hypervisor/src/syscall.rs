//! Decoding of system calls.

use crate::arch::Frame;
use crate::cell::Ref;
use crate::context::State;
use crate::cpu::Cpu;
use crate::create::{self, Args};
use crate::domain::Domain;
use crate::doorbell;
use crate::epoch::Round;
use crate::interrupt::{self, Interrupt};
use crate::latency::{self, Path};
use crate::logring::{self, LogObject};
use crate::notification::{self, Notification};
use crate::platform::{self, PlatformObject};
use crate::slot::{self, Tree};
use crate::space::{self, MapRequest, Progress};
use crate::thread::{Exception, Sync, Thread};
use crate::{delegate, destroy, epoch, ipc};
use abi::syscall::TriggerMode;
use abi::utcb::exception;
use abi::{Op, Rights, Selector, Status};

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
    let (tag, args) = thread.with_frame(|frame| (frame.tag(), frame.args()));
    latency::is(Path::SystemCall(tag.op()));
    let outcome = match Op::from_code(tag.op()) {
        None => Outcome::Return(Err(Status::BadOperation)),
        Some(_) if tag.has_reserved() => Outcome::Return(Err(Status::BadArgument)),
        Some(op) => execute(cpu, thread, op, &args),
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

fn execute(cpu: &Cpu, thread: Ref<Thread>, op: Op, args: &Args) -> Outcome {
    let domain = thread.domain;
    Outcome::Return(match op {
        Op::Call => match ipc::call(cpu, thread) {
            Ok(()) => return Outcome::Written,
            Err(status) => Err(status),
        },
        Op::ReplyWait => match ipc::reply_wait(cpu, thread) {
            Ok(()) => return Outcome::Written,
            Err(status) => Err(status),
        },
        Op::Signal => signal(cpu, domain, args),
        Op::Wait => return wait(cpu, thread, args),
        Op::Yield => {
            cpu.yielded.set(true);
            cpu.reschedule.set(true);
            Ok(())
        }
        Op::CreateDomain => return locked(|tree| create::domain(tree, domain, args)),
        Op::CreateSpace => return locked(|tree| create::space(tree, domain, args)),
        Op::CreateThread => return locked(|tree| create::thread(tree, domain, args)),
        Op::CreateVcpu => return locked(|tree| create::vcpu(tree, domain, args)),
        Op::CreateSched => return locked(|tree| create::sched(tree, domain, args)),
        Op::CreatePortal => return locked(|tree| create::portal(tree, domain, args)),
        Op::CreateNotification => return locked(|tree| create::notification(tree, domain, args)),
        Op::Delegate => return locked(|tree| delegate::delegate(tree, domain, args)),
        Op::Revoke | Op::Delete => return revoke(cpu, thread, op, args),
        Op::Map => return map(thread, op, args),
        Op::BindSched => return locked(|tree| create::bind_sched(cpu, tree, domain, args)),
        Op::BindKick => return locked(|tree| create::bind_kick(tree, domain, args)),
        Op::InterruptBind => return locked(|tree| interrupt_bind(tree, domain, args)),
        Op::InterruptAck => selector(args[0])
            .and_then(|s| domain.find::<Interrupt>(s, Rights::CONTROL))
            .map(|interrupt| interrupt::acknowledge(cpu, interrupt)),
        Op::QuotaQuery => return locked(|tree| quota_query(tree, thread, args)),
        Op::LogWrite => log_write(domain, args),
        Op::LogRead => log_read(thread, args),
        Op::LogBind => return locked(|tree| log_bind(tree, domain, args)),
        Op::Power => selector(args[0])
            .and_then(|s| domain.find::<PlatformObject>(s, Rights::CONTROL))
            .and_then(|_| Err(platform::power(args[1]))),
        Op::QuotaGive => return locked(|tree| quota_move(tree, domain, args, Domain::give)),
        Op::QuotaTake => return locked(|tree| quota_move(tree, domain, args, Domain::take_back)),
        Op::BindDoorbell => return locked(|tree| doorbell::bind(tree, domain, args)),
    })
}

/// Does what changes or binds to the tree of derivations. While another CPU does, this one waits in user mode.
fn locked(work: impl FnOnce(&Tree) -> Result<(), Status>) -> Outcome {
    match slot::try_lock() {
        Some(tree) => Outcome::Return(work(&tree)),
        None => Outcome::Restart,
    }
}

fn selector(argument: u64) -> Result<Selector, Status> {
    u32::try_from(argument)
        .map(Selector)
        .map_err(|_| Status::BadArgument)
}

/// The notification and the bits that a capability to it may signal. The hot path takes no lock.
fn signal_target(domain: Ref<Domain>, argument: u64) -> Result<(Ref<Notification>, u64), Status> {
    let slot = domain
        .slot(selector(argument)?)
        .ok_or(Status::BadCapability)?;
    let (word, badge) = slot.badge().ok_or(Status::BadCapability)?;
    let notification = crate::domain::resolve::<Notification>(word, Rights::SIGNAL)?;
    Ok((notification, badge))
}

fn signal(cpu: &Cpu, domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (notification, bits) = signal_target(domain, args[0])?;
    notification::signal(cpu, notification, bits);
    Ok(())
}

fn wait(cpu: &Cpu, thread: Ref<Thread>, args: &Args) -> Outcome {
    let found = selector(args[0]).and_then(|s| thread.domain.find::<Notification>(s, Rights::WAIT));
    let notification = match found {
        Ok(notification) => notification,
        Err(status) => return Outcome::Return(Err(status)),
    };
    let deadline = args[1];
    if deadline != 0
        && !notification.is_set()
        && let Err(status) = notification.attach(thread.context())
    {
        return Outcome::Return(Err(status));
    }
    // Attached first, looked at second: a signal from another CPU is seen on one side or the other.
    let bits = notification.take();
    if bits != 0 {
        notification.detach(thread.context());
        thread.with_frame(|frame| frame.set_arg(1, bits));
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
fn synchronised(thread: Ref<Thread>, op: Op, args: &Args) -> Option<Round> {
    let sync = thread.sync.get()?;
    (sync.op == op && sync.selector == args[0]).then_some(sync.round)
}

/// Begins an epoch whose end this system call waits for, from its next run on.
fn synchronise(thread: Ref<Thread>, op: Op, args: &Args) {
    thread.sync.set(Some(Sync {
        op,
        selector: args[0],
        round: epoch::begin(),
    }));
}

/// Revocation and destruction return only when no CPU can use what was taken back.
fn revoke(cpu: &Cpu, thread: Ref<Thread>, op: Op, args: &Args) -> Outcome {
    let Some(round) = synchronised(thread, op, args) else {
        let found = selector(args[0]).and_then(|s| {
            let slot = thread.domain.slot(s).ok_or(Status::BadCapability)?;
            if slot.is_free() {
                Err(Status::BadCapability)
            } else {
                Ok(slot)
            }
        });
        let Some(tree) = slot::try_lock() else {
            return Outcome::Restart;
        };
        match found.and_then(|slot| destroy::revoke(cpu, &tree, slot, op == Op::Delete)) {
            Err(status) => return Outcome::Return(Err(status)),
            Ok(Progress::Again) => {}
            Ok(Progress::Done) => synchronise(thread, op, args),
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

fn map(thread: Ref<Thread>, op: Op, args: &Args) -> Outcome {
    let request = || {
        Ok(MapRequest {
            memory: selector(args[0])?,
            space: selector(args[1])?,
            destination: selector(args[2])?,
            offset: args[3],
            address: args[4],
            size: args[5],
            access: args[6],
        })
    };
    let Some(round) = synchronised(thread, op, args) else {
        let Some(tree) = slot::try_lock() else {
            return Outcome::Restart;
        };
        match request().and_then(|request| space::map(&tree, &thread.domain, &request)) {
            Ok(Progress::Done) => {}
            Ok(Progress::Again) => return Outcome::Restart,
            Err(status) => return Outcome::Return(Err(status)),
        }
        if !space::is_port_mapping(&thread.domain, Selector(args[2] as u32)) {
            return Outcome::Return(Ok(()));
        }
        // CPUs that run in the space have a copy of its I/O permissions.
        synchronise(thread, op, args);
        return Outcome::Restart;
    };
    if !epoch::is_over(round) {
        return Outcome::Restart;
    }
    thread.sync.set(None);
    Outcome::Return(Ok(()))
}

fn interrupt_bind(tree: &Tree, domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    // What is bound under this lock is found when the notification ends.
    let interrupt = domain.find::<Interrupt>(selector(args[0])?, Rights::CONTROL)?;
    let (notification, bits) = signal_target(domain, args[1])?;
    let mode = TriggerMode::from_code(args[2]).ok_or(Status::BadArgument)?;
    interrupt::bind(tree, interrupt, notification, bits, mode)
}

fn quota_query(_tree: &Tree, thread: Ref<Thread>, args: &Args) -> Result<(), Status> {
    // What moves a quota holds the lock.
    let target = thread
        .domain
        .find::<Domain>(selector(args[0])?, Rights::CONTROL)?;
    let (limit, used) = target.quota();
    thread.with_frame(|frame| {
        frame.set_arg(1, limit);
        frame.set_arg(2, used);
    });
    Ok(())
}

fn quota_move(
    tree: &Tree,
    caller: Ref<Domain>,
    args: &Args,
    change: fn(&Domain, &Tree, &Domain, u64) -> Result<(), Status>,
) -> Result<(), Status> {
    let payer = caller.find::<Domain>(selector(args[0])?, Rights::CREATE)?;
    let domain = caller.find::<Domain>(selector(args[1])?, Rights::CREATE)?;
    if domain.header.payer != Some(payer) {
        return Err(Status::BadArgument);
    }
    change(&payer, tree, &domain, args[2])
}

/// Bytes that travel in registers.
const LOG_BYTES: usize = 56;

fn log_write(domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    domain.find::<LogObject>(selector(args[0])?, Rights::WRITE)?;
    let count = usize::try_from(args[1]).map_err(|_| Status::BadArgument)?;
    if count > LOG_BYTES {
        return Err(Status::BadArgument);
    }
    let mut bytes = [0; LOG_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(&args[2..]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    logring::append(&bytes[..count]);
    Ok(())
}

fn log_read(thread: Ref<Thread>, args: &Args) -> Result<(), Status> {
    thread
        .domain
        .find::<LogObject>(selector(args[0])?, Rights::READ)?;
    if args[1] > 1 {
        return Err(Status::BadArgument);
    }
    let mut bytes = [0; LOG_BYTES];
    let count = logring::take(&mut bytes, args[1] == 1);
    thread.with_frame(|frame| {
        frame.set_arg(1, count as u64);
        for (i, chunk) in bytes.chunks_exact(8).enumerate() {
            let mut raw = [0; 8];
            raw.copy_from_slice(chunk);
            frame.set_arg(2 + i, u64::from_le_bytes(raw));
        }
    });
    Ok(())
}

fn log_bind(_tree: &Tree, domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    domain.find::<LogObject>(selector(args[0])?, Rights::READ)?;
    let (notification, bits) = signal_target(domain, args[1])?;
    logring::listen(notification, bits);
    Ok(())
}
