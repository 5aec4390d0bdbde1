//! A vCPU: answers to its exits.
//!
//! [`Vcpu::exit`] takes the message of an exit and returns the groups of state that it changed in the state
//! page. It runs on the handler thread of the vCPU's CPU, so that a vCPU's state needs no lock; what the vCPUs of a
//! VM share is locked for moments. What it needs of the outside is a [`Platform`].

mod access;
mod events;
mod power;
mod registers;
mod startup;
#[cfg(test)]
mod tests;

use super::exception::{self, Exception};
use super::state::StatePage;
use super::syndrome;
use super::vm::Vm;
use crate::once::Reported;
use crate::platform::{Platform, end};
use crate::wide::Wide;
use abi::vcpu::aarch64::{CONTROL_HALT, CONTROL_SERROR, Groups};
use abi::vcpu::{ExitKind, exit_kind, instruction_length};
use core::sync::atomic::Ordering;
use rt::ipc::Words;
use rt::protocol::supervisor::StopReason;

/// Bytes of the instruction that caused an exit: programs for AArch32 may have some of two.
fn instruction(words: &Words) -> u64 {
    match instruction_length(words[0]) {
        0 => 4,
        length => length,
    }
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu<P> {
    vm: &'static Vm,
    platform: P,
    state: StatePage,
    id: u32,
    /// It was started.
    on: bool,
    /// It has called CPU_OFF.
    leaving: bool,
    /// In WFI until an interrupt.
    halted: bool,
    /// What the virtual CPU interface was asked for last.
    gic_control: u64,
    wide: Wide,
    reported_registers: Reported<64>,
    reported_pages: Reported<64>,
    reported_others: Reported<16>,
}

impl<P: Platform> Vcpu<P> {
    /// The vCPU `id` of `vm`; nothing of it runs before its first exit, which is
    /// [`ExitKind::Startup`].
    pub fn new(vm: &'static Vm, id: u32, state: StatePage, platform: P) -> Vcpu<P> {
        Vcpu {
            vm,
            platform,
            state,
            id,
            on: false,
            leaving: false,
            halted: false,
            gic_control: 0,
            wide: Wide::default(),
            reported_registers: Reported::new(),
            reported_pages: Reported::new(),
            reported_others: Reported::new(),
        }
    }

    /// Answers an exit: `words` is the kernel's message; returns the groups that changed.
    #[inline]
    pub fn exit(&mut self, words: &Words) -> Groups {
        use ExitKind as K;
        if self.vm.stopped.load(Ordering::Relaxed) {
            return self.park();
        }
        match exit_kind(words[0]) {
            Some(K::Kick) => self.kick(words[1]),
            Some(K::VirtualTimer) => self.virtual_timer(),
            Some(K::StageTwoFault) => self.stage_two_fault(words),
            Some(K::SystemRegister) => self.system_register(words[1] as u32),
            Some(K::Halt) => self.halt(instruction(words)),
            Some(K::InterruptController) => self.interrupt_controller(),
            Some(K::Hypercall) => self.firmware_call(words[1]),
            Some(K::FirmwareCall) => self.skip(instruction(words)) | self.firmware_call(words[1]),
            Some(K::Pause) => {
                self.platform.give_way();
                self.skip(instruction(words))
            }
            Some(K::Startup) => self.startup(),
            Some(K::Other) => self.other(words[1] as u32),
            Some(K::InvalidState) => self.broken("the processor refuses the guest's state", words),
            Some(_) => self.broken("an exit that is not handled", words),
            None => self.broken("an exit of unknown kind", words),
        }
    }

    /// Moves on behind the instruction that caused the exit.
    #[inline]
    fn skip(&mut self, length: u64) -> Groups {
        self.state.set_pc(self.state.pc().wrapping_add(length));
        let pstate = self.state.pstate();
        match syndrome::after_instruction(pstate) {
            next if next == pstate => Groups::PC,
            next => {
                self.state.set_pstate(next);
                Groups::PC | Groups::PSTATE
            }
        }
    }

    /// An exception that nothing is emulated for.
    #[cold]
    fn other(&mut self, esr: u32) -> Groups {
        let class = syndrome::class(esr);
        if self.reported_others.first(class) {
            log::info!(
                "the guest gets an exception of class {class:#x} (syndrome {esr:#x}), pc {:#x}",
                self.state.pc()
            );
        }
        let exception = match class {
            syndrome::class::SERROR => {
                self.state.set_controls(CONTROL_SERROR);
                return Groups::CONTROLS;
            }
            syndrome::class::DATA_ABORT_LOWER => {
                Exception::DataAbort { write: esr & syndrome::WNR != 0, address: None }
            }
            syndrome::class::INSTRUCTION_ABORT_LOWER => Exception::PrefetchAbort { address: None },
            _ => Exception::Undefined,
        };
        exception::inject(&mut self.state, exception)
    }

    /// Injects an exception at the instruction that caused an exit of a kind that can be widened.
    #[cold]
    fn exception(&mut self, kind: ExitKind, exception: Exception) -> Groups {
        if self.wide.contains(kind) {
            return exception::inject(&mut self.state, exception);
        }
        self.wide.insert(kind, &mut self.platform);
        Groups::empty()
    }

    /// Ends the VM.
    #[cold]
    fn stop(&mut self, reason: StopReason) -> Groups {
        let vm = self.vm;
        end(&mut self.platform, &vm.stopped, self.id, vm.vcpus, reason);
        self.park()
    }

    /// Halts the vCPU until it is kicked.
    fn park(&mut self) -> Groups {
        self.state.set_controls(CONTROL_HALT);
        self.state.set_deadline(u64::MAX);
        Groups::CONTROLS | Groups::DEADLINE
    }

    #[cold]
    fn broken(&mut self, what: &str, words: &Words) -> Groups {
        log::error!(
            "{what}: {:#x} {:#x} {:#x} {:#x}; vCPU {} pc {:#x} pstate {:#x} sctlr {:#x}",
            words[0],
            words[1],
            words[2],
            words[3],
            self.id,
            self.state.pc(),
            self.state.pstate(),
            self.state.sctlr_el1()
        );
        self.stop(StopReason::MonitorError)
    }
}
