//! The virtual machine control block (AMD APM 2 appendix B).

use core::mem::offset_of;

use abi::vcpu::x86_64::{Segment, Table};
use bitflags::bitflags;

use super::super::state::{SegmentRegister, SyscallMsrs};

bitflags! {
    /// First word of intercepts, at offset 00Ch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercepts1: u32 {
        const INTR = 1 << 0;
        const NMI = 1 << 1;
        const INIT = 1 << 3;
        const VINTR = 1 << 4;
        const RDPMC = 1 << 15;
        const CPUID = 1 << 18;
        const RSM = 1 << 19;
        const IRET = 1 << 20;
        const INVD = 1 << 22;
        const PAUSE = 1 << 23;
        const HLT = 1 << 24;
        const INVLPGA = 1 << 26;
        const IOIO = 1 << 27;
        const MSR = 1 << 28;
        const TASK_SWITCH = 1 << 29;
        const FERR_FREEZE = 1 << 30;
        const SHUTDOWN = 1 << 31;
    }

    /// Second word, at offset 010h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Intercepts2: u32 {
        const VMRUN = 1 << 0;
        const VMMCALL = 1 << 1;
        const VMLOAD = 1 << 2;
        const VMSAVE = 1 << 3;
        const STGI = 1 << 4;
        const CLGI = 1 << 5;
        const SKINIT = 1 << 6;
        const WBINVD = 1 << 9;
        const MONITOR = 1 << 10;
        const MWAIT = 1 << 11;
        const MWAIT_ARMED = 1 << 12;
        const XSETBV = 1 << 13;
        const RDPRU = 1 << 14;
    }

    /// Virtual interrupt control, at offset 060h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InterruptControl: u64 {
        /// A virtual interrupt waits.
        const V_IRQ = 1 << 8;
        /// Of the highest priority.
        const V_PRIORITY = 0xf << 16;
        /// It does not look at the task priority.
        const V_IGNORE_TPR = 1 << 20;
        /// RFLAGS.IF and CR8 of the guest say nothing about the machine's interrupts.
        const V_INTR_MASKING = 1 << 24;
    }

    /// Parts of the VMCB that the processor may have cached and that have not changed, at offset 0C0h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Clean: u32 {
        /// Intercepts, TSC offset.
        const INTERCEPTS = 1 << 0;
        /// Addresses of the I/O and MSR permission maps.
        const MAPS = 1 << 1;
        const ASID = 1 << 2;
        /// Virtual interrupt control.
        const TPR = 1 << 3;
        /// Nested paging: N_CR3, G_PAT.
        const NESTED = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CRX = 1 << 5;
        /// DR6, DR7.
        const DRX = 1 << 6;
        /// GDTR, IDTR.
        const TABLES = 1 << 7;
        /// CS, DS, SS, ES and CPL.
        const SEGMENTS = 1 << 8;
        const CR2 = 1 << 9;
    }
}

/// DR0 to DR7, reads and writes.
pub const ALL_DEBUG_REGISTERS: u32 = 0x00ff_00ff;

/// Where [`Vmcb::segments`] has each [`SegmentRegister`].
pub const SEGMENT_PLACES: [u8; SegmentRegister::COUNT] = [1, 2, 3, 0, 4, 5, 7, 9];
/// Where it has GDTR.
pub const GDTR: usize = 6;
/// Where it has IDTR.
pub const IDTR: usize = 8;

/// TLB control, where 0 leaves it: flush everything; flush this ASID.
pub const TLB_FLUSH_ALL: u8 = 1;
pub const TLB_FLUSH_ASID: u8 = 3;

/// A segment register, with its attributes in the format of the VMCB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct VmcbSegment {
    pub selector: u16,
    pub attributes: u16,
    pub limit: u32,
    pub base: u64,
}

/// ABI: access rights of an unusable segment.
const UNUSABLE: u32 = 1 << 16;
/// Present, in both formats.
const PRESENT: u32 = 1 << 7;
const DPL: u32 = 3 << 5;

impl VmcbSegment {
    /// From the ABI's format: bits 12 to 15 of the access rights move to 8 to 11, an unusable segment is
    /// one without attributes. The base is for the caller to check.
    pub const fn from_abi(segment: Segment) -> VmcbSegment {
        let access = segment.access;
        let attributes =
            if access & UNUSABLE != 0 { 0 } else { access & 0xff | access >> 4 & 0xf00 };
        VmcbSegment {
            selector: segment.selector,
            attributes: attributes as u16,
            limit: segment.limit,
            base: segment.base,
        }
    }

    /// To the ABI's format.
    pub const fn to_abi(self) -> Segment {
        let attributes = self.attributes as u32;
        let mut access = attributes & 0xff | (attributes & 0xf00) << 4;
        if attributes & PRESENT == 0 {
            access |= UNUSABLE;
        }
        Segment {
            selector: self.selector,
            reserved: 0,
            access,
            limit: self.limit,
            reserved2: 0,
            base: self.base,
        }
    }

    /// The same with a 32-bit base: that of CS, SS, DS and ES. VMX refuses others; here it depends on the
    /// processor, and QEMU 7.2 ends itself.
    pub const fn with_short_base(self) -> VmcbSegment {
        VmcbSegment { base: self.base & 0xffff_ffff, ..self }
    }

    /// The descriptor's privilege level.
    pub const fn privilege(self) -> u8 {
        ((self.attributes as u32 & DPL) >> 5) as u8
    }

    /// The same with another privilege level.
    pub const fn with_privilege(self, level: u8) -> VmcbSegment {
        let attributes = self.attributes as u32 & !DPL | (level as u32 & 3) << 5;
        VmcbSegment { attributes: attributes as u16, ..self }
    }

    /// From a descriptor-table register.
    pub fn from_table(table: Table) -> VmcbSegment {
        let limit = table.limit as u32 & 0xffff;
        VmcbSegment { limit, base: table.base, ..VmcbSegment::default() }
    }

    /// To a descriptor-table register.
    pub const fn to_table(self) -> Table {
        Table { limit: self.limit as u64, base: self.base }
    }
}

/// The control block: one page.
#[repr(C, align(4096))]
pub struct Vmcb {
    pub intercept_cr: u32,
    pub intercept_dr: u32,
    pub intercept_exceptions: u32,
    pub intercepts1: Intercepts1,
    pub intercepts2: Intercepts2,
    reserved014: [u8; 0x40 - 0x14],
    pub iopm: u64,
    pub msrpm: u64,
    pub tsc_offset: u64,
    pub asid: u32,
    pub tlb_control: u8,
    reserved05d: [u8; 3],
    pub interrupt_control: InterruptControl,
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    pub exit_interrupted: u64,
    pub nested_control: u64,
    reserved098: [u8; 0xa8 - 0x98],
    pub inject: u64,
    pub nested_cr3: u64,
    reserved0b8: [u8; 8],
    pub clean: Clean,
    reserved0c4: [u8; 4],
    pub next_rip: u64,
    reserved0d0: [u8; 0x400 - 0xd0],
    /// ES, CS, SS, DS, FS, GS, GDTR, LDTR, IDTR, TR.
    pub segments: [VmcbSegment; 10],
    reserved4a0: [u8; 0x4cb - 0x4a0],
    pub cpl: u8,
    reserved4cc: [u8; 4],
    pub efer: u64,
    reserved4d8: [u8; 0x548 - 0x4d8],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved580: [u8; 0x5d8 - 0x580],
    pub rsp: u64,
    reserved5e0: [u8; 0x5f8 - 0x5e0],
    pub rax: u64,
    pub syscall: SyscallMsrs,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved648: [u8; 0x668 - 0x648],
    pub g_pat: u64,
    reserved670: [u8; 0x1000 - 0x670],
}

const _: () = {
    assert!(size_of::<Vmcb>() == 0x1000);
    assert!(offset_of!(Vmcb, iopm) == 0x40);
    assert!(offset_of!(Vmcb, asid) == 0x58);
    assert!(offset_of!(Vmcb, interrupt_control) == 0x60);
    assert!(offset_of!(Vmcb, exit_code) == 0x70);
    assert!(offset_of!(Vmcb, exit_interrupted) == 0x88);
    assert!(offset_of!(Vmcb, nested_control) == 0x90);
    assert!(offset_of!(Vmcb, inject) == 0xa8);
    assert!(offset_of!(Vmcb, clean) == 0xc0);
    assert!(offset_of!(Vmcb, next_rip) == 0xc8);
    assert!(offset_of!(Vmcb, segments) == 0x400);
    assert!(offset_of!(Vmcb, cpl) == 0x4cb);
    assert!(offset_of!(Vmcb, efer) == 0x4d0);
    assert!(offset_of!(Vmcb, cr4) == 0x548);
    assert!(offset_of!(Vmcb, rip) == 0x578);
    assert!(offset_of!(Vmcb, rsp) == 0x5d8);
    assert!(offset_of!(Vmcb, rax) == 0x5f8);
    assert!(offset_of!(Vmcb, cr2) == 0x640);
    assert!(offset_of!(Vmcb, g_pat) == 0x668);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_convert_both_ways() {
        let code =
            Segment { selector: 0x10, access: 0xa09b, limit: 0xffff_ffff, ..Segment::default() };
        let vmcb = VmcbSegment::from_abi(code);
        assert_eq!(vmcb.attributes, 0xa9b);
        assert_eq!(vmcb.to_abi(), code);

        let unusable = Segment { access: UNUSABLE | 0xf0f3, ..Segment::default() };
        let vmcb = VmcbSegment::from_abi(unusable);
        assert_eq!(vmcb.attributes, 0);
        assert_eq!(vmcb.to_abi().access, UNUSABLE);
    }

    #[test]
    fn privilege_is_in_the_attributes() {
        let stack = VmcbSegment { attributes: 0xc93, ..VmcbSegment::default() };
        assert_eq!(stack.privilege(), 0);
        assert_eq!(stack.with_privilege(3).attributes, 0xcf3);
        assert_eq!(stack.with_privilege(3).privilege(), 3);
    }
}
