//! A vCPU that leaves guest mode when it is told to.

use super::CpuArch;
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::doorbell;
use crate::mem::KernelPage;
use crate::space::Space;
use crate::thread::Thread;
use crate::vcpu::{Exit, Vcpu};
use abi::vcpu::x86_64::{CONTROL_HALT, Groups, VcpuState};
use abi::vcpu::{ExitKind, FAULT_WRITE};
use core::mem::offset_of;
use core::sync::atomic::Ordering;

/// Word of the state page that holds the controls.
pub const CONTROLS: usize = offset_of!(VcpuState, controls) / 8;
/// Word of the state page that holds the deadline.
pub const DEADLINE: usize = offset_of!(VcpuState, deadline) / 8;

/// How guest mode ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Tell the monitor.
    Exit(Exit),
    /// Tell the monitor, if no doorbell is there.
    Write(Exit),
}

/// The exit for the monitor, if it is one.
pub fn after_guest(cpu: &Cpu, vcpu: Ref<Vcpu>, outcome: Outcome) -> Option<Exit> {
    match outcome {
        Outcome::Exit(exit) => Some(exit),
        Outcome::Write(exit) => (!doorbell::ring(cpu, vcpu, &exit)).then_some(exit),
    }
}

/// Pages that a vCPU takes beside its own and its state page.
pub fn pages_per_vcpu() -> Option<usize> {
    Some(2)
}

/// What the monitor asked for in its reply.
pub struct VcpuReply {
    /// Do not run until a kick or the deadline.
    pub halt: bool,
    /// The new deadline, if it changed.
    pub deadline: Option<u64>,
    /// A timer of the vCPU's own may have changed.
    pub timer: bool,
}

/// The architecture's part of a vCPU.
pub struct VcpuArch {
    state: KernelPage,
    /// The exit that ends its next stay in guest mode at once.
    pub next_exit: Option<Exit>,
    /// How guest mode has ended, if the guest would not run on.
    pub left: Option<Outcome>,
    /// How often guest mode was entered.
    pub entries: u64,
    /// Groups of the last exit.
    pub saved: u64,
    /// Bytes of writes that the guest went on after.
    pub skipped: u64,
    /// Whether it holds registers of the CPU.
    pub resident: bool,
}

impl VcpuArch {
    /// A vCPU with its state page.
    pub fn new(_pages: &[KernelPage], state: KernelPage) -> VcpuArch {
        VcpuArch {
            state,
            next_exit: None,
            left: None,
            entries: 0,
            saved: 0,
            skipped: 0,
            resident: false,
        }
    }

    /// Enters guest mode, which has ended when it comes back, as `left` says.
    pub fn enter(&mut self, cpu: &Cpu, _guest: &Space) -> Option<Exit> {
        self.entries += 1;
        if !self.resident {
            cpu.arch.residents.fetch_add(1, Ordering::SeqCst);
        }
        self.resident = true;
        self.left = self.next_exit.take().map(|exit| match exit.kind {
            ExitKind::StageTwoFault if exit.info[0] & FAULT_WRITE != 0 => Outcome::Write(exit),
            ExitKind::Io if exit.info[0] >> 24 & 3 == 0 => Outcome::Write(exit),
            _ => Outcome::Exit(exit),
        });
        None
    }

    /// Has the guest go on after a write, if its length is known.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        self.skipped += u64::from(exit.instruction_length);
        exit.instruction_length != 0
    }

    /// Gives back the registers that guests and threads share.
    pub fn suspend(&mut self, _cpu: &CpuArch) {}

    /// Notes the groups.
    pub fn save(&mut self, _cpu: &Cpu, groups: u64) {
        self.saved = groups;
    }

    /// Takes the monitor's reply from the state page.
    pub fn load(&mut self, _cpu: &Cpu, groups: u64) -> VcpuReply {
        let groups = Groups::from_bits_truncate(groups);
        VcpuReply {
            halt: groups.contains(Groups::EVENTS) && self.state.read(CONTROLS) & CONTROL_HALT != 0,
            deadline: groups.contains(Groups::DEADLINE).then(|| self.state.read(DEADLINE)),
            timer: false,
        }
    }

    /// When a timer of the vCPU's own fires that nobody looks after: there is none.
    pub fn timer_deadline(&self) -> Option<u64> {
        None
    }

    /// Looks at the vCPU's own timer.
    pub fn look_at_timer(&mut self, _now: u64) {}

    /// Whether the monitor has to be told something though the guest does not run: never.
    pub fn has_event(&self) -> bool {
        false
    }

    /// Takes the vCPU off its CPU.
    pub fn leave_cpu(&mut self, cpu: &Cpu) {
        if self.resident {
            cpu.arch.residents.fetch_sub(1, Ordering::SeqCst);
        }
        self.resident = false;
    }
}

/// Gives `handler` the message of an exit.
pub fn deliver(_cpu: &Cpu, handler: Ref<Thread>, identity: u64, words: [u64; 4]) {
    handler.with_frame(|frame| {
        frame.receive(identity, 0, 0);
        frame.set_message(&[words[0], words[1], words[2], words[3], 0, 0, 0, 0]);
    });
}
