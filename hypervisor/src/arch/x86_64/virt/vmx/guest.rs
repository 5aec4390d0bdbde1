//! Guest state between the VMCS and the state page.

use abi::vcpu::x86_64::{Segment, Table};
use x86::vmx::vmcs::control::{self, EntryControls, PrimaryControls, SecondaryControls};
use x86::vmx::vmcs::guest as field;

use super::super::cpu::CpuVirt;
use super::super::event;
use super::super::guest::{Blocking, ControlRegisters};
use super::super::state::{self, Limits, SegmentRegister, SyscallMsrs, cr0, cr4, efer};
use super::super::static_address;
use super::capabilities::ENCLV_EXITING_BITMAP;
use super::msr_bitmap::MSR_BITMAP;
use super::{BLOCKING_MOV_SS, BLOCKING_NMI, BLOCKING_STI, ControlWord, Vcpu, vmcs};

/// Fields that are 0 in a new VMCS. Three of them count MSRs in lists ([`SyscallMsrs::replace`]).
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

/// Bits of a segment's access rights that VM entry does not demand to be 0.
const ACCESS_RIGHTS: u32 = 0x1_f0ff;
/// Access rights: the segment is unusable.
const UNUSABLE: u32 = 1 << 16;

/// Where the VMCS has each [`SegmentRegister`]: their fields are in the same order everywhere.
const SEGMENT_PLACES: [u8; SegmentRegister::COUNT] = [2, 4, 6, 0, 8, 10, 12, 14];

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
    pub(super) fn initialise(&mut self) {
        let capabilities = self.capabilities;
        let controls = |word| u64::from(capabilities.controls(word));
        // SAFETY: the controls as `Capabilities` has computed and this module documents them, and guest state.
        unsafe {
            vmcs::write_all(&[
                (control::PINBASED_EXEC_CONTROLS, controls(ControlWord::Pin)),
                (control::PRIMARY_PROCBASED_EXEC_CONTROLS, self.primary.into()),
                (control::SECONDARY_PROCBASED_EXEC_CONTROLS, controls(ControlWord::Secondary)),
                (control::VMEXIT_CONTROLS, controls(ControlWord::Exit)),
                (control::VMENTRY_CONTROLS, controls(ControlWord::Entry)),
                (control::EXCEPTION_BITMAP, event::INTERCEPTED.into()),
                (control::MSR_BITMAPS_ADDR_FULL, static_address(&MSR_BITMAP).0),
                (control::CR0_GUEST_HOST_MASK, self.cr0_mask()),
                (field::LINK_PTR_FULL, u64::MAX),
                (field::DR7, state::RESET_DR7),
                (field::RFLAGS, state::RFLAGS_FIXED),
                (field::IA32_PAT_FULL, state::RESET_PAT),
            ]);
            vmcs::write_all(&ZERO_FIELDS.map(|field| (field, 0)));
        }
        // Fields that exist only with their control.
        for &(control, field) in &[
            (SecondaryControls::ENABLE_XSAVES_XRSTORS, control::XSS_EXITING_BITMAP_FULL),
            (SecondaryControls::ENCLS_EXITING, control::ENCLS_EXITING_BITMAP_FULL),
            (SecondaryControls::ENCLV_EXITING, ENCLV_EXITING_BITMAP),
        ] {
            if capabilities.has(control) {
                // SAFETY: everything exits.
                unsafe { vmcs::write(field, u64::MAX) };
            }
        }
        let unusable = Segment { access: UNUSABLE, ..Segment::default() };
        for register in SegmentRegister::ALL {
            self.set_segment(register, unusable);
        }
    }

    pub fn control_registers(&self, limits: &Limits) -> ControlRegisters {
        let cr0_mask = self.cr0_mask();
        let cr4_mask = self.cr4_mask(limits.cr4);
        ControlRegisters {
            cr0: self.cr0_shadow & cr0_mask | vmcs::read(field::CR0) & !cr0_mask,
            cr2: self.cr2,
            cr3: vmcs::read(field::CR3),
            cr4: self.cr4_shadow & cr4_mask | vmcs::read(field::CR4) & !cr4_mask,
            efer: vmcs::read(field::IA32_EFER_FULL),
        }
    }

    pub fn load_control(&mut self, limits: &Limits, registers: ControlRegisters) {
        let ControlRegisters { cr0, cr2, cr3, cr4, efer } = registers;
        self.cr2 = cr2;
        self.cr0_shadow = cr0;
        self.cr4_shadow = cr4 & !cr4::VMXE;
        let cr0 = cr0 & !(cr0::CD | cr0::NW) | self.cr0_needed;
        self.set_translation(field::CR0, cr0);
        self.set_translation(field::CR3, cr3);
        self.set_translation(field::CR4, cr4 | self.cr4_needed);
        self.set_translation(field::IA32_EFER_FULL, efer);
        let mut entry = self.capabilities.controls(ControlWord::Entry);
        if efer & efer::LMA != 0 {
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

    /// Writes a register that linear translations depend on.
    #[inline(never)]
    fn set_translation(&mut self, field: u32, value: u64) {
        if vmcs::read(field) != value {
            self.common.set_flush();
            set(field, value);
        }
    }

    pub fn segment(&self, register: SegmentRegister) -> Segment {
        let place = u32::from(SEGMENT_PLACES[register as usize]);
        Segment {
            selector: vmcs::read(field::ES_SELECTOR + place) as u16,
            access: vmcs::read(field::ES_ACCESS_RIGHTS + place) as u32,
            limit: vmcs::read(field::ES_LIMIT + place) as u32,
            base: vmcs::read(field::ES_BASE + place),
            ..Segment::default()
        }
    }

    pub fn set_segment(&mut self, register: SegmentRegister, segment: Segment) {
        let place = u32::from(SEGMENT_PLACES[register as usize]);
        let access = segment.access & ACCESS_RIGHTS;
        set(field::ES_SELECTOR + place, segment.selector.into());
        set(field::ES_ACCESS_RIGHTS + place, access.into());
        set(field::ES_LIMIT + place, segment.limit.into());
        set(field::ES_BASE + place, segment.base);
    }

    /// GDTR and IDTR.
    pub fn tables(&self) -> [Table; 2] {
        let table = |limit, base| Table { limit: vmcs::read(limit), base: vmcs::read(base) };
        [table(field::GDTR_LIMIT, field::GDTR_BASE), table(field::IDTR_LIMIT, field::IDTR_BASE)]
    }

    pub fn set_tables(&mut self, [gdtr, idtr]: [Table; 2]) {
        set(field::GDTR_LIMIT, gdtr.limit & 0xffff);
        set(field::GDTR_BASE, gdtr.base);
        set(field::IDTR_LIMIT, idtr.limit & 0xffff);
        set(field::IDTR_BASE, idtr.base);
    }

    pub fn blocking(&self) -> Blocking {
        let state = vmcs::read(field::INTERRUPTIBILITY_STATE);
        let primary = PrimaryControls::from_bits_truncate(self.primary);
        let windows = [
            primary.contains(PrimaryControls::INTERRUPT_WINDOW_EXITING),
            primary.contains(PrimaryControls::NMI_WINDOW_EXITING),
        ];
        let shadow = state & (BLOCKING_STI | BLOCKING_MOV_SS) != 0;
        Blocking::new(shadow, state & BLOCKING_NMI != 0, windows)
    }

    pub fn set_blocking(&mut self, blocking: Blocking) {
        let mut state = 0;
        if blocking.blocks_interrupts() {
            // Blocking by STI is not valid without IF (Intel SDM 3C 27.3.1.5).
            state |= match vmcs::read(field::RFLAGS) & state::RFLAGS_IF {
                0 => BLOCKING_MOV_SS,
                _ => BLOCKING_STI,
            };
        }
        if blocking.blocks_nmis() {
            state |= BLOCKING_NMI;
        }
        set(field::INTERRUPTIBILITY_STATE, state);
        let mut windows = PrimaryControls::empty();
        windows.set(PrimaryControls::INTERRUPT_WINDOW_EXITING, blocking.interrupt_window());
        windows.set(PrimaryControls::NMI_WINDOW_EXITING, blocking.nmi_window());
        self.set_primary(
            PrimaryControls::INTERRUPT_WINDOW_EXITING | PrimaryControls::NMI_WINDOW_EXITING,
            windows,
        );
    }

    /// The instruction in an interrupt shadow is done.
    pub fn end_shadow(&mut self) {
        self.change_blocking(BLOCKING_STI | BLOCKING_MOV_SS, 0);
    }

    pub fn syscall_msrs(&mut self, cpu: &mut CpuVirt) -> SyscallMsrs {
        // The processor may have a newer KERNEL_GS_BASE.
        self.lend(cpu);
        self.msrs
    }

    pub fn set_syscall_msrs(&mut self, cpu: &mut CpuVirt, msrs: SyscallMsrs) {
        // The next entry loads the new values.
        self.lend(cpu);
        self.msrs = msrs;
        self.differs = [true; 2];
    }

    /// Whether PAUSE exits.
    pub fn set_spins_exit(&mut self, on: bool) {
        self.set_exits(PrimaryControls::PAUSE_EXITING, on);
    }

    /// Whether accesses to debug registers exit.
    pub fn set_debug_exits(&mut self, on: bool) {
        self.set_exits(PrimaryControls::MOV_DR_EXITING, on);
    }
}
