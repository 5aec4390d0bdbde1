//! x86-64.

use abi::Op;
use abi::vcpu::x86_64::{Segment, VcpuState};
use core::arch::naked_asm;

/// Answers each call with what it got.
#[unsafe(naked)]
pub extern "C" fn echo() -> ! {
    naked_asm!("2: mov eax, {reply}", "syscall", "jmp 2b", reply = const Op::ReplyWait as u32)
}

/// A guest that starts at `entry` in 32-bit protected mode, flat, without paging.
pub fn initial_state(entry: u64) -> VcpuState {
    let data = Segment { selector: 16, access: 0xc093, limit: u32::MAX, ..Segment::default() };
    VcpuState {
        rip: entry,
        rflags: 2,
        cr0: 0x31,
        deadline: u64::MAX,
        xcr0: 1,
        dr7: 0x400,
        pat: 0x0007_0406_0007_0406,
        cs: Segment { selector: 8, access: 0xc09b, ..data },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ldtr: Segment { access: 0x1_0000, ..Segment::default() },
        tr: Segment { selector: 24, access: 0x8b, limit: 0x67, ..Segment::default() },
        ..VcpuState::default()
    }
}
