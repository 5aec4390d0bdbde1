//! Guest state between the VMCB and the state page.

use abi::vcpu::x86_64::{Segment, Table};

use super::super::event;
use super::super::guest::{Blocking, ControlRegisters};
use super::super::state::{self, SegmentRegister, cr0, efer};
use super::super::static_address;
use super::maps::{MSR_MAP, PORT_MAP};
use super::vmcb::{
    self, Clean, GDTR, IDTR, Intercepts1, Intercepts2, InterruptControl, SEGMENT_PLACES,
    VmcbSegment,
};
use super::{SHADOW, Vcpu};

/// CR0 bits that change how linear addresses are translated.
const CR0_TRANSLATION: u64 = cr0::PE | cr0::PG | cr0::WP;
/// Nested control: nested paging.
const NESTED_PAGING: u64 = 1 << 0;

/// What makes V_IRQ exit as soon as the guest can take an interrupt.
const INTERRUPT_WINDOW: InterruptControl = InterruptControl::V_IRQ
    .union(InterruptControl::V_PRIORITY)
    .union(InterruptControl::V_IGNORE_TPR);

impl Vcpu {
    /// Fills a new VMCB: controls, and guest state as after reset where it is not the monitor's to set.
    pub(super) fn initialise(&mut self) {
        let vmcb = self.vmcb();
        vmcb.intercept_dr = vmcb::ALL_DEBUG_REGISTERS;
        vmcb.intercept_exceptions = event::INTERCEPTED;
        vmcb.intercepts1 = Intercepts1::INTR
            | Intercepts1::NMI
            | Intercepts1::INIT
            | Intercepts1::RDPMC
            | Intercepts1::CPUID
            | Intercepts1::RSM
            | Intercepts1::INVD
            | Intercepts1::HLT
            | Intercepts1::INVLPGA
            | Intercepts1::IOIO
            | Intercepts1::MSR
            | Intercepts1::TASK_SWITCH
            | Intercepts1::FERR_FREEZE
            | Intercepts1::SHUTDOWN;
        vmcb.intercepts2 = Intercepts2::all();
        vmcb.iopm = static_address(&PORT_MAP).0;
        vmcb.msrpm = static_address(&MSR_MAP).0;
        vmcb.interrupt_control = InterruptControl::V_INTR_MASKING;
        vmcb.nested_control = NESTED_PAGING;
        vmcb.g_pat = state::RESET_PAT;
        vmcb.efer = efer::SVME;
        vmcb.cr0 = cr0::ET;
        vmcb.dr6 = state::sane_dr6(0);
        vmcb.dr7 = state::RESET_DR7;
        vmcb.rflags = state::RFLAGS_FIXED;
    }

    pub fn control_registers(&mut self) -> ControlRegisters {
        let vmcb = self.vmcb();
        ControlRegisters {
            cr0: vmcb.cr0,
            cr2: vmcb.cr2,
            cr3: vmcb.cr3,
            cr4: vmcb.cr4,
            efer: vmcb.efer & !efer::SVME,
        }
    }

    pub fn load_control(&mut self, registers: ControlRegisters) {
        // With CD set, a guest's memory would be uncached without need. The guest may set it itself.
        let cr0 = registers.cr0 & !(cr0::CD | cr0::NW);
        let efer = registers.efer | efer::SVME;
        let vmcb = self.change(Clean::CRX | Clean::CR2);
        let stale = (vmcb.cr0 ^ cr0) & CR0_TRANSLATION
            | vmcb.cr3 ^ registers.cr3
            | vmcb.cr4 ^ registers.cr4
            | vmcb.efer ^ efer;
        vmcb.cr0 = cr0;
        vmcb.cr2 = registers.cr2;
        vmcb.cr3 = registers.cr3;
        vmcb.cr4 = registers.cr4;
        vmcb.efer = efer;
        if stale != 0 {
            self.common.set_flush();
        }
    }

    /// Puts the privilege level where the ABI has it, in SS.DPL; the processor keeps it beside.
    pub fn note_privilege(&mut self) {
        let vmcb = self.vmcb();
        let place = usize::from(SEGMENT_PLACES[SegmentRegister::Ss as usize]);
        vmcb.segments[place] = vmcb.segments[place].with_privilege(vmcb.cpl);
    }

    pub fn segment(&mut self, register: SegmentRegister) -> Segment {
        let place = usize::from(SEGMENT_PLACES[register as usize]);
        self.vmcb().segments[place].to_abi()
    }

    pub fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        let vmcb = self.change(Clean::SEGMENTS);
        let mut segment = VmcbSegment::from_abi(segment);
        if register <= SegmentRegister::Es {
            segment = segment.with_short_base();
        }
        if register == SegmentRegister::Ss {
            vmcb.cpl = segment.privilege();
        }
        vmcb.segments[usize::from(SEGMENT_PLACES[register as usize])] = segment;
    }

    /// GDTR and IDTR.
    pub fn tables(&mut self) -> [Table; 2] {
        let segments = &self.vmcb().segments;
        [segments[GDTR].to_table(), segments[IDTR].to_table()]
    }

    pub fn set_tables(&mut self, [gdtr, idtr]: [Table; 2]) {
        let segments = &mut self.change(Clean::TABLES).segments;
        segments[GDTR] = VmcbSegment::from_table(gdtr);
        segments[IDTR] = VmcbSegment::from_table(idtr);
    }

    pub fn blocking(&mut self) -> Blocking {
        let (nmi_blocked, nmi_window) = (self.nmi_blocked, self.nmi_window);
        let vmcb = self.vmcb();
        let window = vmcb.intercepts1.contains(Intercepts1::VINTR);
        let shadow = vmcb.interrupt_shadow & SHADOW != 0;
        Blocking::new(shadow, nmi_blocked, [window, nmi_window])
    }

    pub fn set_blocking(&mut self, blocking: Blocking) {
        if blocking.blocks_nmis() != self.nmi_blocked {
            self.set_nmi_blocked(blocking.blocks_nmis());
        }
        self.nmi_window = blocking.nmi_window();
        let vmcb = self.change(Clean::INTERCEPTS | Clean::TPR);
        vmcb.interrupt_shadow = if blocking.blocks_interrupts() { SHADOW } else { 0 };
        let window = blocking.interrupt_window();
        vmcb.interrupt_control.set(INTERRUPT_WINDOW, window);
        vmcb.intercepts1.set(Intercepts1::VINTR, window);
    }

    /// The instruction in an interrupt shadow is done.
    pub fn end_shadow(&mut self) {
        self.vmcb().interrupt_shadow = 0;
    }

    /// Whether PAUSE exits.
    pub fn set_spins_exit(&mut self, on: bool) {
        self.change(Clean::INTERCEPTS).intercepts1.set(Intercepts1::PAUSE, on);
    }

    /// Whether accesses to debug registers exit.
    pub fn set_debug_exits(&mut self, on: bool) {
        self.change(Clean::INTERCEPTS).intercept_dr = match on {
            true => vmcb::ALL_DEBUG_REGISTERS,
            false => 0,
        };
    }
}
