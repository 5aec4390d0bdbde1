//! Migration of threads and vCPUs, with their scheduling contexts, to other CPUs.
//!
//! A context is touched by its CPU alone. So that CPU lets go of it, takes what is resident there to memory, and then says
//! whose it is; the other one takes it up. On the way it is [`State::Moving`]. Who asked finds the answer in the context.

use crate::cell::{CpuCell, Ref};
use crate::context::{Context, State};
use crate::cpu::{self, Cpu, Work};
use crate::notification;
use crate::object::Ending;
use crate::sched;
use crate::slot::Tree;
use crate::space::Progress;
use crate::sync::atomic::{AtomicU16, Ordering};
use abi::cap::TimeLimit;
use abi::{Selector, Status};

/// Nobody asks.
const FREE: u16 = 0;
/// Somebody has asked, and the context is in the inbox of its CPU, or of the one that it goes to.
const ASKED: u16 = 1;
/// It was refused; the status is in the lower bits.
const REFUSED: u16 = 0x100;

/// What is asked.
#[derive(Clone, Copy)]
pub struct Request {
    /// Number of a CPU that runs.
    pub to: u32,
    /// What the time allows that it will run on there.
    pub limit: TimeLimit,
    /// A vCPU's portal for exit kind 0 from then on.
    pub exit_base: Selector,
}

/// A context's part.
pub struct Migration {
    phase: AtomicU16,
    /// Who sets the phase to `ASKED` writes it; the CPU whose inbox the context is in reads it.
    request: CpuCell<Option<Request>>,
    /// Link in the inbox; under its lock.
    pub next: CpuCell<Option<Ref<Context>>>,
    /// What it goes on with.
    state: CpuCell<State>,
    /// Deadlines that were armed: its own, and the end of its scheduling context's period.
    deadline: CpuCell<Option<u64>>,
    replenish: CpuCell<Option<u64>>,
}

impl Migration {
    /// Nobody asks.
    pub const fn none() -> Migration {
        Migration {
            phase: AtomicU16::new(FREE),
            request: CpuCell::new(None),
            next: CpuCell::new(None),
            state: CpuCell::new(State::New),
            deadline: CpuCell::new(None),
            replenish: CpuCell::new(None),
        }
    }
}

/// Asks the CPU of `context` to have it moved. Under the lock of the tree, so that it is not ending unnoticed.
pub fn ask(tree: &Tree, context: Ref<Context>, request: Request) -> Result<(), Status> {
    let migration = &context.migration;
    let claim = |phase| (phase != ASKED).then_some(ASKED);
    migration
        .phase
        .fetch_update(Ordering::AcqRel, Ordering::Relaxed, claim)
        .map_err(|_| Status::Busy)?;
    migration.request.set(Some(request));
    // Before it is there: what is taken back from now on, it can hold there.
    if let Some(thread) = context.as_thread() {
        thread.space.runs_on(tree, request.to);
    } else if let Some(vcpu) = context.as_vcpu() {
        vcpu.guest.runs_on(tree, request.to);
    }
    cpu::by_index(context.cpu()).post(Work::Migration(context));
    Ok(())
}

/// What has become of the request to move `context` to CPU `to`.
pub fn answer(context: Ref<Context>, to: u32) -> Result<Progress, Status> {
    match context.migration.phase.load(Ordering::Acquire) {
        ASKED => Ok(Progress::Again),
        FREE if context.cpu() == to => Ok(Progress::Done),
        // Somebody else has moved it since.
        FREE => Err(Status::Busy),
        refused => Err(Status::from_code(refused as u8)),
    }
}

/// On the CPU whose inbox `context` was in: lets go of it, in steps, or takes it up.
pub fn serve(cpu: &Cpu, context: Ref<Context>) -> Progress {
    let phase = match context.migration.request.get() {
        // Also what is ending: it ends where it has arrived.
        _ if context.state.get() == State::Moving => {
            arrive(cpu, context);
            FREE
        }
        _ if context.header.ending() != Ending::Alive => REFUSED | Status::Dead as u16,
        Some(request) if request.to != cpu.index => match leave(cpu, context, &request) {
            Ok(progress) => return progress,
            Err(status) => REFUSED | status as u16,
        },
        _ => FREE,
    };
    context.migration.phase.store(phase, Ordering::Release);
    Progress::Done
}

fn may_leave(context: Ref<Context>, request: &Request) -> Result<(), Status> {
    let serves = context.as_thread().is_some_and(|thread| thread.caller.get().is_some());
    match (context.state.get(), context.sched.get()) {
        (State::Stopped, _) => Err(Status::Dead),
        (State::InCall | State::Helping, _) => Err(Status::Busy),
        _ if serves => Err(Status::Busy),
        // Its CPU has not been told yet what is bound to it.
        (_, None) if context.started.load(Ordering::Acquire) => Err(Status::Busy),
        (_, Some(sched)) if sched.header.ending() != Ending::Alive => Err(Status::Busy),
        (_, Some(sched)) if !request.limit.includes(sched.limit()) => Err(Status::Denied),
        _ => Ok(()),
    }
}

/// Lets go of `context`, if it neither calls nor is called. Nothing runs between the steps.
fn leave(cpu: &Cpu, context: Ref<Context>, request: &Request) -> Result<Progress, Status> {
    may_leave(context, request)?;
    let migration = &context.migration;
    // Those who help try their calls again, which fail: it is on another CPU then.
    if context.dismiss_helpers() == Progress::Again {
        return Ok(Progress::Again);
    }
    let sched = context.sched.get();
    // Whoever binds one meanwhile finds out by the mark that it goes, or that it has gone.
    if sched.is_none() && context.started.swap(true, Ordering::AcqRel) {
        return Err(Status::Busy);
    }
    context.release_waiters(cpu);
    evict(cpu, context);
    if let Some(vcpu) = context.as_vcpu() {
        vcpu.exit_base.set(request.exit_base);
    }
    migration.deadline.set(cpu.timeouts.disarm(&context.timeout));
    migration.replenish.set(sched.and_then(|sched| sched::leave(cpu, sched)));
    if cpu.current.get() == Some(context) {
        cpu.current.set(None);
    }
    cpu.reschedule.set(true);
    migration.state.set(context.state.get());
    context.state.set(State::Moving);
    cpu::by_index(request.to).post_arrival(context, sched);
    if sched.is_none() {
        context.started.store(false, Ordering::Release);
    }
    Ok(Progress::Done)
}

/// Takes to memory what of `context` is resident on this CPU.
#[inline(never)]
pub fn evict(cpu: &Cpu, context: Ref<Context>) {
    if let Some(vcpu) = context.as_vcpu() {
        // First: what leaves the CPU may have its timer looked after.
        cpu.arch.leave_guest(None);
        vcpu.arch.with_mut(|arch| arch.leave_cpu(cpu));
    }
}

/// Takes `context` up.
fn arrive(cpu: &Cpu, context: Ref<Context>) {
    let migration = &context.migration;
    let sched = context.sched.get();
    // It can have been given a scheduling context on the way.
    let state = match migration.state.get() {
        State::New if sched.is_some() => State::Ready,
        state => state,
    };
    context.state.set(state);
    if let Some(deadline) = migration.deadline.take() {
        cpu.timeouts.arm(&context.timeout, deadline);
    }
    let replenish = migration.replenish.take();
    if let Some(sched) = sched {
        if let Some(end) = replenish {
            cpu.timeouts.arm(&sched.replenish, end);
        }
        sched::ready(cpu, sched);
    }
    context.release_waiters(cpu);
    // Signals that came on the way, or the end of the wait.
    if let Some(notification) = context.notification.get() {
        notification::arrive(cpu, notification);
    }
    cpu.reschedule.set(true);
}
