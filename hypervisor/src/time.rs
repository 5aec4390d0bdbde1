//! System calls about time: scheduling contexts, what they are made from and bound to, schedules, migration.

use crate::cell::Ref;
use crate::context::Context;
use crate::cpu::{self, Cpu};
use crate::create::{Args, check_cpu, publish, selector, target};
use crate::cyclic::Frame;
use crate::domain::Domain;
use crate::object::Header;
use crate::sched::Sched;
use crate::slot::Tree;
use crate::space::Progress;
use crate::sync::atomic::Ordering;
use crate::thread::Thread;
use crate::{migrate, overrun, syscall};
use abi::cap::{Kind, TimeLimit};
use abi::utcb::WORDS;
use abi::{PRIORITIES, Rights, Status};

/// What the capability to time allows on `cpu` that `argument` names.
fn limit(
    _tree: &Tree,
    caller: &Domain,
    argument: u64,
    cpu: u32,
    rights: Rights,
) -> Result<TimeLimit, Status> {
    let slot = caller.slot(selector(argument)?);
    let slot = slot.filter(|slot| slot.word().is(Kind::Time));
    let slot = slot.ok_or(Status::BadCapability)?;
    if !slot.word().allows(rights) || slot.first.load(Ordering::Relaxed) >> cpu & 1 == 0 {
        return Err(Status::Denied);
    }
    TimeLimit::unpack(slot.second.load(Ordering::Relaxed)).ok_or(Status::Denied)
}

/// [`abi::Op::CreateSched`].
pub fn sched(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let cpu = check_cpu(args[2])?;
    let priority = u8::try_from(args[3]).map_err(|_| Status::BadArgument)?;
    let (budget, period) = (args[4], args[5]);
    if priority as usize >= PRIORITIES || budget > period || (budget == 0) != (period == 0) {
        return Err(Status::BadArgument);
    }
    let most = limit(tree, &caller, args[6], cpu, Rights::CREATE)?;
    let limit = TimeLimit { priority, ..most };
    if !most.includes(limit) {
        return Err(Status::Denied);
    }
    let header = Header::new(Kind::Sched, Some(payer));
    let sched = Sched::new(header, cpu, limit, budget, period);
    publish(tree, slot, payer.make(sched)?);
    Ok(())
}

/// [`abi::Op::SetSchedule`].
pub fn set_schedule(tree: &Tree, thread: Ref<Thread>, args: &Args) -> Result<(), Status> {
    let cpu = check_cpu(args[1])?;
    let words = thread.with_frame(|frame| frame.tag().utcb_words());
    let head = abi::PAGE_SIZE / 8 - WORDS;
    let frame = Frame::new(args[2], words, |i| thread.utcb.read(head + i))?;
    let limit = limit(tree, &thread.domain, args[0], cpu, Rights::CONTROL)?;
    if limit.partition != 0 {
        return Err(Status::Denied);
    }
    let cpu = cpu::by_index(cpu);
    cpu.cyclic.propose(frame);
    cpu.interrupt();
    Ok(())
}

/// The thread or vCPU that `argument` names, with the right to control it.
fn context(caller: &Domain, argument: u64) -> Result<Ref<Context>, Status> {
    let word = caller.capability(selector(argument)?);
    if !matches!(word.kind(), Kind::Thread | Kind::Vcpu) {
        return Err(Status::BadCapability);
    }
    if !word.allows(Rights::CONTROL) {
        return Err(Status::Denied);
    }
    // SAFETY: threads and vCPUs start with their context.
    Ok(unsafe { Ref::from_address(word.address()) })
}

/// [`abi::Op::BindSched`]. What is bound under the lock is found when either ends.
pub fn bind_sched(cpu: &Cpu, _tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let sched = caller.find::<Sched>(selector(args[0])?, Rights::CONTROL)?;
    let context = context(&caller, args[1])?;
    if sched.cpu() != context.cpu() {
        return Err(Status::WrongCpu);
    }
    cpu::start(cpu, sched, context)
}

/// [`abi::Op::BindOverrun`]. What is bound under the lock is found when either ends.
pub fn bind_overrun(_tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let sched = caller.find::<Sched>(selector(args[0])?, Rights::CONTROL)?;
    let (notification, bits) = syscall::signal_target(caller, args[1])?;
    overrun::bind(sched, notification, bits)
}

/// [`abi::Op::Migrate`]; `asked`: by an earlier run of this system call.
pub fn migrate(
    tree: &Tree,
    caller: Ref<Domain>,
    args: &Args,
    asked: bool,
) -> Result<Progress, Status> {
    let context = context(&caller, args[0])?;
    if asked {
        return migrate::answer(context, args[1]);
    }
    let to = check_cpu(args[1])?;
    let request = migrate::Request {
        to,
        limit: limit(tree, &caller, args[2], to, Rights::CREATE)?,
        exit_base: selector(args[3])?,
    };
    migrate::ask(tree, context, request)?;
    Ok(Progress::Again)
}
