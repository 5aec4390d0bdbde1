//! Guest state between the VMCB and the state page.

use abi::vcpu::x86_64::{
    CONTROL_INTERRUPT_WINDOW, CONTROL_NMI_WINDOW, Groups, RSP, SHADOW_INTERRUPT, SHADOW_NMI,
};

use super::super::cpu::CpuVirt;
use super::super::event::{self, Event};
use super::super::state::{self, cr0, efer, peek, poke, segment};
use super::super::static_address;
use super::maps::{MSR_MAP, PORT_MAP};
use super::vmcb::{self, Clean, Intercepts1, Intercepts2, InterruptControl, VmcbSegment};
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

    pub fn save(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        let page = self.page;
        if groups.contains(Groups::EVENTS) {
            self.save_events();
        }
        if groups.contains(Groups::XCR0) && cpu.loaded == self.id() {
            self.xcr0 = cpu.fpu.escaped_xcr0(self.xcr0);
        }
        let (xcr0, tsc_aux) = (self.xcr0, self.tsc_aux);
        let vmcb = self.vmcb();
        if groups.contains(Groups::RIP) {
            poke!(page, vmcb.rip, rip);
        }
        if groups.contains(Groups::RSP_RFLAGS) {
            poke!(page, vmcb.rsp, gpr[RSP]);
            poke!(page, vmcb.rflags, rflags);
        }
        if groups.contains(Groups::CONTROL) {
            poke!(page, vmcb.cr0, cr0);
            poke!(page, vmcb.cr2, cr2);
            poke!(page, vmcb.cr3, cr3);
            poke!(page, vmcb.cr4, cr4);
            poke!(page, vmcb.efer & !efer::SVME, efer);
        }
        if groups.contains(Groups::CS_SS) {
            vmcb.cs.store(segment!(page, cs));
            // The privilege level is SS.DPL of the ABI; the processor keeps it beside.
            vmcb.ss.with_privilege(vmcb.cpl).store(segment!(page, ss));
        }
        if groups.contains(Groups::SEGMENTS) {
            vmcb.ds.store(segment!(page, ds));
            vmcb.es.store(segment!(page, es));
            vmcb.fs.store(segment!(page, fs));
            vmcb.gs.store(segment!(page, gs));
            vmcb.ldtr.store(segment!(page, ldtr));
            vmcb.tr.store(segment!(page, tr));
            poke!(page, vmcb.gdtr.to_table(), gdtr);
            poke!(page, vmcb.idtr.to_table(), idtr);
        }
        if groups.contains(Groups::SYSCALL) {
            poke!(page, vmcb.star, star);
            poke!(page, vmcb.lstar, lstar);
            poke!(page, vmcb.cstar, cstar);
            poke!(page, vmcb.sfmask, sfmask);
            poke!(page, vmcb.kernel_gs_base, kernel_gs_base);
            poke!(page, vmcb.sysenter_cs, sysenter_cs);
            poke!(page, vmcb.sysenter_esp, sysenter_esp);
            poke!(page, vmcb.sysenter_eip, sysenter_eip);
        }
        if groups.contains(Groups::DEBUG) {
            poke!(page, vmcb.dr7, dr7);
        }
        if groups.contains(Groups::PAT) {
            poke!(page, vmcb.g_pat, pat);
        }
        if groups.contains(Groups::XCR0) {
            poke!(page, xcr0, xcr0);
        }
        if groups.contains(Groups::TSC) {
            poke!(page, vmcb.tsc_offset, tsc_offset);
            poke!(page, tsc_aux, tsc_aux);
        }
    }

    fn save_events(&mut self) {
        let page = self.page;
        poke!(page, self.pending.0, interrupted);
        let mut shadow = 0;
        if self.vmcb().interrupt_shadow & SHADOW != 0 {
            shadow |= SHADOW_INTERRUPT;
        }
        if self.nmi_blocked {
            shadow |= SHADOW_NMI;
        }
        poke!(page, shadow, interrupt_shadow);
        let mut controls = 0;
        if self.vmcb().intercepts1.contains(Intercepts1::VINTR) {
            controls |= CONTROL_INTERRUPT_WINDOW;
        }
        if self.nmi_window {
            controls |= CONTROL_NMI_WINDOW;
        }
        poke!(page, controls, controls);
    }

    pub fn load(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        let page = self.page;
        let limits = &cpu.limits;
        if groups.contains(Groups::RIP) {
            let vmcb = self.vmcb();
            vmcb.rip = peek!(page, rip);
            vmcb.interrupt_shadow = 0;
        }
        if groups.contains(Groups::RSP_RFLAGS) {
            let vmcb = self.vmcb();
            vmcb.rsp = peek!(page, gpr[RSP]);
            vmcb.rflags = state::sane_rflags(peek!(page, rflags));
        }
        if groups.contains(Groups::CONTROL) {
            self.load_control(limits);
        }
        if groups.contains(Groups::CS_SS) {
            let vmcb = self.change(Clean::SEGMENTS);
            vmcb.cs = VmcbSegment::load(segment!(page, cs)).with_short_base();
            vmcb.ss = VmcbSegment::load(segment!(page, ss)).with_short_base();
            vmcb.cpl = vmcb.ss.privilege();
        }
        if groups.contains(Groups::SEGMENTS) {
            let vmcb = self.change(Clean::SEGMENTS | Clean::TABLES);
            vmcb.ds = VmcbSegment::load(segment!(page, ds)).with_short_base();
            vmcb.es = VmcbSegment::load(segment!(page, es)).with_short_base();
            vmcb.fs = VmcbSegment::load(segment!(page, fs));
            vmcb.gs = VmcbSegment::load(segment!(page, gs));
            vmcb.ldtr = VmcbSegment::load(segment!(page, ldtr));
            vmcb.tr = VmcbSegment::load(segment!(page, tr));
            vmcb.gdtr = VmcbSegment::from_table(peek!(page, gdtr));
            vmcb.idtr = VmcbSegment::from_table(peek!(page, idtr));
        }
        if groups.contains(Groups::EVENTS) {
            self.load_events();
        }
        if groups.contains(Groups::SYSCALL) {
            let vmcb = self.vmcb();
            vmcb.star = peek!(page, star);
            vmcb.lstar = limits.canonical(peek!(page, lstar));
            vmcb.cstar = limits.canonical(peek!(page, cstar));
            vmcb.sfmask = peek!(page, sfmask) & 0xffff_ffff;
            vmcb.kernel_gs_base = limits.canonical(peek!(page, kernel_gs_base));
            vmcb.sysenter_cs = peek!(page, sysenter_cs) & 0xffff_ffff;
            vmcb.sysenter_esp = limits.canonical(peek!(page, sysenter_esp));
            vmcb.sysenter_eip = limits.canonical(peek!(page, sysenter_eip));
        }
        if groups.contains(Groups::DEBUG) {
            let dr7 = state::sane_dr7(peek!(page, dr7));
            self.change(Clean::DRX).dr7 = dr7;
            if state::dr7_active(dr7) {
                self.activate_debug(cpu);
            }
        }
        if groups.contains(Groups::PAT) {
            self.change(Clean::NESTED).g_pat = state::sane_pat(peek!(page, pat));
        }
        if groups.contains(Groups::XCR0) {
            // The next entry gives it to the processor.
            let xcr0 = limits.xcr0(peek!(page, xcr0));
            self.suspend(cpu);
            self.xcr0 = xcr0;
        }
        if groups.contains(Groups::TSC) {
            self.suspend(cpu);
            self.change(Clean::INTERCEPTS).tsc_offset = peek!(page, tsc_offset);
            self.tsc_aux = peek!(page, tsc_aux) & 0xffff_ffff;
        }
    }

    fn load_control(&mut self, limits: &state::Limits) {
        let page = self.page;
        // With CD set, a guest's memory would be uncached without need. The guest may set it itself.
        let cr0 = state::sane_cr0(peek!(page, cr0)) & !(cr0::CD | cr0::NW);
        let cr4 = peek!(page, cr4) & limits.cr4;
        let efer = limits.efer(peek!(page, efer), cr0) | efer::SVME;
        let cr3 = peek!(page, cr3);
        let vmcb = self.change(Clean::CRX | Clean::CR2);
        let stale = (vmcb.cr0 ^ cr0) & CR0_TRANSLATION != 0
            || vmcb.cr3 != cr3
            || vmcb.cr4 != cr4
            || vmcb.efer != efer;
        vmcb.cr0 = cr0;
        vmcb.cr2 = peek!(page, cr2);
        vmcb.cr3 = cr3;
        vmcb.cr4 = cr4;
        vmcb.efer = efer;
        if stale {
            self.set_flush();
        }
    }

    fn load_events(&mut self) {
        let page = self.page;
        self.set_pending(Event::from_monitor(peek!(page, inject)));
        poke!(page, 0, inject);
        let shadow = peek!(page, interrupt_shadow);
        self.vmcb().interrupt_shadow = if shadow & SHADOW_INTERRUPT != 0 {
            SHADOW
        } else {
            0
        };
        let blocked = shadow & SHADOW_NMI != 0;
        if blocked != self.nmi_blocked {
            self.set_nmi_blocked(blocked);
        }
        let controls = peek!(page, controls);
        self.nmi_window = controls & CONTROL_NMI_WINDOW != 0;
        let window = controls & CONTROL_INTERRUPT_WINDOW != 0;
        let vmcb = self.change(Clean::INTERCEPTS | Clean::TPR);
        vmcb.interrupt_control.set(INTERRUPT_WINDOW, window);
        vmcb.intercepts1.set(Intercepts1::VINTR, window);
    }
}
