//! The x86 part of a vCPU, over the virtualisation extension in use.

use super::tags::{GuestTag, GuestTags};
use super::virt::{self, GuestRoot, Outcome};
use super::{entry, traps};
use crate::cpu::Cpu;
use crate::mem::KernelPage;
use crate::space::Space;
use crate::vcpu::Exit;
use abi::boot::Virtualization;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups, VcpuState};

/// Pages that a vCPU takes beside its own and its state page; `None` without virtualisation.
pub fn pages_per_vcpu() -> Option<usize> {
    (super::virtualization() != Virtualization::None).then(virt::pages_per_vcpu)
}

/// What the monitor asked for in its reply.
pub struct VcpuReply {
    /// Do not run until a kick or the deadline.
    pub halt: bool,
    /// The new deadline, if it changed.
    pub deadline: Option<u64>,
}

/// Registers and control structure of a vCPU.
pub struct VcpuArch {
    tag: GuestTag,
    state: *mut VcpuState,
    inner: virt::VcpuArch,
}

impl VcpuArch {
    /// A vCPU in `pages`, with its state page.
    pub fn new(pages: &[KernelPage], state: KernelPage) -> VcpuArch {
        let state = state.virt.0 as *mut VcpuState;
        // SAFETY: the pages are fresh, the vCPU's alone, and live as long as it does.
        let inner = unsafe { virt::VcpuArch::new(pages, state) };
        VcpuArch { tag: GuestTag::default(), state, inner }
    }

    /// Enters guest mode; `None`: an interrupt of the host ended it, which has been handled.
    pub fn run(&mut self, cpu: &Cpu, guest: &Space) -> Option<Exit> {
        let tag = &mut self.tag;
        let flush = cpu.arch.guest_tags.with_mut(|tags: &mut GuestTags| tags.renew(tag));
        let root = GuestRoot { root: guest.table.root(), tag: tag.tag, flush };
        match cpu.arch.virt.with_mut(|virt| self.inner.enter(virt, &root)) {
            Outcome::Exit(exit) => Some(exit),
            Outcome::HostInterrupt { vector: Some(vector) } => {
                traps::handle(cpu, vector);
                None
            }
            Outcome::HostInterrupt { vector: None } => {
                entry::take_interrupts();
                None
            }
            Outcome::HostNmi | Outcome::Resume => None,
        }
    }

    /// Writes the groups in `groups` to the state page.
    pub fn save(&mut self, groups: u64) {
        self.inner.save(Groups::from_bits_truncate(groups));
    }

    /// Takes the groups in `groups` from the state page.
    pub fn load(&mut self, groups: u64) -> VcpuReply {
        let groups = Groups::from_bits_truncate(groups);
        self.inner.load(groups);
        // SAFETY: the state page is the vCPU's; the monitor writes to it too, so each field is read once.
        let read = |field: *const u64| unsafe { field.read_volatile() };
        // SAFETY: field addresses within the page.
        let (controls, deadline) =
            unsafe { (&raw const (*self.state).controls, &raw const (*self.state).deadline) };
        VcpuReply {
            halt: groups.contains(Groups::EVENTS) && read(controls) & CONTROL_HALT != 0,
            deadline: groups.contains(Groups::DEADLINE).then(|| read(deadline)),
        }
    }

    /// Takes the vCPU off this CPU, before it ends.
    pub fn leave_cpu(&mut self, cpu: &Cpu) {
        cpu.arch.virt.with_mut(|virt| self.inner.leave_cpu(virt));
    }
}
