//! Decoding of system calls.

use crate::arch::Frame;
use crate::cell::Ref;
use crate::context::State;
use crate::cpu::Cpu;
use crate::create::{self, Args};
use crate::domain::Domain;
use crate::interrupt::{self, Interrupt};
use crate::logring::{self, LogObject};
use crate::notification::{self, Notification};
use crate::platform::{self, PlatformObject};
use crate::slot;
use crate::space::{self, MapRequest, Progress};
use crate::thread::{Exception, Sync, Thread};
use crate::{destroy, epoch, ipc};
use abi::syscall::TriggerMode;
use abi::utcb::exception;
use abi::{Op, Rights, Selector, Status};
use core::sync::atomic::Ordering;

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
    let outcome = match Op::from_code(tag.op()) {
        None => Outcome::Return(Err(Status::BadOperation)),
        Some(_) if tag.has_reserved() => Outcome::Return(Err(Status::BadArgument)),
        Some(op) => execute(cpu, thread, op, &args),
    };
    match outcome {
        Outcome::Return(Ok(())) => thread.with_frame(|frame| frame.set_result(Status::Success)),
        Outcome::Return(Err(status)) => thread.with_frame(|frame| frame.set_result(status)),
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
        Op::CreateDomain => create::domain(domain, args),
        Op::CreateSpace => create::space(domain, args),
        Op::CreateThread => create::thread(domain, args),
        Op::CreateVcpu => create::vcpu(domain, args),
        Op::CreateSched => create::sched(domain, args),
        Op::CreatePortal => create::portal(domain, args),
        Op::CreateNotification => create::notification(domain, args),
        Op::Delegate => create::delegate(domain, args),
        Op::Revoke | Op::Delete => return revoke(cpu, thread, op, args),
        Op::Map => return map(thread, op, args),
        Op::BindSched => create::bind_sched(cpu, domain, args),
        Op::BindOverrun => create::bind_overrun(domain, args),
        Op::Migrate => return migrate(thread, op, args),
        Op::SetSchedule => create::set_schedule(thread, args),
        Op::BindKick => create::bind_kick(domain, args),
        Op::InterruptBind => interrupt_bind(domain, args),
        Op::InterruptAck => selector(args[0])
            .and_then(|s| domain.find::<Interrupt>(s, Rights::CONTROL))
            .map(|interrupt| interrupt::acknowledge(cpu, interrupt)),
        Op::QuotaQuery => selector(args[0])
            .and_then(|s| domain.find::<Domain>(s, Rights::CONTROL))
            .map(|target| {
                let (limit, used) = target.quota();
                thread.with_frame(|frame| {
                    frame.set_arg(1, limit);
                    frame.set_arg(2, used);
                });
            }),
        Op::LogWrite => log_write(domain, args),
        Op::LogRead => log_read(thread, args),
        Op::LogBind => log_bind(domain, args),
        Op::Power => selector(args[0])
            .and_then(|s| domain.find::<PlatformObject>(s, Rights::CONTROL))
            .and_then(|_| Err(platform::power(args[1]))),
    })
}

fn selector(argument: u64) -> Result<Selector, Status> {
    u32::try_from(argument)
        .map(Selector)
        .map_err(|_| Status::BadArgument)
}

/// The notification and the bits that a capability to it may signal. The hot path takes no lock: the
/// badge belongs to the capability if that is still there after it was read.
pub fn signal_target(
    domain: Ref<Domain>,
    argument: u64,
) -> Result<(Ref<Notification>, u64), Status> {
    let slot = domain
        .slot(selector(argument)?)
        .ok_or(Status::BadCapability)?;
    let word = slot.word();
    let notification = crate::domain::resolve::<Notification>(word, Rights::SIGNAL)?;
    let badge = slot.first.load(Ordering::Acquire);
    if slot.word() != word {
        return Err(Status::BadCapability);
    }
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
fn synchronised(thread: Ref<Thread>, op: Op, args: &Args) -> Option<u64> {
    let sync = thread.sync.get()?;
    (sync.op == op && sync.selector == args[0]).then_some(sync.epoch)
}

/// Begins an epoch whose end this system call waits for.
fn synchronise(thread: Ref<Thread>, op: Op, args: &Args) -> u64 {
    let epoch = epoch::begin();
    thread.sync.set(Some(Sync {
        op,
        selector: args[0],
        epoch,
    }));
    epoch
}

/// Revocation and destruction return only when no CPU can use what was taken back.
fn revoke(cpu: &Cpu, thread: Ref<Thread>, op: Op, args: &Args) -> Outcome {
    let epoch = match synchronised(thread, op, args) {
        Some(epoch) => epoch,
        None => {
            let found = selector(args[0]).and_then(|s| {
                let slot = thread.domain.slot(s).ok_or(Status::BadCapability)?;
                if slot.is_free() {
                    Err(Status::BadCapability)
                } else {
                    Ok(slot)
                }
            });
            match found.and_then(|slot| destroy::revoke(cpu, slot, op == Op::Delete)) {
                Err(status) => return Outcome::Return(Err(status)),
                Ok(Progress::Again) => return Outcome::Restart,
                Ok(Progress::Done) => synchronise(thread, op, args),
            }
        }
    };
    if !epoch::is_over(epoch) || destroy::reclaim() == Progress::Again {
        return Outcome::Restart;
    }
    thread.sync.set(None);
    Outcome::Return(Ok(()))
}

/// The CPU that holds the context lets go of it, and the other one takes it up, while this one goes through user mode.
fn migrate(thread: Ref<Thread>, op: Op, args: &Args) -> Outcome {
    let asked = synchronised(thread, op, args).is_some();
    let progress = create::migrate(thread.domain, args, asked);
    let again = progress == Ok(Progress::Again);
    thread.sync.set(again.then_some(Sync {
        op,
        selector: args[0],
        epoch: 0,
    }));
    match progress {
        Ok(Progress::Again) => Outcome::Restart,
        Ok(Progress::Done) => Outcome::Return(Ok(())),
        Err(status) => Outcome::Return(Err(status)),
    }
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
            rights: args[6],
        })
    };
    let epoch = match synchronised(thread, op, args) {
        Some(epoch) => epoch,
        None => {
            match request().and_then(|request| space::map(&thread.domain, &request)) {
                Ok(Progress::Done) => {}
                Ok(Progress::Again) => return Outcome::Restart,
                Err(status) => return Outcome::Return(Err(status)),
            }
            if !space::is_port_mapping(&thread.domain, Selector(args[2] as u32)) {
                return Outcome::Return(Ok(()));
            }
            // CPUs that run in the space have a copy of its I/O permissions.
            synchronise(thread, op, args)
        }
    };
    if !epoch::is_over(epoch) {
        return Outcome::Restart;
    }
    thread.sync.set(None);
    Outcome::Return(Ok(()))
}

fn interrupt_bind(domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    // What is bound under this lock is found when the notification ends.
    let _tree = slot::lock();
    let interrupt = domain.find::<Interrupt>(selector(args[0])?, Rights::CONTROL)?;
    let (notification, bits) = signal_target(domain, args[1])?;
    let mode = TriggerMode::from_code(args[2]).ok_or(Status::BadArgument)?;
    interrupt::bind(interrupt, notification, bits, mode)
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

fn log_bind(domain: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let _tree = slot::lock();
    domain.find::<LogObject>(selector(args[0])?, Rights::READ)?;
    let (notification, bits) = signal_target(domain, args[1])?;
    logring::listen(notification, bits);
    Ok(())
}
