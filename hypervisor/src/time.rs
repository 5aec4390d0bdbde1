//! System calls about time: scheduling contexts, what they are made from and bound to, schedules.

use crate::binding;
use crate::cpu;
use crate::create::{Creation, check_cpu};
use crate::cyclic::Frame;
use crate::domain::Domain;
use crate::object::{self, AnyRef};
use crate::overrun;
use crate::sched::Sched;
use crate::slot::Tree;
use crate::sync::atomic::Ordering;
use crate::syscall::Caller;
use crate::thread::MESSAGE;
use abi::argument::Cap;
use abi::cap::TimeLimit;
use abi::{Status, call, kind};

/// What `time` allows on `cpu`.
pub fn limit<const RIGHTS: u16>(
    _tree: &Tree,
    caller: &Domain,
    time: Cap<kind::Time, RIGHTS>,
    cpu: u32,
) -> Result<TimeLimit, Status> {
    let slot = caller.holder(time)?;
    if slot.first.load(Ordering::Relaxed) >> cpu & 1 == 0 {
        return Err(Status::Denied);
    }
    TimeLimit::unpack(slot.second.load(Ordering::Relaxed)).ok_or(Status::Denied)
}

/// [`abi::Op::CreateSched`].
pub fn sched(new: Creation<call::CreateSched>) -> Result<AnyRef, Status> {
    let Creation { tree, caller, call, payer } = new;
    let cpu = check_cpu(call.cpu)?;
    let priority = call.priority.get() as u8;
    let (budget, period) = (call.budget, call.period);
    if budget > period || (budget == 0) != (period == 0) {
        return Err(Status::BadArgument);
    }
    let most = limit(tree, caller, call.time, cpu)?;
    let limit = TimeLimit { priority, ..most };
    if !most.includes(limit) {
        return Err(Status::Denied);
    }
    let sched = payer.make(|header| Sched::new(header, cpu, limit, budget, period))?;
    Ok(object::header(sched))
}

/// [`abi::Op::SetSchedule`].
pub fn set_schedule(caller: &Caller) -> Result<(), Status> {
    let call: call::SetSchedule = caller.arguments()?;
    let thread = caller.thread;
    let cpu = check_cpu(call.cpu)?;
    let words = thread.with_frame(|frame| frame.tag().utcb_words());
    let frame = Frame::new(call.frame, words, |i| thread.utcb.read(MESSAGE + i))?;
    let limit = limit(caller.tree, caller.domain, call.time, cpu)?;
    if limit.partition != 0 {
        return Err(Status::Denied);
    }
    let cpu = cpu::by_index(cpu);
    cpu.cyclic.propose(frame);
    cpu.interrupt();
    Ok(())
}

/// [`abi::Op::BindSched`]. What is bound under the lock is found when either ends.
pub fn bind_sched(caller: &Caller) -> Result<(), Status> {
    let call: call::BindSched = caller.arguments()?;
    let sched = caller.domain.object(call.sched)?;
    let context = caller.domain.context(call.context)?;
    if sched.cpu() != context.cpu() {
        return Err(Status::WrongCpu);
    }
    cpu::start(caller.cpu, sched, context)
}

/// [`abi::Op::BindOverrun`].
pub fn bind_overrun(caller: &Caller) -> Result<(), Status> {
    let call: call::BindOverrun = caller.arguments()?;
    let sched = caller.domain.object(call.sched)?;
    let bind = |target, _| overrun::bind(sched, target);
    binding::bind(caller, call.sched.selector(), call.notification, &bind)
}
