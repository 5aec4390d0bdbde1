//! The x86 part of a vCPU, over the virtualisation extension in use.

use super::tags::{GuestTag, GuestTags};
use super::virt::{self, GuestRoot, Outcome};
use super::{CpuArch, clock, entry, exits, traps};
use crate::cell::Ref;
use crate::cpu::Cpu;
use crate::latency;
use crate::mem::KernelPage;
use crate::space::Space;
use crate::vcpu::{Exit, Vcpu};
use abi::boot::Virtualization;
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups, VcpuState};

/// Pages that a vCPU takes beside its own and its state page; `None` without virtualisation.
pub fn pages_per_vcpu() -> Option<usize> {
    (super::virtualization() != Virtualization::None).then(virt::pages_per_vcpu)
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

/// Offsets from a vCPU's address, for the fast path.
pub mod offset {
    use super::super::{tags, virt};
    use super::VcpuArch;
    use crate::vcpu::Vcpu;
    use core::mem::offset_of;

    const ARCH: usize = offset_of!(Vcpu, arch);
    /// The generation of its tag.
    pub const TAG_GENERATION: usize = ARCH + offset_of!(VcpuArch, tag) + tags::GENERATION;
    /// What else assembly uses.
    pub const PASSAGE: usize = ARCH + offset_of!(VcpuArch, inner) + virt::PASSAGE;
    /// What makes the next entry one for the general path.
    pub const TO_DO: usize = ARCH + offset_of!(VcpuArch, inner) + virt::TO_DO;
    /// The part of VMX.
    pub const VMX: u64 = (ARCH + offset_of!(VcpuArch, inner) + virt::BACKEND) as u64;
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

    /// Enters guest mode until something ends it, which leads to [`traps::guest_left`]. The vCPU is the one in
    /// `cpu.arch.guest`.
    ///
    /// Returns what is to be told first, without having been there.
    pub fn enter(&mut self, cpu: &Cpu, guest: &Space) -> Option<Exit> {
        let tag = &mut self.tag;
        let flush = cpu.arch.guest_tags.with_mut(|tags: &mut GuestTags| tags.renew(tag));
        let root = GuestRoot { root: guest.table.root(), tag: tag.tag, flush };
        // Who spins gives way, if there is anybody to give way to.
        let spins_exit = cpu.is_contended();
        let virt = &cpu.arch.virt;
        let prepared = virt.with_mut(|virt| self.inner.prepare(virt, &root, spins_exit));
        let Some(extension) = prepared else {
            return Some(Exit { kind: ExitKind::NmiWindow, instruction_length: 0, info: [0; 3] });
        };
        latency::leave();
        // SAFETY: just prepared; the caller needs nothing on the stack any more.
        unsafe { exits::enter(extension) }
    }

    /// How guest mode was left; with `failed`, the processor did not enter it.
    pub fn left(&mut self, cpu: &Cpu, failed: bool) -> Outcome {
        let virt = &cpu.arch.virt;
        virt.with_mut(|virt| self.inner.left(virt, failed))
    }

    /// Gives threads what they cannot do without, while the vCPU stays loaded for its monitor.
    pub fn lend(&mut self, cpu: &CpuArch) {
        cpu.virt.with_mut(|virt| self.inner.lend(virt));
    }

    /// Has the guest go on after the write that `exit` tells, with which it has just left; `false` if the
    /// processor does not say where.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        self.inner.skip_write(exit)
    }

    /// Gives the registers that guests and threads share back to threads.
    pub fn suspend(&mut self, cpu: &CpuArch) {
        cpu.virt.with_mut(|virt| self.inner.suspend(virt));
    }

    /// Writes the groups in `groups` to the state page.
    pub fn save(&mut self, cpu: &Cpu, groups: u64) {
        let groups = Groups::from_bits_truncate(groups);
        cpu.arch.virt.with_mut(|virt| self.inner.save(virt, groups));
    }

    /// Takes the groups in `groups` from the state page.
    pub fn load(&mut self, cpu: &Cpu, groups: u64) -> VcpuReply {
        let groups = Groups::from_bits_truncate(groups);
        cpu.arch.virt.with_mut(|virt| self.inner.load(virt, groups));
        // SAFETY: the state page is the vCPU's; the monitor writes to it too, so each field is read once.
        let read = |field: *const u64| unsafe { field.read_volatile() };
        // SAFETY: field addresses within the page.
        let (controls, deadline) =
            unsafe { (&raw const (*self.state).controls, &raw const (*self.state).deadline) };
        VcpuReply {
            halt: groups.contains(Groups::EVENTS) && read(controls) & CONTROL_HALT != 0,
            deadline: groups.contains(Groups::DEADLINE).then(|| read(deadline)),
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

    /// Takes the vCPU off this CPU, before it ends or goes to another one.
    pub fn leave_cpu(&mut self, cpu: &Cpu) {
        self.tag = GuestTag::default();
        cpu.arch.virt.with_mut(|virt| self.inner.leave_cpu(virt));
    }
}
