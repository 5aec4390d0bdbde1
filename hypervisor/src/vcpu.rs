//! vCPUs: contexts in guest mode. Every exit is a call to a portal of the monitor.

use crate::arch::{self, Outcome, VcpuArch, VcpuReply, after_guest};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, HasContext, ReplyPath, State};
use crate::cpu::Cpu;
use crate::domain::Domain;
use crate::ipc;
use crate::latency::{self, Path};
use crate::log;
use crate::mem::KernelPage;
use crate::space::{Space, User};
use abi::text::Text;
use abi::vcpu::ExitKind;
use abi::{Selector, Status};

/// Most pages that the architecture's part of a vCPU takes.
pub const MAX_ARCH_PAGES: usize = 8;

/// An exit that is to be told to the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Why guest mode was left.
    pub kind: ExitKind,
    /// Length of the instruction in bytes, 0 if unknown.
    pub instruction_length: u8,
    /// Qualification words, by kind ([`ExitKind`]).
    pub info: [u64; 3],
}

/// A vCPU: one page, with the context first.
#[repr(C, align(64))]
pub struct Vcpu {
    /// Common part of threads and vCPUs.
    pub context: Context,
    /// Domain in whose table the exit portals are.
    pub domain: Ref<Domain>,
    /// Guest-physical memory.
    pub guest: Ref<Space>,
    /// Host space that the state page is mapped into.
    pub monitor: Ref<Space>,
    /// Its place among the users of the two.
    pub uses: [User; 2],
    /// The state page.
    pub state_page: KernelPage,
    /// Address of the state page in `monitor`.
    pub state_address: u64,
    /// Selector of the portal of exit kind 0.
    pub exit_base: CpuCell<Selector>,
    /// An exit that has not been told yet.
    pub pending: CpuCell<Option<Exit>>,
    /// The deadline that the monitor has set; `u64::MAX`: none.
    pub deadline: CpuCell<u64>,
    /// The deadline has passed and was not told yet.
    pub expired: CpuCell<bool>,
    /// Registers and control structure.
    pub arch: CpuCell<VcpuArch>,
    /// Pages of the architecture's part, and how many they are.
    pub arch_pages: ([KernelPage; MAX_ARCH_PAGES], usize),
}

const _: () = assert!(core::mem::size_of::<Vcpu>() <= abi::PAGE_SIZE);

// SAFETY: the context is the first field.
unsafe impl HasContext for Vcpu {}

/// Whether a kick waits: bits of the notification, or the deadline.
#[inline(always)]
fn is_kicked(vcpu: Ref<Vcpu>) -> bool {
    vcpu.expired.get() || vcpu.context.notification.get().is_some_and(|n| n.is_set())
}

/// Runs `vcpu`, the current context: leaving guest mode is a kernel entry. Comes back if the monitor is told something first.
pub fn run(cpu: &Cpu, vcpu: Ref<Vcpu>) {
    let exit = if vcpu.pending.with_mut(|pending| pending.is_some()) || is_kicked(vcpu) {
        Some(take_waiting(vcpu))
    } else {
        cpu.arch.leave_guest(Some(vcpu));
        vcpu.arch.in_place().enter(cpu, &vcpu.guest)
    };
    if let Some(exit) = exit {
        call_monitor(cpu, vcpu, exit);
    }
}

/// `vcpu` has left guest mode.
#[inline(always)]
pub fn left(cpu: &Cpu, vcpu: Ref<Vcpu>, outcome: Outcome) {
    if let Some(exit) = after_guest(cpu, vcpu, outcome) {
        call_monitor(cpu, vcpu, exit);
    }
}

/// Takes what waits to be told: an exit, or else a kick.
#[cold]
fn take_waiting(vcpu: Ref<Vcpu>) -> Exit {
    if let Some(exit) = vcpu.pending.take() {
        return exit;
    }
    let bits = vcpu.context.notification.get().map_or(0, |n| n.take());
    let expired = vcpu.expired.replace(false);
    Exit { kind: ExitKind::Kick, instruction_length: 0, info: [bits, expired as u64, 0] }
}

/// Calls the portal of `exit`. On x86 what has to be fast does not come here.
#[cfg_attr(target_arch = "x86_64", inline(never))]
#[cfg_attr(not(target_arch = "x86_64"), inline(always))]
fn call_monitor(cpu: &Cpu, vcpu: Ref<Vcpu>, exit: Exit) {
    latency::is(Path::Exit(exit.kind));
    let selector = vcpu.exit_base.get().offset(exit.kind as u32);
    match ipc::enter_portal(cpu, vcpu.context(), &vcpu.domain, selector) {
        Ok(Some((portal, handler))) => {
            handler.context.reply_path.set(ReplyPath::Vcpu);
            vcpu.arch.in_place().save(cpu, portal.groups);
            let kind = exit.kind as u64 | (exit.instruction_length as u64) << 8;
            let [first, second, third] = exit.info;
            arch::deliver(cpu, handler, portal.identity, [kind, first, second, third]);
        }
        Ok(None) => vcpu.pending.set(Some(exit)),
        Err(status) => refused(cpu, vcpu, exit.kind, status),
    }
}

/// The monitor cannot be told of exits of `kind`.
#[cold]
fn refused(cpu: &Cpu, vcpu: Ref<Vcpu>, kind: ExitKind, status: Status) {
    log::warning!("vCPU stopped: no handler for exit {:?}: {}", kind, Text(status.name()));
    vcpu.context.stop(cpu);
}

/// Takes the monitor's reply: loads the state that it changed, and resumes or halts.
#[inline(always)]
pub fn resume(cpu: &Cpu, vcpu: Ref<Vcpu>, groups: u64) {
    let VcpuReply { halt, deadline, timer } = vcpu.arch.in_place().load(cpu, groups);
    if let Some(deadline) = deadline {
        vcpu.expired.set(false);
        vcpu.deadline.set(deadline);
    }
    if deadline.is_some() || timer {
        arm(cpu, vcpu);
    }
    let kicked = || is_kicked(vcpu) || vcpu.arch.with_mut(|arch| arch.has_event());
    if halt && !kicked() {
        vcpu.context.state.set(State::Halted);
        // The kick may have come between the look and the halt, from another CPU: whoever sends one
        // then finds the state or its interrupt is taken before the next decision here.
    } else {
        vcpu.context.state.set(State::Ready);
    }
}

/// Has this CPU's timer look after the vCPU's deadline, and after its own timer where the processor does not.
pub fn arm(cpu: &Cpu, vcpu: Ref<Vcpu>) {
    if vcpu.context.state.get() == State::Stopped {
        return;
    }
    let own = vcpu.arch.with_mut(|arch| arch.timer_deadline());
    let next = vcpu.deadline.get().min(own.unwrap_or(u64::MAX));
    if next == u64::MAX {
        cpu.timeouts.disarm(&vcpu.context.timeout);
    } else {
        cpu.timeouts.arm(&vcpu.context.timeout, next);
        cpu.program_timer();
    }
}

/// What [`arm`] looked after has passed, or has changed meanwhile.
pub fn deadline_passed(cpu: &Cpu, vcpu: Ref<Vcpu>) {
    let now = arch::now();
    if now >= vcpu.deadline.get() {
        vcpu.deadline.set(u64::MAX);
        vcpu.expired.set(true);
    }
    let event = vcpu.arch.with_mut(|arch| {
        arch.look_at_timer(now);
        arch.has_event()
    });
    if !vcpu.expired.get() && !event {
        arm(cpu, vcpu);
    } else if vcpu.context.state.get() == State::Halted {
        vcpu.context.wake(cpu);
    }
}
