//! The x86 part of a vCPU, over the virtualisation extension in use.

use super::virt::{Outcome, PAGES_PER_VCPU, VcpuArch};
use super::{clock, entry, exits, traps};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::latency;
use crate::mem::KernelPage;
use crate::space::Space;
use crate::vcpu::{Exit, Vcpu};
use abi::boot::Virtualization;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::Groups;

/// Pages that a vCPU takes beside its own and its state page; `None` without virtualisation.
pub fn pages_per_vcpu() -> Option<usize> {
    (super::virtualization() != Virtualization::None).then_some(PAGES_PER_VCPU)
}

/// The timer's interrupt may have been lost (`apic::look_again`); it is due all the same.
#[inline(always)]
pub fn look_at_timer(cpu: &Cpu) {
    if cpu.timer_is_due(clock::now()) {
        cpu.timer_fired();
    }
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

/// Does what ended guest mode, if it was the host's; the exit for the monitor otherwise. Interrupts can end any
/// object: nothing that the caller holds is certain to be there after `None`.
#[inline(always)]
pub fn after_guest(cpu: &Cpu, _vcpu: Ref<Vcpu>, outcome: Outcome) -> Option<Exit> {
    match outcome {
        Outcome::Exit(exit) => {
            look_at_timer(cpu);
            return Some(exit);
        }
        Outcome::HostInterrupt(vector) => traps::handle(cpu, vector),
        Outcome::HostNmi => entry::call_nmi(),
        Outcome::HostMachineCheck => {
            crate::panic::fatal(format_args!("machine check while a guest ran"))
        }
        // An exception that is passed on can end in another one before the guest does anything, for ever: then this is the only
        // moment for interrupts.
        Outcome::Resume => super::take_interrupts(cpu),
    }
    None
}

impl VcpuArch {
    /// A vCPU in `pages`, with its state page.
    pub fn new(pages: &[KernelPage], state: KernelPage) -> VcpuArch {
        // SAFETY: the pages are fresh, the vCPU's alone, and live as long as it does.
        unsafe { VcpuArch::from_pages(pages, state) }
    }

    /// Enters guest mode until something ends it, which leads to [`traps::guest_left`]. The vCPU is the one in
    /// `cpu.arch.guest`.
    ///
    /// Returns what is to be told first, without having been there.
    pub fn enter(&mut self, cpu: &Cpu, guest: &Space) -> Option<Exit> {
        let (virt, tags, root) = (&cpu.arch.virt, &cpu.arch.guest_tags, guest.table.root());
        // Who spins gives way, if there is anybody to give way to.
        let spins_exit = cpu.is_contended();
        let prepared =
            virt.with_mut(|virt| tags.with_mut(|tags| self.prepare(virt, tags, root, spins_exit)));
        let Some(extension) = prepared else {
            return Some(Exit { kind: ExitKind::NmiWindow, instruction_length: 0, info: [0; 3] });
        };
        latency::leave();
        // SAFETY: just prepared; the caller needs nothing on the stack any more.
        unsafe { exits::enter(extension) }
    }

    /// Writes the groups in `groups` to the state page.
    pub fn save(&mut self, cpu: &Cpu, groups: u64) {
        let groups = Groups::from_bits_truncate(groups);
        cpu.arch.virt.with_mut(|virt| self.save_groups(virt, groups));
    }

    /// Takes the groups in `groups` from the state page.
    pub fn load(&mut self, cpu: &Cpu, groups: u64) -> VcpuReply {
        let groups = Groups::from_bits_truncate(groups);
        cpu.arch.virt.with_mut(|virt| self.load_groups(virt, groups));
        let (halt, deadline) = self.asked(groups);
        VcpuReply { halt, deadline, timer: false }
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

    /// Takes the vCPU off this CPU, before it ends or goes to another one.
    pub fn leave_cpu(&mut self, cpu: &Cpu) {
        cpu.arch.virt.with_mut(|virt| self.leave(virt));
    }
}
