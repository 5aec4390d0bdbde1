//! A vCPU: answers to its exits.
//!
//! [`Vcpu::exit`] takes the message of an exit and returns the groups of state that it changed in the state
//! page. It runs on the handler thread of the vCPU's CPU, so that a vCPU's state needs no lock; what the vCPUs of a
//! VM share is atomic, or locked for moments. What it needs of the outside is a [`Platform`].

mod access;
mod control;
mod events;
mod msrs;
mod power;
mod startup;
#[cfg(test)]
mod tests;

use crate::arch::x86_64::apic::local::LocalApic;
use crate::arch::x86_64::cpuid::Dynamic;
use crate::arch::x86_64::instruction::fetch::code_bits;
use crate::arch::x86_64::msr::{KEPT, Kept};
use crate::arch::x86_64::paging::Paging;
use crate::arch::x86_64::state::StatePage;
use crate::arch::x86_64::vm::Vm;
use crate::once::Reported;
use crate::platform::{Platform, end};
use crate::wide::Wide;
use abi::vcpu::x86_64::{
    CONTROL_HALT, CONTROL_INTERRUPT_WINDOW, CONTROL_NMI_WINDOW, EVENT_ERROR, EVENT_EXCEPTION,
    EVENT_VALID, Groups, RAX, RBX, RCX, RDX, SHADOW_NMI,
};
use abi::vcpu::{ExitKind, exit_kind, instruction_length};
use core::sync::atomic::Ordering;
use guest_linux_shim::kvm;
use rt::ipc::Words;
use rt::protocol::supervisor::StopReason;

/// Exception vectors.
mod vector {
    pub const UD: u8 = 6;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
}

/// A vCPU.
#[derive(Debug)]
pub struct Vcpu<P> {
    vm: &'static Vm,
    platform: P,
    state: StatePage,
    id: u32,
    apic: LocalApic,
    /// Guest's TSC minus the machine's.
    tsc_offset: u64,
    /// Guest's TSC when its system time was 0.
    clock_origin: u64,
    tsc_aux: u64,
    /// The deadline that the kernel has, in ticks of the machine.
    deadline: u64,
    kept: [u64; KEPT],
    /// Value of the system time MSR.
    system_time: u64,
    clock_version: u32,
    wall_clock: u64,
    wall_version: u32,
    /// Value of the PV EOI MSR.
    pv_eoi: u64,
    /// The guest may end the interrupt in service by clearing the word that `pv_eoi` names.
    pv_eoi_armed: bool,
    /// In HLT until an interrupt.
    halted: bool,
    /// Waits for a start-up message after INIT.
    waiting: bool,
    /// Not counted in [`Vm::alive`].
    asleep: bool,
    nmi_pending: bool,
    /// As far as known: NMIs are blocked until IRET.
    nmi_blocked: bool,
    /// Exits at the next chance for an interrupt were asked for.
    window: bool,
    wide: Wide,
    reported_msrs: Reported<64>,
    reported_ports: Reported<64>,
    reported_pages: Reported<64>,
}

impl<P: Platform> Vcpu<P> {
    /// The vCPU `id` of `vm`; nothing of it runs before its first exit, which is
    /// [`ExitKind::Startup`].
    pub fn new(vm: &'static Vm, id: u32, state: StatePage, platform: P) -> Vcpu<P> {
        let apic = LocalApic::new(id);
        vm.mailbox(id).publish(apic.address());
        Vcpu {
            vm,
            state,
            id,
            apic,
            tsc_offset: vm.tsc_offset,
            platform,
            clock_origin: 0,
            tsc_aux: 0,
            deadline: u64::MAX,
            kept: Kept::ALL.map(Kept::initial),
            system_time: 0,
            clock_version: 0,
            wall_clock: 0,
            wall_version: 0,
            pv_eoi: 0,
            pv_eoi_armed: false,
            halted: false,
            waiting: id != 0,
            asleep: id != 0,
            nmi_pending: false,
            nmi_blocked: false,
            window: false,
            wide: Wide::default(),
            reported_msrs: Reported::new(),
            reported_ports: Reported::new(),
            reported_pages: Reported::new(),
        }
    }

    /// Answers an exit: `words` is the kernel's message; returns the groups that changed.
    // The frequent kinds are functions of their own, so that none pays for the registers of the others.
    #[inline(always)]
    pub fn exit(&mut self, words: &Words) -> Groups {
        let length = instruction_length(words[0]);
        if words[0] as u8 == ExitKind::Hypercall as u8 {
            return self.hypercall(length);
        }
        match exit_kind(words[0]) {
            Some(ExitKind::WriteMsr) => self.write_msr(length),
            Some(ExitKind::Cpuid) => self.cpuid(length),
            Some(kind) => self.other_exit(kind, length, words),
            None => self.broken("an exit of unknown kind", words),
        }
    }

    #[inline(never)]
    fn other_exit(&mut self, kind: ExitKind, length: u64, words: &Words) -> Groups {
        use ExitKind as K;
        if self.vm.stopped.load(Ordering::Relaxed) {
            return self.park();
        }
        match kind {
            K::Kick => self.kick(words[1], words[2]),
            K::Startup => self.startup(),
            K::StageTwoFault => self.stage_two_fault(words[1], words[2]),
            K::InterruptWindow => self.deliver(),
            K::NmiWindow => self.nmi_window(),
            K::Halt => self.halt(length),
            K::Io => self.io(length, words),
            K::ReadMsr => self.read_msr(length),
            K::ControlRegister => self.control_register(length, words[1]),
            K::SetXcr => self.set_xcr(length),
            K::CacheFlush => self.skip(length),
            K::Pause => {
                self.platform.give_way();
                self.skip(length)
            }
            K::NoInstruction => self.no_instruction(words[1]),
            K::Exception => self.exception(words[1] as u8, Some(words[2] as u32)),
            K::TripleFault => {
                log::warn!(
                    "vCPU {}: triple fault at {:#x}, cr2 {:#x}, rsp {:#x}",
                    self.id,
                    self.state.rip(),
                    self.state.cr2(),
                    self.state.gpr(abi::vcpu::x86_64::RSP)
                );
                self.stop(StopReason::TripleFault)
            }
            K::InvalidState => self.invalid_state(words),
            K::DebugRegister
            | K::TaskSwitch
            | K::Other
            | K::SystemRegister
            | K::FirmwareCall
            | K::VirtualTimer
            | K::InterruptController => self.broken("an exit that is not handled", words),
            K::Hypercall | K::WriteMsr | K::Cpuid => self.skip(length),
        }
    }

    /// Moves on behind the instruction that caused the exit.
    #[inline(always)]
    fn skip(&mut self, length: u64) -> Groups {
        self.state.set_rip(self.state.rip().wrapping_add(length));
        Groups::RIP
    }

    /// The processor refuses the guest's state. It does so with instruction pointers above 4 GiB outside of 64-bit code, to
    /// which [`Vcpu::skip`] leads behind the last bytes of that address space. Every program of the guest can have an
    /// instruction there; it goes on at 0.
    #[cold]
    fn invalid_state(&mut self, words: &Words) -> Groups {
        let rip = self.state.rip();
        if rip >> 32 == 0 || code_bits(&self.state, &Paging::of(&self.state)) == 64 {
            return self.broken("the processor refuses the guest's state", words);
        }
        self.state.set_rip(rip & 0xffff_ffff);
        Groups::RIP | self.deliver()
    }

    /// None of the hypercalls is offered: a guest that tries gets the error code of KVM.
    #[inline(always)]
    fn hypercall(&mut self, length: u64) -> Groups {
        self.state.set_gpr(RAX, kvm::hypercall::ENOSYS as u64);
        self.skip(length)
    }

    #[inline(never)]
    fn cpuid(&mut self, length: u64) -> Groups {
        let state = &mut self.state;
        let now = Dynamic {
            apic_id: self.id,
            xcr0: state.xcr0(),
            osxsave: state.cr4() & control::CR4_OSXSAVE != 0,
        };
        let leaf = self.vm.cpuid.get(state.gpr(RAX) as u32, state.gpr(RCX) as u32, &now);
        state.set_gpr(RAX, leaf.eax.into());
        state.set_gpr(RBX, leaf.ebx.into());
        state.set_gpr(RCX, leaf.ecx.into());
        state.set_gpr(RDX, leaf.edx.into());
        self.skip(length)
    }

    /// Injects an exception at the instruction that caused the exit.
    #[cold]
    fn exception(&mut self, vector: u8, error: Option<u32>) -> Groups {
        let mut event = EVENT_VALID | EVENT_EXCEPTION | u64::from(vector);
        // Only these have error codes (Intel SDM 3A 6.3.1).
        if let (Some(code), 8 | 10..=14 | 17 | 21) = (error, vector) {
            event |= EVENT_ERROR | u64::from(code) << 32;
        }
        self.load_event(event)
    }

    /// Puts an event into the state page, for exits that do not bring group `EVENTS` along.
    fn load_event(&mut self, event: u64) -> Groups {
        self.state.set_inject(event);
        self.state.set_interrupt_shadow(if self.nmi_blocked { SHADOW_NMI } else { 0 });
        self.state.set_controls(self.controls());
        Groups::EVENTS
    }

    fn controls(&self) -> u64 {
        let mut controls = 0;
        if self.window {
            controls |= CONTROL_INTERRUPT_WINDOW;
        }
        if self.nmi_pending || self.nmi_blocked {
            controls |= CONTROL_NMI_WINDOW;
        }
        controls
    }

    fn no_instruction(&mut self, reason: u64) -> Groups {
        // RDPMC of VMX and SVM: without counters every index is wrong.
        match reason {
            0x0f | 0x6f => self.exception(vector::GP, Some(0)),
            _ => self.exception(vector::UD, None),
        }
    }

    /// Has the guest run into the exit again, with more state.
    #[cold]
    fn widen(&mut self, kind: ExitKind) -> Groups {
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
        self.deadline = u64::MAX;
        self.state.set_inject(0);
        self.state.set_interrupt_shadow(0);
        self.state.set_controls(CONTROL_HALT);
        self.state.set_deadline(u64::MAX);
        Groups::EVENTS | Groups::DEADLINE
    }

    #[cold]
    fn broken(&mut self, what: &str, words: &Words) -> Groups {
        let state = &self.state;
        log::error!(
            "{what}: {:#x} {:#x} {:#x} {:#x}; vCPU {} rip {:#x} rflags {:#x} cr0 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
            words[0],
            words[1],
            words[2],
            words[3],
            self.id,
            state.rip(),
            state.rflags(),
            state.cr0(),
            state.cr3(),
            state.cr4(),
            state.efer()
        );
        self.stop(StopReason::MonitorError)
    }
}
