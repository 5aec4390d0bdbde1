//! What a vCPU has under either extension.

use super::super::tags::GuestTag;
use super::cpu::{CpuId, CpuVirt, VcpuId};
use super::debug::DebugRegisters;
use super::event::Event;
use super::fpu;
use super::state::StatePage;

/// What a vCPU has under either extension.
#[repr(C)]
pub(super) struct Common {
    /// Room for a register, at exits under VMX, whose stack pointer is behind it.
    pub scratch: u64,
    pub page: StatePage,
    pub id: VcpuId,
    /// VPID or ASID.
    pub tag: GuestTag,
    pub fpu: fpu::Area,
    /// The CPU that may have cached the control structure, or whose host state that holds.
    pub cpu: CpuId,
    /// PAUSE exits.
    pub spins_exit: bool,
    /// The next entry is for the general path, and takes longer there: one of the following or something of the
    /// backend's asks for it, PAUSE exits, or the vCPU was suspended.
    pub to_do: bool,
    /// Linear translations are stale, as the monitor changed a register that they depend on.
    pub flush_linear: bool,
    /// To be injected. Written by `set_pending`.
    pub pending: Event,
    pub xcr0: u64,
    pub tsc_aux: u64,
    pub debug: DebugRegisters,
}

impl Common {
    /// The state after reset.
    pub fn new(id: VcpuId, page: StatePage, fpu: fpu::Area) -> Common {
        Common {
            scratch: 0,
            page,
            id,
            tag: GuestTag::default(),
            fpu,
            cpu: CpuId::NONE,
            spins_exit: false,
            to_do: true,
            flush_linear: true,
            pending: Event::NONE,
            xcr0: 1,
            tsc_aux: 0,
            debug: DebugRegisters::new(),
        }
    }

    /// Loads what threads share with the guest, but for what VMX lends.
    pub fn load_registers(&mut self, cpu: &mut CpuVirt) {
        assert!(cpu.loaded == 0, "a vCPU was not suspended");
        cpu.loaded = self.id;
        cpu.fpu.own(self.fpu, self.xcr0);
        cpu.load_tsc_aux(self.tsc_aux);
        self.debug.load();
    }

    /// Notes what the guest has made of XCR0, if it can.
    pub fn note_xcr0(&mut self, cpu: &mut CpuVirt) {
        if cpu.loaded == self.id {
            self.xcr0 = cpu.fpu.escaped_xcr0(self.xcr0);
        }
    }

    /// Has the next entry inject an event.
    pub fn set_pending(&mut self, event: Event) {
        self.pending = event;
        self.to_do = true;
    }

    /// Has the next entry drop linear translations.
    pub fn set_flush(&mut self) {
        self.flush_linear = true;
        self.to_do = true;
    }
}
