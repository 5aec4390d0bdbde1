//! Guest state between the VMCS and the state page.

use abi::vcpu::x86_64::{
    CONTROL_INTERRUPT_WINDOW, CONTROL_NMI_WINDOW, Groups, RSP, SHADOW_INTERRUPT, SHADOW_NMI,
    Segment, Table,
};
use x86::vmx::vmcs::control::{self, EntryControls, PrimaryControls, SecondaryControls};
use x86::vmx::vmcs::guest as field;

use super::super::cpu::CpuVirt;
use super::super::event::{self, Event};
use super::super::state::{self, SegmentPlace, cr0, cr4, efer, peek, poke, segment};
use super::super::static_address;
use super::capabilities::ENCLV_EXITING_BITMAP;
use super::host::LISTED_MSRS;
use super::msr_bitmap::MSR_BITMAP;
use super::{BLOCKING_MOV_SS, BLOCKING_NMI, BLOCKING_STI, Capabilities, Vcpu, host_of, vmcs};

/// Fields that are 0 in a new VMCS; three of them count [`LISTED_MSRS`].
const ZERO_FIELDS: [u32; 12] = [
    control::VMEXIT_MSR_STORE_COUNT,
    control::VMEXIT_MSR_LOAD_COUNT,
    control::VMENTRY_MSR_LOAD_COUNT,
    control::PAGE_FAULT_ERR_CODE_MASK,
    control::PAGE_FAULT_ERR_CODE_MATCH,
    control::CR3_TARGET_COUNT,
    control::VMENTRY_INTERRUPTION_INFO_FIELD,
    control::TSC_OFFSET_FULL,
    field::IA32_DEBUGCTL_FULL,
    field::INTERRUPTIBILITY_STATE,
    field::ACTIVITY_STATE,
    field::PENDING_DBG_EXCEPTIONS,
];
const _: () = assert!(LISTED_MSRS == 0);

/// Bits of a segment's access rights that VM entry does not demand to be 0.
const ACCESS_RIGHTS: u64 = 0x1_f0ff;
/// Access rights: the segment is unusable.
const UNUSABLE: u64 = 1 << 16;

/// A segment register's place in the VMCS.
#[derive(Clone, Copy)]
struct Place(u32);

impl Place {
    // The fields of the segment registers are in the same order everywhere, two encodings apart.
    const ES: Place = Place(0);
    const CS: Place = Place(2);
    const SS: Place = Place(4);
    const DS: Place = Place(6);
    const FS: Place = Place(8);
    const GS: Place = Place(10);
    const LDTR: Place = Place(12);
    const TR: Place = Place(14);
    const ALL: [Place; 8] = [
        Place::ES,
        Place::CS,
        Place::SS,
        Place::DS,
        Place::FS,
        Place::GS,
        Place::LDTR,
        Place::TR,
    ];

    /// Puts the guest's register on the state page.
    #[inline(never)]
    fn save(self, to: SegmentPlace) {
        to.write(Segment {
            selector: vmcs::read(field::ES_SELECTOR + self.0) as u16,
            access: vmcs::read(field::ES_ACCESS_RIGHTS + self.0) as u32,
            limit: vmcs::read(field::ES_LIMIT + self.0) as u32,
            base: vmcs::read(field::ES_BASE + self.0),
            ..Segment::default()
        });
    }

    /// Takes the guest's register from the state page.
    #[inline(never)]
    fn load(self, from: SegmentPlace) {
        self.write(from.read());
    }

    fn write(self, segment: Segment) {
        set(field::ES_SELECTOR + self.0, u64::from(segment.selector));
        set(
            field::ES_ACCESS_RIGHTS + self.0,
            u64::from(segment.access) & ACCESS_RIGHTS,
        );
        set(field::ES_LIMIT + self.0, u64::from(segment.limit));
        set(field::ES_BASE + self.0, segment.base);
    }
}

/// Writes a field of the guest-state area.
#[inline(always)]
fn set(field: u32, value: u64) {
    // SAFETY: guest state of any value is safe: VM entry checks it, and where it does not, the processor
    // takes any.
    unsafe { vmcs::write(field, value) };
}

impl Vcpu {
    /// Fills a new VMCS, which is current: controls, and guest state as after reset where it is not the
    /// monitor's to set.
    pub(super) fn initialise(&mut self, capabilities: &Capabilities) {
        // SAFETY: the controls as `Capabilities` has computed and this module documents them, and guest state.
        unsafe {
            let write = |field, value| vmcs::write(field, value);
            write(control::PINBASED_EXEC_CONTROLS, capabilities.pin.into());
            write(
                control::PRIMARY_PROCBASED_EXEC_CONTROLS,
                self.primary.into(),
            );
            write(
                control::SECONDARY_PROCBASED_EXEC_CONTROLS,
                capabilities.secondary.into(),
            );
            write(control::VMEXIT_CONTROLS, capabilities.exit.into());
            write(control::VMENTRY_CONTROLS, capabilities.entry.into());
            write(control::EXCEPTION_BITMAP, event::INTERCEPTED.into());
            let msr_bitmap = static_address(&MSR_BITMAP).0;
            write(control::MSR_BITMAPS_ADDR_FULL, msr_bitmap);
            write(control::CR0_GUEST_HOST_MASK, self.cr0_mask());
            write(field::LINK_PTR_FULL, u64::MAX);
            write(field::DR7, state::RESET_DR7);
            write(field::RFLAGS, state::RFLAGS_FIXED);
            write(field::IA32_PAT_FULL, state::RESET_PAT);
        }
        // SAFETY: nothing of these.
        unsafe { vmcs::clear(&ZERO_FIELDS) };
        // Fields that exist only with their control.
        for &(control, field) in &[
            (
                SecondaryControls::ENABLE_XSAVES_XRSTORS,
                control::XSS_EXITING_BITMAP_FULL,
            ),
            (
                SecondaryControls::ENCLS_EXITING,
                control::ENCLS_EXITING_BITMAP_FULL,
            ),
            (SecondaryControls::ENCLV_EXITING, ENCLV_EXITING_BITMAP),
        ] {
            if capabilities.has(control) {
                // SAFETY: everything exits.
                unsafe { vmcs::write(field, u64::MAX) };
            }
        }
        for place in Place::ALL {
            place.write(Segment {
                access: UNUSABLE as u32,
                ..Segment::default()
            });
        }
    }

    pub fn save(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        if groups.is_empty() {
            return;
        }
        self.make_current(cpu);
        let page = self.page;
        if groups.contains(Groups::RIP) {
            poke!(page, vmcs::read(field::RIP), rip);
        }
        if groups.contains(Groups::RSP_RFLAGS) {
            poke!(page, vmcs::read(field::RSP), gpr[RSP]);
            poke!(page, vmcs::read(field::RFLAGS), rflags);
        }
        if groups.contains(Groups::CONTROL) {
            let cr0_mask = self.cr0_mask();
            let cr4_mask = self.cr4_mask(cpu.limits.cr4);
            let cr0 = self.cr0_shadow & cr0_mask | vmcs::read(field::CR0) & !cr0_mask;
            let cr4 = self.cr4_shadow & cr4_mask | vmcs::read(field::CR4) & !cr4_mask;
            poke!(page, cr0, cr0);
            poke!(page, self.cr2, cr2);
            poke!(page, vmcs::read(field::CR3), cr3);
            poke!(page, cr4, cr4);
            poke!(page, vmcs::read(field::IA32_EFER_FULL), efer);
        }
        if groups.contains(Groups::CS_SS) {
            Place::CS.save(segment!(page, cs));
            Place::SS.save(segment!(page, ss));
        }
        if groups.contains(Groups::SEGMENTS) {
            Place::DS.save(segment!(page, ds));
            Place::ES.save(segment!(page, es));
            Place::FS.save(segment!(page, fs));
            Place::GS.save(segment!(page, gs));
            Place::LDTR.save(segment!(page, ldtr));
            Place::TR.save(segment!(page, tr));
            let table = |limit, base| Table {
                limit: vmcs::read(limit),
                base: vmcs::read(base),
            };
            poke!(page, table(field::GDTR_LIMIT, field::GDTR_BASE), gdtr);
            poke!(page, table(field::IDTR_LIMIT, field::IDTR_BASE), idtr);
        }
        if groups.contains(Groups::EVENTS) {
            self.save_events();
        }
        if groups.contains(Groups::DEBUG) {
            poke!(page, vmcs::read(field::DR7), dr7);
        }
        if groups.contains(Groups::PAT) {
            poke!(page, vmcs::read(field::IA32_PAT_FULL), pat);
        }
        if groups.contains(Groups::XCR0) {
            poke!(page, self.xcr0, xcr0);
        }
        if groups.contains(Groups::SYSCALL) {
            self.save_syscall(cpu);
        }
        if groups.contains(Groups::TSC) {
            poke!(page, vmcs::read(control::TSC_OFFSET_FULL), tsc_offset);
            poke!(page, self.tsc_aux, tsc_aux);
        }
    }

    fn save_events(&mut self) {
        let page = self.page;
        poke!(page, self.pending.0, interrupted);
        let blocking = vmcs::read(field::INTERRUPTIBILITY_STATE);
        let mut shadow = 0;
        if blocking & (BLOCKING_STI | BLOCKING_MOV_SS) != 0 {
            shadow |= SHADOW_INTERRUPT;
        }
        if blocking & BLOCKING_NMI != 0 {
            shadow |= SHADOW_NMI;
        }
        poke!(page, shadow, interrupt_shadow);
        let primary = PrimaryControls::from_bits_truncate(self.primary);
        let mut controls = 0;
        if primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING) {
            controls |= CONTROL_INTERRUPT_WINDOW;
        }
        if primary.contains(PrimaryControls::NMI_WINDOW_EXITING) {
            controls |= CONTROL_NMI_WINDOW;
        }
        poke!(page, controls, controls);
    }

    fn save_syscall(&mut self, cpu: &mut CpuVirt) {
        // The processor may have a newer KERNEL_GS_BASE.
        self.lend(cpu);
        let page = self.page;
        poke!(page, self.msrs.star, star);
        poke!(page, self.msrs.lstar, lstar);
        poke!(page, self.msrs.cstar, cstar);
        poke!(page, self.msrs.sfmask, sfmask);
        poke!(page, self.msrs.kernel_gs_base, kernel_gs_base);
        poke!(page, vmcs::read(field::IA32_SYSENTER_CS), sysenter_cs);
        poke!(page, vmcs::read(field::IA32_SYSENTER_ESP), sysenter_esp);
        poke!(page, vmcs::read(field::IA32_SYSENTER_EIP), sysenter_eip);
    }

    pub fn load(&mut self, cpu: &mut CpuVirt, groups: Groups) {
        if groups.is_empty() {
            return;
        }
        self.make_current(cpu);
        if groups.contains(Groups::RIP) {
            set(field::RIP, peek!(self.page, rip));
            if !groups.contains(Groups::EVENTS) {
                self.change_blocking(BLOCKING_STI | BLOCKING_MOV_SS, 0);
            }
        }
        let page = self.page;
        let limits = &cpu.limits;
        if groups.contains(Groups::RSP_RFLAGS) {
            set(field::RSP, peek!(page, gpr[RSP]));
            set(field::RFLAGS, state::sane_rflags(peek!(page, rflags)));
        }
        if groups.contains(Groups::CONTROL) {
            self.load_control(cpu);
        }
        if groups.contains(Groups::CS_SS) {
            Place::CS.load(segment!(page, cs));
            Place::SS.load(segment!(page, ss));
        }
        if groups.contains(Groups::SEGMENTS) {
            Place::DS.load(segment!(page, ds));
            Place::ES.load(segment!(page, es));
            Place::FS.load(segment!(page, fs));
            Place::GS.load(segment!(page, gs));
            Place::LDTR.load(segment!(page, ldtr));
            Place::TR.load(segment!(page, tr));
            let table = |limit, base, value: Table| {
                set(limit, value.limit & 0xffff);
                set(base, value.base);
            };
            table(field::GDTR_LIMIT, field::GDTR_BASE, peek!(page, gdtr));
            table(field::IDTR_LIMIT, field::IDTR_BASE, peek!(page, idtr));
        }
        if groups.contains(Groups::EVENTS) {
            self.load_events();
        }
        if groups.contains(Groups::DEBUG) {
            let dr7 = state::sane_dr7(peek!(page, dr7));
            set(field::DR7, dr7);
            if state::dr7_active(dr7) {
                self.activate_debug(cpu);
            }
        }
        if groups.contains(Groups::PAT) {
            set(field::IA32_PAT_FULL, state::sane_pat(peek!(page, pat)));
        }
        if groups.contains(Groups::XCR0) {
            // The next entry gives it to the processor.
            self.xcr0 = limits.xcr0(peek!(page, xcr0));
            self.suspend(cpu);
        }
        if groups.contains(Groups::SYSCALL) {
            self.load_syscall(cpu);
        }
        if groups.contains(Groups::TSC) {
            self.suspend(cpu);
            let offset = peek!(page, tsc_offset);
            // SAFETY: the offset concerns the guest only.
            unsafe { vmcs::write(control::TSC_OFFSET_FULL, offset) };
            self.tsc_aux = peek!(page, tsc_aux) & 0xffff_ffff;
        }
    }

    fn load_control(&mut self, cpu: &CpuVirt) {
        let page = self.page;
        let limits = &cpu.limits;
        let guest_cr0 = state::sane_cr0(peek!(page, cr0));
        let guest_cr4 = peek!(page, cr4) & limits.cr4;
        let guest_efer = limits.efer(peek!(page, efer), guest_cr0);
        let cr0 = guest_cr0 & !(cr0::CD | cr0::NW) | self.cr0_needed;
        let cr4 = guest_cr4 | self.cr4_needed;
        self.cr2 = peek!(page, cr2);
        self.cr0_shadow = guest_cr0;
        self.cr4_shadow = guest_cr4 & !cr4::VMXE;
        for (field, value) in [
            (field::CR0, cr0),
            (field::CR3, peek!(page, cr3)),
            (field::CR4, cr4),
            (field::IA32_EFER_FULL, guest_efer),
        ] {
            if vmcs::read(field) != value {
                self.set_flush();
                set(field, value);
            }
        }
        let mut entry = host_of(&cpu.host).capabilities.entry;
        if guest_efer & efer::LMA != 0 {
            entry |= EntryControls::IA32E_MODE_GUEST.bits();
        }
        // SAFETY: masks keep the host's bits of CR0 and CR4 from the guest; the entry control follows EFER.
        unsafe {
            vmcs::write(control::CR0_READ_SHADOW, self.cr0_shadow);
            vmcs::write(control::CR4_READ_SHADOW, self.cr4_shadow);
            vmcs::write(control::CR4_GUEST_HOST_MASK, self.cr4_mask(limits.cr4));
            vmcs::write(control::VMENTRY_CONTROLS, u64::from(entry));
        }
    }

    fn load_events(&mut self) {
        let page = self.page;
        self.set_pending(Event::from_monitor(peek!(page, inject)));
        poke!(page, 0, inject);
        let shadow = peek!(page, interrupt_shadow);
        let mut blocking = 0;
        if shadow & SHADOW_INTERRUPT != 0 {
            // Blocking by STI is not valid without IF (Intel SDM 3C 27.3.1.5).
            blocking |= match vmcs::read(field::RFLAGS) & state::RFLAGS_IF {
                0 => BLOCKING_MOV_SS,
                _ => BLOCKING_STI,
            };
        }
        if shadow & SHADOW_NMI != 0 {
            blocking |= BLOCKING_NMI;
        }
        set(field::INTERRUPTIBILITY_STATE, blocking);
        let controls = peek!(page, controls);
        let window = controls & CONTROL_INTERRUPT_WINDOW != 0;
        self.set_primary(PrimaryControls::INTERRUPT_WINDOW_EXITING, window);
        let window = controls & CONTROL_NMI_WINDOW != 0;
        self.set_primary(PrimaryControls::NMI_WINDOW_EXITING, window);
    }

    fn load_syscall(&mut self, cpu: &mut CpuVirt) {
        // The next entry loads the new values.
        self.lend(cpu);
        let page = self.page;
        let limits = &cpu.limits;
        self.msrs.star = peek!(page, star);
        self.msrs.lstar = limits.canonical(peek!(page, lstar));
        self.msrs.cstar = limits.canonical(peek!(page, cstar));
        self.msrs.sfmask = peek!(page, sfmask) & 0xffff_ffff;
        self.msrs.kernel_gs_base = limits.canonical(peek!(page, kernel_gs_base));
        self.differs = [true; 2];
        set(
            field::IA32_SYSENTER_CS,
            peek!(page, sysenter_cs) & 0xffff_ffff,
        );
        set(field::IA32_SYSENTER_ESP, peek!(page, sysenter_esp));
        set(field::IA32_SYSENTER_EIP, peek!(page, sysenter_eip));
    }
}
