//! The state in which the first vCPU starts: what the 64-bit boot protocol of Linux asks for.
use super::{Platform, Vcpu};
use crate::arch::x86_64::boot::load::{CODE_SELECTOR, DATA_SELECTOR};
use crate::arch::x86_64::paging::{CR0_PE, CR0_PG, CR4_PAE, EFER_LMA};
use abi::vcpu::x86_64::{Groups, RSI, Segment, Table};

/// CR0.ET and CR0.NE.
const CR0_FPU: u64 = 1 << 4 | 1 << 5;
/// EFER.LME.
const EFER_LME: u64 = 1 << 8;
/// PAT after reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// XCR0 after reset: x87 alone.
const XCR0: u64 = 1;
/// DR7 after reset.
const DR7: u64 = 0x400;
/// Access rights: present code, 64-bit, accessed.
const CODE: u32 = 0xa09b;
/// Access rights: present data, 32-bit, writable, accessed.
const DATA: u32 = 0xc093;
/// Access rights: present busy TSS.
const TASK: u32 = 0x008b;
/// Access rights: unusable.
const UNUSABLE: u32 = 1 << 16;

const fn segment(selector: u16, access: u32, limit: u32) -> Segment {
    Segment {
        selector,
        reserved: 0,
        access,
        limit,
        reserved2: 0,
        base: 0,
    }
}

impl<P: Platform> Vcpu<P> {
    /// Sets everything for the first instruction of the guest.
    pub(super) fn startup(&mut self) -> Groups {
        let start = self.vm.start;
        let state = &mut self.state;
        for register in 0..16 {
            state.set_gpr(register, 0);
        }
        state.set_gpr(RSI, start.zero_page);
        state.set_rip(start.entry);
        state.set_rflags(1 << 1);
        state.set_cr0(CR0_PE | CR0_PG | CR0_FPU);
        state.set_cr2(0);
        state.set_cr3(start.cr3);
        state.set_cr4(CR4_PAE);
        state.set_efer(EFER_LME | EFER_LMA);
        state.set_xcr0(XCR0);
        state.set_dr7(DR7);
        state.set_pat(PAT);
        state.set_cs(segment(CODE_SELECTOR, CODE, u32::MAX));
        let data = segment(DATA_SELECTOR, DATA, u32::MAX);
        state.set_ss(data);
        state.set_ds(data);
        state.set_es(data);
        state.set_fs(data);
        state.set_gs(data);
        state.set_ldtr(segment(0, UNUSABLE, 0));
        state.set_tr(segment(0, TASK, 0xffff));
        state.set_gdtr(Table {
            limit: start.gdt_limit,
            base: start.gdt,
        });
        state.set_idtr(Table { limit: 0, base: 0 });
        state.set_star(0);
        state.set_lstar(0);
        state.set_cstar(0);
        state.set_sfmask(0);
        state.set_kernel_gs_base(0);
        state.set_sysenter_cs(0);
        state.set_sysenter_esp(0);
        state.set_sysenter_eip(0);
        state.set_tsc_offset(self.tsc_offset);
        state.set_tsc_aux(self.tsc_aux);
        state.set_deadline(u64::MAX);
        state.set_inject(0);
        state.set_interrupted(0);
        state.set_interrupt_shadow(0);
        state.set_controls(0);
        Groups::all()
    }
}
