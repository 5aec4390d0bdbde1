//! What happens on a kernel entry, and what the kernel does before it leaves.

use super::entry::{self, cause};
use super::sysreg::read;
use super::{current_cpu, gic, vcpu as arch_vcpu};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::thread::{Exception, Thread};
use crate::{epoch, interrupt, ipc, sched, syscall, vcpu};

/// Exception classes (Arm ARM D17.2.37).
pub mod class {
    /// WFI or WFE.
    pub const WAIT: u64 = 0x01;
    /// Vector registers.
    pub const VECTOR: u64 = 0x07;
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
const BATCH: usize = 16;

/// The current thread was interrupted or made a system call; its registers are saved.
pub extern "C" fn user_entry(why: u64) -> ! {
    let cpu = current_cpu();
    if let Some(thread) = cpu.current.get().and_then(|current| current.as_thread()) {
        match why {
            cause::INTERRUPT => interrupts(cpu),
            cause::SYNCHRONOUS => synchronous(cpu, thread),
            _ => error(read!("esr_el2")),
        }
    }
    run(cpu)
}

fn synchronous(cpu: &Cpu, thread: Ref<Thread>) {
    let syndrome = read!("esr_el2");
    if class::of(syndrome) == class::SYSTEM_CALL {
        return syscall::dispatch(cpu, thread);
    }
    let exception = Exception {
        vector: class::of(syndrome),
        error: syndrome,
        address: read!("far_el2"),
    };
    ipc::raise(cpu, thread, exception);
}

/// An SError: memory or a device has failed, some time ago.
pub fn error(syndrome: u64) {
    // Nothing says whose access it was. A machine that goes on after an uncontainable one would compute wrongly.
    panic!("SError: ESR {syndrome:#x}");
}

/// Gives `handler`, the current thread, the message of an exit.
#[inline]
pub fn deliver(_cpu: &Cpu, handler: Ref<Thread>, identity: u64, words: [u64; 4]) {
    handler.with_frame(|frame| {
        frame.receive(identity, 0);
        frame.set_message(&[words[0], words[1], words[2], words[3], 0, 0, 0, 0]);
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
                super::clock::set_deadline(u64::MAX);
                taken.end();
                cpu.timer_fired();
            }
            gic::CALL => {
                taken.end();
                cpu.serve_inbox();
                epoch::pass();
            }
            gic::STOP => super::halt(),
            gic::VIRTUAL_TIMER => {
                arch_vcpu::timer_fired(cpu);
                taken.end();
            }
            gic::MAINTENANCE => {
                arch_vcpu::maintenance(cpu);
                taken.end();
            }
            number => {
                if let Some(line) = number.checked_sub(gic::FIRST_SPI) {
                    interrupt::deliver(cpu, line);
                }
                taken.end();
            }
        }
    }
}

/// Runs whatever is to run on this CPU, until the next kernel entry.
pub fn run(cpu: &'static Cpu) -> ! {
    loop {
        if cpu.reschedule.get() {
            sched::schedule(cpu);
        }
        let Some(current) = cpu.current.get() else {
            entry::wait_for_interrupt();
            interrupts(cpu);
            continue;
        };
        if let Some(vcpu) = current.as_vcpu() {
            vcpu::run(cpu, vcpu);
        } else if let Some(thread) = current.as_thread() {
            run_thread(cpu, &thread);
        }
    }
}

fn run_thread(cpu: &Cpu, thread: &Thread) {
    if let Some(exception) = thread.pending.take() {
        if let Some(current) = cpu.current.get().and_then(|current| current.as_thread()) {
            ipc::raise(cpu, current, exception);
        }
        return;
    }
    cpu.arch.load_space(thread.space);
    entry::resume_thread(cpu, thread)
}
