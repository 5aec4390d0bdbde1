//! What happens on a kernel entry, and what the kernel does before it leaves.

use super::entry::cause;
use super::sysreg::read;
use super::{current_cpu, fastpath, interrupts as gic, vcpu as arch_vcpu};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::latency::{self, Path};
use crate::run::run;
use crate::thread::{Exception, Thread};
use crate::{interrupt, ipc, notification, syscall, vcpu};

/// Exception classes (Arm ARM D17.2.37).
pub mod class {
    /// WFI or WFE.
    pub const WAIT: u64 = 0x01;
    /// SVC.
    pub const SYSTEM_CALL: u64 = 0x15;
    /// HVC.
    pub const HYPERCALL: u64 = 0x16;
    /// SMC.
    pub const FIRMWARE_CALL: u64 = 0x17;
    /// MSR, MRS or a system instruction.
    pub const SYSTEM_REGISTER: u64 = 0x18;
    /// Instruction abort.
    pub const INSTRUCTION_ABORT: u64 = 0x20;
    /// Data abort.
    pub const DATA_ABORT: u64 = 0x24;

    /// The class in ESR_EL2.
    pub const fn of(syndrome: u64) -> u64 {
        syndrome >> 26 & 0x3f
    }
}

/// Most interrupts that are handled before user code is looked at again.
const BATCH: usize = 4;

/// The current thread was interrupted or made a system call; its registers are saved.
pub extern "C" fn user_entry(why: u64) -> ! {
    latency::enter(Path::Exception(0));
    let cpu = current_cpu();
    if let Some(thread) = cpu.current.get().and_then(|current| current.as_thread()) {
        match why {
            cause::INTERRUPT => interrupts(cpu),
            cause::SIGNALLED => {
                latency::is(Path::SystemCall(abi::Op::Signal as u8));
                notification::signalled(cpu, thread);
            }
            _ => exception(cpu, thread),
        }
    }
    run(cpu)
}

/// A system call, an exception of the thread, or an SError, which is taken for the thread's too: memory or a device has
/// failed, some time ago, and the thread may have devices.
fn exception(cpu: &Cpu, thread: Ref<Thread>) {
    let syndrome = read!("esr_el2");
    if class::of(syndrome) == class::SYSTEM_CALL {
        return syscall::dispatch(cpu, thread, syndrome);
    }
    latency::is(Path::Exception(class::of(syndrome) as u8));
    let exception =
        Exception { vector: class::of(syndrome), error: syndrome, address: read!("far_el2") };
    ipc::raise(cpu, thread, exception);
}

/// The thread `handler`, which is current and whose caller is a vCPU, has replied with `groups`; of its registers only those are saved
/// that its next call does not set.
pub extern "C" fn vcpu_reply(cpu: &'static Cpu, handler: Ref<Thread>, groups: u64) -> ! {
    latency::enter(Path::SystemCall(abi::Op::ReplyWait as u8));
    if let Some(vcpu) = ipc::reply_to_vcpu(cpu, handler, groups)
        && !cpu.reschedule.get()
    {
        vcpu::run(cpu, vcpu);
    }
    run(cpu)
}

/// The guest of the vCPU that is loaded was left; its general registers are on its state page.
pub extern "C" fn guest_left(cpu: &'static Cpu, why: u64) -> ! {
    latency::enter(Path::Guest);
    if let Some(vcpu) = cpu.arch.guest.get() {
        let outcome = vcpu.arch.in_place().leave(why);
        vcpu::left(cpu, vcpu, outcome);
    }
    run(cpu)
}

/// Gives `handler`, the current thread, the message of an exit: at once, if nobody else is to run.
#[inline(always)]
pub fn deliver(cpu: &Cpu, handler: Ref<Thread>, identity: u64, words: [u64; 4]) {
    let [first, second, third, fourth] = words;
    if !cpu.reschedule.get() {
        cpu.arch.load_space(handler.space);
        let stack = cpu.arch.stack_top;
        latency::leave();
        fastpath::deliver(0, identity, first, second, third, fourth, &handler, stack);
    }
    handler.with_frame(|frame| {
        frame.receive(identity, 0, 0);
        frame.set_message(&[first, second, third, fourth, 0, 0, 0, 0]);
    });
}

/// Takes the interrupts that are pending.
pub fn interrupts(cpu: &Cpu) {
    for _ in 0..BATCH {
        let Some(taken) = gic::acknowledge() else {
            return;
        };
        match taken.number() {
            gic::TIMER => {
                latency::is(Path::Timer);
                super::clock::set_deadline(u64::MAX);
                taken.end();
                cpu.timer_fired();
            }
            gic::CALL => {
                latency::is(Path::Inbox);
                taken.end();
                cpu.note_inbox();
            }
            gic::STOP => super::halt(),
            gic::VIRTUAL_TIMER => {
                arch_vcpu::timer_fired(cpu);
                taken.end();
            }
            // What asked for it is off by now.
            gic::MAINTENANCE => taken.end(),
            number => {
                latency::is(Path::Line);
                taken.leave_active();
                if let Some(line) = number.checked_sub(gic::FIRST_SPI) {
                    interrupt::deliver(cpu, line);
                }
            }
        }
    }
}
