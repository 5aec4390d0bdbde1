//! What a CPU does between kernel entries.

use crate::arch;
use crate::cpu::Cpu;
use crate::space::Progress;
use crate::{ipc, sched, vcpu};

/// Runs whatever is to run on this CPU, until the next kernel entry.
pub fn run(cpu: &'static Cpu) -> ! {
    loop {
        if cpu.reschedule.get()
            && (cpu.serve_inbox() == Progress::Again || sched::schedule(cpu) == Progress::Again)
        {
            // A preemption point: nothing is held.
            arch::take_interrupts(cpu);
            continue;
        }
        let Some(current) = cpu.current.get() else {
            arch::idle(cpu);
            continue;
        };
        if let Some(vcpu) = current.as_vcpu() {
            vcpu::run(cpu, vcpu);
        } else if let Some(thread) = current.as_thread() {
            match thread.pending.take() {
                Some(exception) => ipc::raise(cpu, thread, exception),
                None => arch::resume_thread(cpu, &thread),
            }
        }
    }
}
