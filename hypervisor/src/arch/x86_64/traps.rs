//! What happens on a kernel entry, and what the kernel does before it leaves.

use super::frame::{Frame, SYSCALL};
use super::interrupts::apic;
use super::vcpu::look_at_timer;
use super::virt::hw::cr2;
use super::{current_cpu, entry};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::latency::{self, Path};
use crate::run::run;
use crate::thread::{Exception, Thread};
use crate::vcpu::{Exit, Vcpu};
use crate::{doorbell, interrupt, ipc, notification, syscall, vcpu};
use abi::vcpu::ExitKind;

/// Vector of interrupt line 0.
pub const FIRST_LINE: u8 = 0x30;
/// Vector of the timer.
pub const TIMER: u8 = 0xf0;
/// Vector that other CPUs interrupt this one with.
pub const CALL: u8 = 0xf1;

const DEBUG: u64 = 1;
const NMI: u64 = 2;
const PAGE_FAULT: u64 = 14;

/// Handles an entry from the current thread, whose registers are saved.
#[inline(always)]
fn entered(path: Path, handle: impl FnOnce(&'static Cpu, Ref<Thread>)) -> ! {
    latency::enter(path);
    let cpu = current_cpu();
    if let Some(thread) = cpu.current.get().and_then(|current| current.as_thread()) {
        handle(cpu, thread);
    }
    run(cpu)
}

/// A system call was made by the current thread; its registers are saved.
pub extern "C" fn system_call() -> ! {
    entered(Path::SystemCall(0), |cpu, thread| syscall::dispatch(cpu, thread, 0))
}

/// The current thread, whose registers are saved, has signalled what somebody is attached to.
pub extern "C" fn signalled() -> ! {
    entered(Path::SystemCall(abi::Op::Signal as u8), notification::signalled)
}

/// The current thread, whose caller is a vCPU, has replied with `groups`; of its registers only those are saved
/// that its next call does not set.
pub extern "C" fn vcpu_reply(cpu: &'static Cpu, groups: u64) -> ! {
    latency::enter(Path::SystemCall(abi::Op::ReplyWait as u8));
    if let Some(handler) = cpu.current.get().and_then(|current| current.as_thread()) {
        let next = ipc::reply_to_vcpu(cpu, handler, groups);
        if let Some(vcpu) = next
            && !cpu.reschedule.get()
        {
            vcpu::run(cpu, vcpu);
        }
    }
    run(cpu)
}

/// The guest of `vcpu` was left, or, with `failed`, the processor did not enter it; its general registers are on its state page.
pub extern "C" fn guest_left(cpu: &'static Cpu, vcpu: Ref<Vcpu>, failed: bool) -> ! {
    latency::enter(Path::Guest);
    let outcome = cpu.arch.virt.with_mut(|virt| vcpu.arch.in_place().left(virt, failed));
    vcpu::left(cpu, vcpu, outcome);
    run(cpu)
}

/// The current context goes on, and there may be something to do first.
pub extern "C" fn again(cpu: &'static Cpu) -> ! {
    latency::enter(Path::Guest);
    run(cpu)
}

/// The monitor has replied to `vcpu`, which is current, with the instruction pointer.
pub extern "C" fn load_rip(cpu: &'static Cpu, vcpu: Ref<Vcpu>) -> ! {
    latency::enter(Path::SystemCall(abi::Op::ReplyWait as u8));
    let groups = abi::vcpu::x86_64::Groups::RIP;
    vcpu.arch.in_place().load(cpu, groups.bits());
    run(cpu)
}

/// Rings the doorbell that is where the guest of `vcpu` wrote, to a port or to memory, and has it go on after that; whether
/// there is one. `word` is word 0 of the exit, `first` and `second` are words 1 and 2.
pub extern "C" fn ring(cpu: &Cpu, vcpu: Ref<Vcpu>, word: u64, first: u64, second: u64) -> bool {
    let kind = match word as u8 == ExitKind::Io as u8 {
        true => ExitKind::Io,
        false => ExitKind::StageTwoFault,
    };
    let exit = Exit {
        kind,
        instruction_length: abi::vcpu::instruction_length(word) as u8,
        info: [first, second, 0],
    };
    let rung = doorbell::ring(cpu, vcpu, &exit);
    if rung {
        look_at_timer(cpu);
    }
    rung
}

/// Saves `groups` of the state of `vcpu`, which was left, for the monitor.
pub extern "C" fn save_exit(cpu: &'static Cpu, vcpu: Ref<Vcpu>, groups: u64) {
    vcpu.arch.in_place().save(cpu, groups);
}

/// Gives `handler`, the current thread, the message of an exit: at once, if it waits in a system call.
#[inline(always)]
pub fn deliver(cpu: &Cpu, handler: Ref<Thread>, identity: u64, words: [u64; 4]) {
    let waits = handler.with_frame(|frame| frame.vector == SYSCALL);
    if waits && !cpu.reschedule.get() {
        cpu.arch.prepare_thread(handler.space);
        latency::leave();
        entry::deliver(identity, words[0], words[1], words[2], words[3], &handler);
    }
    handler.with_frame(|frame| {
        frame.receive(identity, 0, 0);
        frame.set_message(&[words[0], words[1], words[2], words[3], 0, 0, 0, 0]);
    });
}

/// The current thread was interrupted; its registers are saved.
pub extern "C" fn user_trap() -> ! {
    entered(Path::Exception(0), |cpu, thread| {
        let (vector, error) = thread.with_frame(|frame: &mut Frame| (frame.vector, frame.error));
        if vector == NMI {
            nmi();
        } else if vector >= 32 {
            handle(cpu, vector as u8);
        } else {
            latency::is(Path::Exception(vector as u8));
            let address = if vector == PAGE_FAULT { cr2() } else { 0 };
            ipc::raise(cpu, thread, Exception { vector, error, address });
        }
    })
}

/// The kernel was interrupted: where it waits for that, by an NMI, or by its own mistake.
pub extern "C" fn nested(frame: &Frame) {
    match frame.vector {
        NMI => nmi(),
        // A program can have a debug exception strike right after its system call (CVE-2018-8897).
        DEBUG => {}
        0..32 => entry::kernel_fault(frame),
        vector => {
            latency::enter(Path::Line);
            handle(current_cpu(), vector as u8);
            latency::leave();
        }
    }
}

fn nmi() {
    if crate::panic::is_panicked() {
        super::halt();
    }
}

/// Handles the interrupt of `vector`, 32 or above.
pub fn handle(cpu: &Cpu, vector: u8) {
    match vector {
        TIMER => {
            latency::is(Path::Timer);
            apic::eoi();
            cpu.timer_fired();
        }
        CALL => {
            latency::is(Path::Inbox);
            apic::eoi();
            cpu.note_inbox();
        }
        apic::SPURIOUS_VECTOR => {}
        FIRST_LINE..TIMER => {
            latency::is(Path::Line);
            interrupt::deliver(cpu, (vector - FIRST_LINE) as u32);
            apic::eoi();
        }
        _ => apic::eoi(),
    }
}
