//! AMD-V: guests with nested paging and ASIDs.
//!
//! VMLOAD and VMSAVE switch what VMRUN does not, on every exit: the kernel needs its own GS base and task
//! register before the next NMI.

mod exit;
mod guest;
mod host;
mod maps;
mod vmcb;

use abi::vcpu::ExitKind;

use super::super::speculation::overwrite_buffers;
use super::cpu::{CpuId, CpuVirt, Host, VcpuId};
use super::debug::DebugRegisters;
use super::event::{self, Event};
use super::state::{self, StatePage};
use super::{Exit, GuestRoot, HostPhys, KernelPage, Leave, Outcome, Passage, fpu};
use vmcb::{Clean, Intercepts1, Vmcb};

pub(super) use host::{Capabilities, HostState};

/// What the assembly knows of this backend.
pub(in crate::arch) mod assembly {
    pub(in crate::arch) use super::exit::{IOIO, MSR, NESTED_PAGE_FAULT, TOLD};
    pub(in crate::arch) use super::vmcb::{InterruptControl, Vmcb};
}

/// Interrupt shadow of the VMCB.
const SHADOW: u64 = 1 << 0;
/// DR6.BS.
const DR6_SINGLE_STEP: u64 = 1 << 14;

/// A vCPU under SVM.
pub(super) struct Vcpu {
    vmcb: *mut Vmcb,
    vmcb_phys: HostPhys,
    page: StatePage,
    fpu: fpu::Area,
    capabilities: Capabilities,
    /// PAUSE exits.
    spins_exit: bool,
    /// One of the following makes the next entry longer.
    to_do: bool,
    /// Linear translations are stale, as the monitor changed a register that they depend on.
    flush_linear: bool,
    /// NMIs are blocked: one was delivered, and no IRET came since. The processor does not tell.
    nmi_blocked: bool,
    /// The last entry that was prepared injects one. One that was not is not refused: nothing that the processor checks has
    /// changed.
    injects_nmi: bool,
    /// The monitor waits until they are not.
    nmi_window: bool,
    /// The CPU that may have cached the VMCB.
    cpu: CpuId,
    /// To be injected. Written by `set_pending`.
    pending: Event,
    xcr0: u64,
    tsc_aux: u64,
    debug: DebugRegisters,
}

/// The CPU's host state.
#[inline(always)]
fn host_of(host: &Host) -> &HostState {
    match host {
        Host::Svm(state) => state,
        Host::None | Host::Vmx(_) => unreachable!("a vCPU is of the machine's extension"),
    }
}

impl Vcpu {
    /// # Safety
    ///
    /// As for `VcpuArch::new`.
    pub unsafe fn new(
        capabilities: &Capabilities,
        vmcb: KernelPage,
        fpu: fpu::Area,
        page: StatePage,
    ) -> Vcpu {
        let mut vcpu = Vcpu {
            vmcb: vmcb.virt.0 as *mut Vmcb,
            vmcb_phys: vmcb.phys,
            page,
            fpu,
            capabilities: *capabilities,
            spins_exit: false,
            to_do: true,
            flush_linear: true,
            nmi_blocked: false,
            injects_nmi: false,
            nmi_window: false,
            cpu: CpuId::NONE,
            pending: Event::NONE,
            xcr0: 1,
            tsc_aux: 0,
            debug: DebugRegisters::new(),
        };
        vcpu.initialise();
        vcpu
    }

    #[inline(always)]
    fn id(&self) -> VcpuId {
        self.vmcb_phys.0
    }

    /// The control block.
    #[inline(always)]
    fn vmcb(&mut self) -> &mut Vmcb {
        // SAFETY: `new`'s caller gave the page to this vCPU alone; integers take every bit pattern; the
        // processor and the assembly change it only after `prepare`, over which no reference lives.
        unsafe { &mut *self.vmcb }
    }

    /// The control block, to change `part`.
    #[inline(always)]
    fn change(&mut self, part: Clean) -> &mut Vmcb {
        let vmcb = self.vmcb();
        vmcb.clean.remove(part);
        vmcb
    }

    /// Loads what threads share with the guest.
    fn load_registers(&mut self, cpu: &mut CpuVirt) {
        assert!(cpu.loaded == 0, "a vCPU was not suspended");
        if self.cpu != cpu.id {
            self.come_to(cpu);
        }
        cpu.loaded = self.id();
        cpu.fpu.own(self.fpu, self.xcr0);
        cpu.load_tsc_aux(self.tsc_aux);
        self.debug.load();
    }

    #[cold]
    fn come_to(&mut self, cpu: &CpuVirt) {
        assert!(self.cpu == CpuId::NONE, "the vCPU is still on another CPU");
        self.cpu = cpu.id;
        self.vmcb().clean = Clean::empty();
        self.set_flush();
    }

    #[inline(never)]
    pub fn suspend(&mut self, cpu: &mut CpuVirt) {
        if cpu.loaded != self.id() {
            return;
        }
        cpu.loaded = 0;
        self.xcr0 = cpu.fpu.escaped_xcr0(self.xcr0);
        cpu.restore_registers(self.fpu);
        if self.debug.is_loaded() {
            let dr7 = self.vmcb().dr7;
            if self.debug.store(state::dr7_active(dr7)) {
                self.change(Clean::INTERCEPTS).intercept_dr = vmcb::ALL_DEBUG_REGISTERS;
            }
        }
    }

    pub fn leave_cpu(&mut self, cpu: &mut CpuVirt) {
        if self.cpu != cpu.id {
            return;
        }
        self.suspend(cpu);
        cpu.fpu.disown(self.fpu);
        self.cpu = CpuId::NONE;
    }

    /// Makes everything ready for guest mode; or the exit to be told instead. `passage` learns what the assembly needs.
    pub fn prepare(
        &mut self,
        cpu: &mut CpuVirt,
        space: &GuestRoot,
        spins_exit: bool,
        passage: &mut Passage,
    ) -> Option<Outcome> {
        if cpu.loaded != self.id() {
            self.load_registers(cpu);
        }
        if self.spins_exit != spins_exit {
            self.set_spins_exit(spins_exit);
        }
        if space.flush {
            self.set_space(space);
        }
        self.injects_nmi = false;
        if self.to_do
            && let Some(exit) = self.prepare_more(cpu, space)
        {
            return Some(exit);
        }
        passage.host = host_of(&cpu.host).saved.0;
        passage.next_rip = self.capabilities.next_rip;
        passage.clean = match self.capabilities.clean_bits {
            true => Clean::all().bits(),
            false => 0,
        };
        None
    }

    /// Whether the next entry has to come by [`Vcpu::prepare`] though nothing happens before it.
    #[inline(always)]
    pub fn is_special(&self, cpu: &CpuVirt) -> bool {
        self.to_do || self.spins_exit || cpu.loaded != self.id()
    }

    /// How guest mode was left.
    pub fn left(&mut self, cpu: &mut CpuVirt) -> Outcome {
        let interrupted = Event(self.vmcb().exit_interrupted);
        if !interrupted.is_none() {
            self.note_interrupted(Event::from_processor(interrupted.0));
        }
        let next_rip = self.capabilities.next_rip;
        let leave = exit::decode(self.vmcb(), next_rip);
        self.outcome(leave, cpu)
    }

    /// What the next entry needs and most do not.
    #[cold]
    fn prepare_more(&mut self, cpu: &CpuVirt, space: &GuestRoot) -> Option<Outcome> {
        if self.flush_linear {
            self.set_space(space);
        }
        if self.nmi_window && self.nmi_can_be_taken() {
            let kind = ExitKind::NmiWindow;
            return Some(Outcome::Exit(Exit {
                kind,
                instruction_length: 0,
                info: [0; 3],
            }));
        }
        if let Some(event) = self.pending.injectable() {
            self.vmcb().inject = event;
            self.injects_nmi = self.pending.is_nmi();
            if self.injects_nmi {
                self.set_nmi_blocked(true);
            }
        }
        self.pending = Event::NONE;
        self.to_do = self.nmi_window || cpu.overwrites_buffers;
        if cpu.overwrites_buffers {
            overwrite_buffers();
        }
        None
    }

    fn outcome(&mut self, leave: Leave, cpu: &CpuVirt) -> Outcome {
        match leave {
            Leave::Exit(exit) => {
                if exit.kind == ExitKind::InvalidState {
                    self.refused();
                }
                Outcome::Exit(exit)
            }
            Leave::Write(exit) => Outcome::Write(exit),
            Leave::InterruptPending => Outcome::HostInterrupt { vector: None },
            // STGI has let its handler run.
            Leave::Nmi => Outcome::HostNmi { call: false },
            Leave::MachineCheck => Outcome::HostMachineCheck,
            Leave::Exception(exception) => {
                // If it was raised while an interrupt or NMI was delivered, that is delivered again instead.
                // DR6 and DR7 in the VMCB are as the handler is to see them (AMD APM 2 15.12.2).
                if !self.pending.is_external() {
                    self.set_pending(exception);
                }
                Outcome::Resume
            }
            Leave::DebugRegisters => {
                self.activate_debug(cpu);
                Outcome::Resume
            }
            Leave::Iret => {
                // The window opens here, before IRET, not after it. That is early, but no guest
                // that bears NMIs in exceptions' IRETs can tell.
                self.set_nmi_blocked(false);
                Outcome::Resume
            }
            Leave::Interrupt(_) => unreachable!("VMX only"),
        }
    }

    /// The processor refused the state: it may not have flushed what it was to flush, and what was to be injected is gone.
    #[cold]
    fn refused(&mut self) {
        self.vmcb().clean = Clean::empty();
        self.set_flush();
        if self.injects_nmi {
            self.set_nmi_blocked(false);
        }
    }

    /// Ports only: of a write to memory, the processor says neither length nor next instruction (AMD APM 2 15.7.1). Returns
    /// whether the next entry has to come by [`Vcpu::prepare`] for that, to raise the #DB of a single step.
    pub fn skip_write(&mut self, exit: &Exit) -> bool {
        let vmcb = self.vmcb();
        vmcb.rip = vmcb.rip.wrapping_add(u64::from(exit.instruction_length));
        vmcb.interrupt_shadow = 0;
        let steps = vmcb.rflags & state::RFLAGS_TF != 0;
        if steps {
            self.trap_step();
        }
        steps
    }

    #[cold]
    fn trap_step(&mut self) {
        self.change(Clean::DRX).dr6 |= DR6_SINGLE_STEP;
        self.set_pending(Event::exception(event::DB, None));
    }

    /// Has the next entry use a guest space, and drop what is cached for it if needed.
    #[cold]
    fn set_space(&mut self, space: &GuestRoot) {
        let flush = space.flush || self.flush_linear;
        self.flush_linear = false;
        let how = match (flush, self.capabilities.flush_by_asid) {
            (false, _) => vmcb::TLB_KEEP,
            (true, true) => vmcb::TLB_FLUSH_ASID,
            (true, false) => vmcb::TLB_FLUSH_ALL,
        };
        let vmcb = self.change(Clean::ASID | Clean::NESTED);
        vmcb.nested_cr3 = space.root.0;
        vmcb.asid = u32::from(space.tag);
        vmcb.tlb_control = how;
    }

    /// Has the next entry inject an event.
    fn set_pending(&mut self, event: Event) {
        self.pending = event;
        self.to_do = true;
    }

    /// Has the next entry drop linear translations.
    fn set_flush(&mut self) {
        self.flush_linear = true;
        self.to_do = true;
    }

    /// Keeps the event whose delivery the exit interrupted, to be injected again.
    #[cold]
    fn note_interrupted(&mut self, event: Event) {
        self.set_pending(event);
        if event.is_nmi() {
            self.set_nmi_blocked(false);
        }
    }

    fn nmi_can_be_taken(&mut self) -> bool {
        !self.nmi_blocked && self.pending.is_none() && self.vmcb().interrupt_shadow & SHADOW == 0
    }

    /// Whether PAUSE exits.
    #[cold]
    fn set_spins_exit(&mut self, on: bool) {
        self.spins_exit = on;
        self.change(Clean::INTERCEPTS)
            .intercepts1
            .set(Intercepts1::PAUSE, on);
    }

    /// While NMIs are blocked, IRET exits, to end it.
    fn set_nmi_blocked(&mut self, blocked: bool) {
        self.nmi_blocked = blocked;
        self.change(Clean::INTERCEPTS)
            .intercepts1
            .set(Intercepts1::IRET, blocked);
    }

    /// Gives the guest the debug registers.
    #[cold]
    fn activate_debug(&mut self, cpu: &CpuVirt) {
        self.debug.activate();
        self.change(Clean::INTERCEPTS).intercept_dr = 0;
        if cpu.loaded == self.id() {
            self.debug.load();
        }
    }
}
