//! AMD-V: guests with nested paging and ASIDs.
//!
//! VMLOAD and VMSAVE switch what VMRUN does not, on every exit: the kernel needs its own GS base and task
//! register before the next NMI.

pub(in crate::arch) mod exit;
mod guest;
mod host;
mod maps;
pub(in crate::arch) mod vmcb;

use abi::vcpu::ExitKind;

use super::super::speculation::overwrite_buffers;
use super::common::Common;
use super::cpu::{CpuId, CpuVirt};
use super::event::{self, Event};
use super::{Exit, HostPhys, KernelPage, Leave, Outcome, state};
use vmcb::{Intercepts1, Vmcb};

pub(super) use host::{Capabilities, enable};
pub(super) use vmcb::Clean;

/// Interrupt shadow of the VMCB.
const SHADOW: u64 = 1 << 0;
/// DR6.BS.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// A vCPU under SVM.
#[repr(C)]
pub(super) struct Vcpu {
    pub common: Common,
    pub vmcb: *mut Vmcb,
    pub capabilities: Capabilities,
    /// What the clean bits are after an exit.
    pub clean: Clean,
    /// Where its CPU has its host state ([`CpuVirt::saved`]).
    pub host: HostPhys,
    /// NMIs are blocked: one was delivered, and no IRET came since. The processor does not tell.
    nmi_blocked: bool,
    /// The last entry that was prepared injects one. One that was not is not refused: nothing that the processor checks has
    /// changed.
    injects_nmi: bool,
    /// The monitor waits until they are not.
    nmi_window: bool,
}

impl Vcpu {
    /// # Safety
    ///
    /// As for `VcpuArch::from_pages`.
    pub unsafe fn new(capabilities: Capabilities, vmcb: KernelPage, common: Common) -> Vcpu {
        let mut vcpu = Vcpu {
            common,
            vmcb: vmcb.virt.0 as *mut Vmcb,
            capabilities,
            clean: if capabilities.clean_bits { Clean::all() } else { Clean::empty() },
            host: HostPhys(0),
            nmi_blocked: false,
            injects_nmi: false,
            nmi_window: false,
        };
        vcpu.initialise();
        vcpu
    }

    /// The control block.
    #[inline(always)]
    pub fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: `new`'s caller gave the page to this vCPU alone; integers take every bit pattern; the
        // processor and the assembly change it only after `prepare`, over which no reference lives.
        unsafe { &mut *self.vmcb }
    }

    /// The control block, to change `part`.
    #[inline(always)]
    pub fn change(&mut self, part: Clean) -> &mut Vmcb {
        let vmcb = self.vmcb();
        vmcb.clean.remove(part);
        vmcb
    }

    /// Comes to a CPU, if it is not there.
    #[inline(always)]
    pub fn come_to(&mut self, cpu: &CpuVirt) {
        if self.common.cpu != cpu.id {
            self.come_now(cpu);
        }
    }

    #[cold]
    fn come_now(&mut self, cpu: &CpuVirt) {
        let on = &mut self.common.cpu;
        assert!(*on == CpuId::NONE, "the vCPU is still on another CPU");
        *on = cpu.id;
        self.vmcb().clean = Clean::empty();
        self.common.set_flush();
        self.host = cpu.saved;
    }

    /// Makes everything ready for guest mode; `false` if the NMI window is to be told instead.
    pub fn prepare(&mut self, cpu: &CpuVirt, root: HostPhys, flush: bool) -> bool {
        if flush {
            self.set_space(root);
        }
        self.injects_nmi = false;
        !self.common.to_do || self.prepare_more(cpu, root)
    }

    /// How guest mode was left.
    pub fn left(&mut self) -> Leave {
        let interrupted = Event(self.vmcb().exit_interrupted);
        if !interrupted.is_none() {
            self.note_interrupted(Event::from_processor(interrupted.0));
        }
        let next_rip = self.capabilities.next_rip;
        let leave = exit::decode(self.vmcb(), next_rip);
        if let Leave::Ended(Outcome::Exit(Exit { kind: ExitKind::InvalidState, .. })) = leave {
            self.refused();
        }
        leave
    }

    /// What the next entry needs and most do not.
    #[cold]
    fn prepare_more(&mut self, cpu: &CpuVirt, root: HostPhys) -> bool {
        if self.common.flush_linear {
            self.set_space(root);
        }
        if self.nmi_window && self.nmi_can_be_taken() {
            return false;
        }
        if let Some(event) = self.common.pending.injectable(self.vmcb().cr0) {
            self.vmcb().inject = event;
            self.injects_nmi = self.common.pending.is_nmi();
            if self.injects_nmi {
                self.set_nmi_blocked(true);
            }
        }
        self.common.pending = Event::NONE;
        self.common.to_do = self.nmi_window || self.common.spins_exit || cpu.overwrites_buffers;
        if cpu.overwrites_buffers {
            overwrite_buffers();
        }
        true
    }

    /// The processor refused the state: it may not have flushed what it was to flush, and what was to be injected is gone.
    #[cold]
    fn refused(&mut self) {
        self.vmcb().clean = Clean::empty();
        self.common.set_flush();
        if self.injects_nmi {
            self.set_nmi_blocked(false);
        }
    }

    /// Ports only: of a write to memory, the processor says neither length nor next instruction (AMD APM 2 15.7.1).
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        let vmcb = self.vmcb();
        vmcb.rip = vmcb.rip.wrapping_add(u64::from(exit.instruction_length));
        vmcb.interrupt_shadow = 0;
        if vmcb.rflags & state::RFLAGS_TF != 0 {
            self.trap_step();
        }
        true
    }

    #[cold]
    fn trap_step(&mut self) {
        self.change(Clean::DRX).dr6 |= DR6_SINGLE_STEP;
        self.common.set_pending(Event::exception(event::DB, None));
    }

    /// Has the next entry use a guest space, and drop what is cached for it.
    #[cold]
    fn set_space(&mut self, root: HostPhys) {
        self.common.flush_linear = false;
        let how = match self.capabilities.flush_by_asid {
            true => vmcb::TLB_FLUSH_ASID,
            false => vmcb::TLB_FLUSH_ALL,
        };
        let tag = self.common.tag.tag;
        let vmcb = self.change(Clean::ASID | Clean::NESTED);
        vmcb.nested_cr3 = root.0;
        vmcb.asid = u32::from(tag);
        vmcb.tlb_control = how;
    }

    /// Keeps the event whose delivery the exit interrupted, to be injected again.
    #[cold]
    fn note_interrupted(&mut self, event: Event) {
        self.common.set_pending(event);
        if event.is_nmi() {
            self.set_nmi_blocked(false);
        }
    }

    fn nmi_can_be_taken(&mut self) -> bool {
        !self.nmi_blocked
            && self.common.pending.is_none()
            && self.vmcb().interrupt_shadow & SHADOW == 0
    }

    /// While NMIs are blocked, IRET exits, to end it.
    pub fn set_nmi_blocked(&mut self, blocked: bool) {
        self.nmi_blocked = blocked;
        self.change(Clean::INTERCEPTS).intercepts1.set(Intercepts1::IRET, blocked);
    }
}
