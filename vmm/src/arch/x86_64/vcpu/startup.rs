//! The states in which vCPUs start: the first as the 64-bit boot protocol of Linux asks for, the others as after INIT
//! and a start-up message (Intel SDM 3A 9.1.1, 9.4; AMD APM 2 14.1.3).
use super::{Platform, Vcpu};
use crate::arch::x86_64::boot::load::{CODE_SELECTOR, DATA_SELECTOR};
use crate::arch::x86_64::paging::{CR0_PE, CR0_PG, CR4_PAE, EFER_LMA};
use abi::vcpu::x86_64::{Groups, RDX, RSI, Segment, Table};

/// CR0.ET and CR0.NE.
const CR0_FPU: u64 = 1 << 4 | 1 << 5;
/// EFER.LME.
const EFER_LME: u64 = 1 << 8;
/// PAT after reset.
const PAT: u64 = 0x0007_0406_0007_0406;
/// CR0 after INIT: the firmware has switched the caches on.
const CR0_INIT: u64 = 1 << 4;
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
/// Access rights in real mode: present code, accessed.
const REAL_CODE: u32 = 0x009b;
/// Access rights in real mode: present data, writable, accessed.
const REAL_DATA: u32 = 0x0093;
/// Access rights: present LDT.
const LDT: u32 = 0x0082;
/// Limit of segments and tables in real mode.
const REAL_LIMIT: u32 = 0xffff;
/// What INIT resets. The rest stays: PAT, XCR0, TSC, and the MSRs of system calls.
const INIT: Groups = Groups::RIP
    .union(Groups::RSP_RFLAGS)
    .union(Groups::CONTROL)
    .union(Groups::CS_SS)
    .union(Groups::SEGMENTS)
    .union(Groups::EVENTS)
    .union(Groups::DEBUG)
    .union(Groups::DEADLINE);
/// Access rights: unusable.
const UNUSABLE: u32 = 1 << 16;

const fn segment(selector: u16, access: u32, limit: u32) -> Segment {
    Segment { selector, reserved: 0, access, limit, reserved2: 0, base: 0 }
}

impl<P: Platform> Vcpu<P> {
    /// The first exit: the first vCPU starts, others wait for that.
    pub(super) fn startup(&mut self) -> Groups {
        let start = self.vm.start;
        self.power_on();
        if self.waiting {
            self.reset_state(0);
            self.park();
            return Groups::all();
        }
        let state = &mut self.state;
        state.set_gpr(RSI, start.zero_page);
        state.set_rip(start.entry);
        state.set_cr0(CR0_PE | CR0_PG | CR0_FPU);
        state.set_cr3(start.cr3);
        state.set_cr4(CR4_PAE);
        state.set_efer(EFER_LME | EFER_LMA);
        state.set_cs(segment(CODE_SELECTOR, CODE, u32::MAX));
        let data = segment(DATA_SELECTOR, DATA, u32::MAX);
        state.set_ss(data);
        state.set_ds(data);
        state.set_es(data);
        state.set_fs(data);
        state.set_gs(data);
        state.set_ldtr(segment(0, UNUSABLE, 0));
        state.set_tr(segment(0, TASK, 0xffff));
        state.set_gdtr(Table { limit: start.gdt_limit, base: start.gdt });
        state.set_idtr(Table { limit: 0, base: 0 });
        Groups::all()
    }

    /// What starts as 0 or so for every vCPU.
    fn power_on(&mut self) {
        let state = &mut self.state;
        for register in 0..16 {
            state.set_gpr(register, 0);
        }
        state.set_rflags(1 << 1);
        state.set_cr2(0);
        state.set_xcr0(XCR0);
        state.set_dr7(DR7);
        state.set_pat(PAT);
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
    }

    /// Sets the state after INIT, to run in real mode from a page of the first MiB on.
    pub(super) fn reset_state(&mut self, page: u8) -> Groups {
        let signature = self.vm.cpuid.signature();
        let state = &mut self.state;
        for register in 0..16 {
            state.set_gpr(register, 0);
        }
        state.set_gpr(RDX, signature.into());
        state.set_rip(0);
        state.set_rflags(1 << 1);
        state.set_cr0(CR0_INIT);
        state.set_cr2(0);
        state.set_cr3(0);
        state.set_cr4(0);
        state.set_efer(0);
        state.set_dr7(DR7);
        state.set_cs(Segment {
            base: u64::from(page) << 12,
            ..segment(u16::from(page) << 8, REAL_CODE, REAL_LIMIT)
        });
        let data = segment(0, REAL_DATA, REAL_LIMIT);
        state.set_ss(data);
        state.set_ds(data);
        state.set_es(data);
        state.set_fs(data);
        state.set_gs(data);
        state.set_ldtr(segment(0, LDT, REAL_LIMIT));
        state.set_tr(segment(0, TASK, REAL_LIMIT));
        let table = Table { limit: REAL_LIMIT.into(), base: 0 };
        state.set_gdtr(table);
        state.set_idtr(table);
        state.set_inject(0);
        state.set_interrupt_shadow(0);
        state.set_controls(0);
        state.set_deadline(u64::MAX);
        INIT
    }
}
