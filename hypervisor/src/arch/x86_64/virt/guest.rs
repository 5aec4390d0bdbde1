//! Guest state between the control structure and the state page.

use abi::vcpu::x86_64::{
    CONTROL_HALT, CONTROL_INTERRUPT_WINDOW, CONTROL_NMI_WINDOW, Groups, RSP, SHADOW_INTERRUPT,
    SHADOW_NMI,
};
use x86::vmx::vmcs::{control, guest as field};

use super::cpu::CpuVirt;
use super::event::Event;
use super::state::{self, SegmentRegister, SyscallMsrs, peek, poke};
use super::svm::Clean;
use super::vmx::vmcs;
use super::{VcpuArch, backend};

/// Reads a register that the processor keeps as it is: its field of the VMCB, or of the VMCS.
macro_rules! get {
    ($vcpu:expr, $field:ident, $vmcs:expr) => {
        match $vcpu {
            VcpuArch::Vmx(_) => vmcs::read($vmcs),
            VcpuArch::Svm(vcpu) => vcpu.vmcb().$field,
        }
    };
}

/// Writes such a register, which is in `$part` of what the processor may have cached of the VMCB.
macro_rules! set {
    ($vcpu:expr, $value:expr, $field:ident, $vmcs:expr, $part:expr) => {{
        let value = $value;
        match $vcpu {
            // SAFETY: guest state of any value is safe: VM entry checks it, and where it does not, the processor
            // takes any. The TSC offset concerns the guest only.
            VcpuArch::Vmx(_) => unsafe { vmcs::write($vmcs, value) },
            VcpuArch::Svm(vcpu) => vcpu.change($part).$field = value,
        }
    }};
}

/// Control registers as the guest has them.
#[derive(Clone, Copy)]
pub(super) struct ControlRegisters {
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

/// What blocks events, and what the guest is to stop at: `SHADOW_*` and `CONTROL_*` of the ABI.
#[derive(Clone, Copy)]
pub(super) struct Blocking {
    pub shadow: u64,
    pub controls: u64,
}

impl Blocking {
    #[inline(always)]
    pub fn new(interrupts: bool, nmis: bool, windows: [bool; 2]) -> Blocking {
        let bit = |is_set, bit| if is_set { bit } else { 0 };
        Blocking {
            shadow: bit(interrupts, SHADOW_INTERRUPT) | bit(nmis, SHADOW_NMI),
            controls: bit(windows[0], CONTROL_INTERRUPT_WINDOW)
                | bit(windows[1], CONTROL_NMI_WINDOW),
        }
    }

    pub fn blocks_interrupts(self) -> bool {
        self.shadow & SHADOW_INTERRUPT != 0
    }

    pub fn blocks_nmis(self) -> bool {
        self.shadow & SHADOW_NMI != 0
    }

    pub fn interrupt_window(self) -> bool {
        self.controls & CONTROL_INTERRUPT_WINDOW != 0
    }

    pub fn nmi_window(self) -> bool {
        self.controls & CONTROL_NMI_WINDOW != 0
    }
}

/// The segment registers in `groups`.
fn segments(groups: Groups) -> &'static [SegmentRegister] {
    const BEHIND_SS: usize = SegmentRegister::Ds as usize;
    let first = match groups.contains(Groups::CS_SS) {
        true => 0,
        false => BEHIND_SS,
    };
    let end = match groups.contains(Groups::SEGMENTS) {
        true => SegmentRegister::COUNT,
        false => BEHIND_SS,
    };
    &SegmentRegister::ALL[first..end]
}

/// Groups that monitors rarely ask for.
const RARE: Groups =
    Groups::SYSCALL.union(Groups::DEBUG).union(Groups::PAT).union(Groups::XCR0).union(Groups::TSC);

impl VcpuArch {
    /// Copies `groups` of guest state to the state page. `interrupted` is the event that the next entry would
    /// inject: one whose delivery the exit interrupted, or one that was loaded but not injected yet. If the
    /// monitor does not load [`Groups::EVENTS`], it is injected.
    pub fn save_groups(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        if let VcpuArch::Vmx(vcpu) = self {
            vcpu.come_to(cpu);
        }
        let page = self.common().page;
        if groups.contains(Groups::RIP) {
            poke!(page, get!(self, rip, field::RIP), rip);
        }
        if groups.contains(Groups::RSP_RFLAGS) {
            let rsp = get!(self, rsp, field::RSP);
            let rflags = get!(self, rflags, field::RFLAGS);
            poke!(page, rsp, gpr[RSP]);
            poke!(page, rflags, rflags);
        }
        if groups.contains(Groups::CONTROL) {
            let registers = match self {
                VcpuArch::Vmx(vcpu) => vcpu.control_registers(&cpu.limits),
                VcpuArch::Svm(vcpu) => vcpu.control_registers(),
            };
            poke!(page, registers.cr0, cr0);
            poke!(page, registers.cr2, cr2);
            poke!(page, registers.cr3, cr3);
            poke!(page, registers.cr4, cr4);
            poke!(page, registers.efer, efer);
        }
        let place = |&register| (register, page.segment(register));
        let segments = segments(groups).iter().map(place);
        match self {
            VcpuArch::Vmx(vcpu) => {
                segments.for_each(|(register, to)| to.write(vcpu.segment(register)))
            }
            VcpuArch::Svm(vcpu) => {
                if groups.contains(Groups::CS_SS) {
                    vcpu.note_privilege();
                }
                segments.for_each(|(register, to)| to.write(vcpu.segment(register)));
            }
        }
        if groups.contains(Groups::SEGMENTS) {
            let [gdtr, idtr] = backend!(self, vcpu => vcpu.tables());
            poke!(page, gdtr, gdtr);
            poke!(page, idtr, idtr);
        }
        if groups.contains(Groups::EVENTS) {
            let Blocking { shadow, controls } = backend!(self, vcpu => vcpu.blocking());
            poke!(page, self.common().pending.0, interrupted);
            poke!(page, shadow, interrupt_shadow);
            poke!(page, controls, controls);
        }
        if groups.intersects(RARE) {
            self.save_rare(cpu, groups);
        }
    }

    /// The part of [`VcpuArch::save_groups`] for [`RARE`] groups. Under VMX, the VMCS is current.
    #[cold]
    fn save_rare(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        let page = self.common().page;
        if groups.contains(Groups::SYSCALL) {
            let msrs = match self {
                VcpuArch::Vmx(vcpu) => vcpu.syscall_msrs(cpu),
                VcpuArch::Svm(vcpu) => vcpu.vmcb().syscall,
            };
            poke!(page, msrs.star, star);
            poke!(page, msrs.lstar, lstar);
            poke!(page, msrs.cstar, cstar);
            poke!(page, msrs.sfmask, sfmask);
            poke!(page, msrs.kernel_gs_base, kernel_gs_base);
            let cs = get!(self, sysenter_cs, field::IA32_SYSENTER_CS);
            let esp = get!(self, sysenter_esp, field::IA32_SYSENTER_ESP);
            let eip = get!(self, sysenter_eip, field::IA32_SYSENTER_EIP);
            poke!(page, cs, sysenter_cs);
            poke!(page, esp, sysenter_esp);
            poke!(page, eip, sysenter_eip);
        }
        if groups.contains(Groups::DEBUG) {
            poke!(page, get!(self, dr7, field::DR7), dr7);
        }
        if groups.contains(Groups::PAT) {
            poke!(page, get!(self, g_pat, field::IA32_PAT_FULL), pat);
        }
        if groups.contains(Groups::XCR0) {
            let common = self.common();
            common.note_xcr0(cpu);
            poke!(page, common.xcr0, xcr0);
        }
        if groups.contains(Groups::TSC) {
            let offset = get!(self, tsc_offset, control::TSC_OFFSET_FULL);
            poke!(page, offset, tsc_offset);
            poke!(page, self.common().tsc_aux, tsc_aux);
        }
    }

    /// Takes `groups` of guest state from the state page, made harmless. [`Groups::EVENTS`] replaces the event
    /// to be injected, and zeroes it on the page. [`Groups::RIP`] without `EVENTS` ends an interrupt shadow,
    /// as the instruction in it is done. `CONTROL_HALT` and [`Groups::DEADLINE`] are for [`VcpuArch::asked`].
    pub fn load_groups(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        if let VcpuArch::Vmx(vcpu) = self {
            vcpu.come_to(cpu);
        }
        let page = self.common().page;
        let nothing = Clean::empty();
        if groups.contains(Groups::RIP) {
            set!(self, peek!(page, rip), rip, field::RIP, nothing);
            if !groups.contains(Groups::EVENTS) {
                backend!(self, vcpu => vcpu.end_shadow());
            }
        }
        if groups.contains(Groups::RSP_RFLAGS) {
            let rflags = state::sane_rflags(peek!(page, rflags));
            set!(self, peek!(page, gpr[RSP]), rsp, field::RSP, nothing);
            set!(self, rflags, rflags, field::RFLAGS, nothing);
        }
        if groups.contains(Groups::CONTROL) {
            let cr0 = state::sane_cr0(peek!(page, cr0));
            let registers = ControlRegisters {
                cr0,
                cr2: peek!(page, cr2),
                cr3: peek!(page, cr3),
                cr4: peek!(page, cr4) & cpu.limits.cr4,
                efer: cpu.limits.efer(peek!(page, efer), cr0),
            };
            match self {
                VcpuArch::Vmx(vcpu) => vcpu.load_control(&cpu.limits, registers),
                VcpuArch::Svm(vcpu) => vcpu.load_control(registers),
            }
        }
        for &register in segments(groups) {
            let segment = page.segment(register).read();
            backend!(self, vcpu => vcpu.set_segment(register, segment));
        }
        if groups.contains(Groups::SEGMENTS) {
            let tables = [peek!(page, gdtr), peek!(page, idtr)];
            backend!(self, vcpu => vcpu.set_tables(tables));
        }
        if groups.contains(Groups::EVENTS) {
            let inject = Event::from_monitor(peek!(page, inject));
            self.common().set_pending(inject);
            poke!(page, 0, inject);
            let blocking =
                Blocking { shadow: peek!(page, interrupt_shadow), controls: peek!(page, controls) };
            backend!(self, vcpu => vcpu.set_blocking(blocking));
        }
        if groups.intersects(RARE) {
            self.load_rare(cpu, groups);
        }
    }

    /// What the monitor has asked for beside, with `groups`: whether the vCPU halts, and its new deadline.
    pub fn asked(&mut self, groups: Groups) -> (bool, Option<u64>) {
        let page = self.common().page;
        let halt = groups.contains(Groups::EVENTS) && peek!(page, controls) & CONTROL_HALT != 0;
        (halt, groups.contains(Groups::DEADLINE).then(|| peek!(page, deadline)))
    }

    /// The part of [`VcpuArch::load_groups`] for [`RARE`] groups. Under VMX, the VMCS is current.
    #[cold]
    fn load_rare(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        if groups.intersects(Groups::XCR0.union(Groups::TSC)) {
            // The next entry gives them to the processor.
            self.suspend(cpu);
        }
        let page = self.common().page;
        let nothing = Clean::empty();
        if groups.contains(Groups::SYSCALL) {
            let msrs = SyscallMsrs {
                star: peek!(page, star),
                lstar: cpu.limits.canonical(peek!(page, lstar)),
                cstar: cpu.limits.canonical(peek!(page, cstar)),
                sfmask: peek!(page, sfmask) & 0xffff_ffff,
                kernel_gs_base: cpu.limits.canonical(peek!(page, kernel_gs_base)),
            };
            match self {
                VcpuArch::Vmx(vcpu) => vcpu.set_syscall_msrs(cpu, msrs),
                VcpuArch::Svm(vcpu) => vcpu.vmcb().syscall = msrs,
            }
            let cs = peek!(page, sysenter_cs) & 0xffff_ffff;
            let esp = cpu.limits.canonical(peek!(page, sysenter_esp));
            let eip = cpu.limits.canonical(peek!(page, sysenter_eip));
            set!(self, cs, sysenter_cs, field::IA32_SYSENTER_CS, nothing);
            set!(self, esp, sysenter_esp, field::IA32_SYSENTER_ESP, nothing);
            set!(self, eip, sysenter_eip, field::IA32_SYSENTER_EIP, nothing);
        }
        if groups.contains(Groups::PAT) {
            let pat = state::sane_pat(peek!(page, pat));
            set!(self, pat, g_pat, field::IA32_PAT_FULL, Clean::NESTED);
        }
        if groups.contains(Groups::XCR0) {
            self.common().xcr0 = cpu.limits.xcr0(peek!(page, xcr0));
        }
        if groups.contains(Groups::TSC) {
            let offset = peek!(page, tsc_offset);
            let encoding = control::TSC_OFFSET_FULL;
            set!(self, offset, tsc_offset, encoding, Clean::INTERCEPTS);
            self.common().tsc_aux = peek!(page, tsc_aux) & 0xffff_ffff;
        }
        if groups.contains(Groups::DEBUG) {
            let dr7 = state::sane_dr7(peek!(page, dr7));
            set!(self, dr7, dr7, field::DR7, Clean::DRX);
            if state::dr7_active(dr7) {
                self.activate_debug(cpu);
            }
        }
    }

    /// Gives the guest the debug registers.
    #[cold]
    pub(super) fn activate_debug(&mut self, cpu: &CpuVirt) {
        self.set_debug_exits(false);
        let common = self.common();
        common.debug.active = true;
        if cpu.loaded == common.id {
            common.debug.load();
        }
    }

    /// Whether PAUSE exits.
    #[cold]
    pub(super) fn set_spins_exit(&mut self, on: bool) {
        let common = self.common();
        common.spins_exit = on;
        common.to_do = true;
        backend!(self, vcpu => vcpu.set_spins_exit(on));
    }

    /// Whether accesses to debug registers exit. Under VMX, the VMCS is current.
    fn set_debug_exits(&mut self, on: bool) {
        backend!(self, vcpu => vcpu.set_debug_exits(on));
    }

    /// Gives threads' registers back to the machine; see the module's documentation. Without effect if that
    /// is done already.
    #[inline(never)]
    pub fn suspend(&mut self, cpu: &mut CpuVirt) {
        let common = self.common();
        common.to_do = true;
        if cpu.loaded != common.id {
            return;
        }
        common.note_xcr0(cpu);
        cpu.loaded = 0;
        cpu.restore_registers(common.fpu);
        let has_debug = common.debug.loaded;
        self.lend(cpu);
        if has_debug {
            self.suspend_debug(cpu);
        }
    }

    #[cold]
    fn suspend_debug(&mut self, cpu: &mut CpuVirt) {
        if let VcpuArch::Vmx(vcpu) = self {
            // Another vCPU's VMCS may be current, as its monitor has replied.
            vcpu.come_to(cpu);
        }
        let dr7 = get!(self, dr7, field::DR7);
        if self.common().debug.store(state::dr7_active(dr7)) {
            self.set_debug_exits(true);
        }
    }
}
