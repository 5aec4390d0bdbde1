//! The way into guest mode and back.

use core::arch::naked_asm;

use abi::vcpu::x86_64::{RAX, RBP, RBX, RCX, RDI, RDX, RSI, VcpuState};
use x86::vmx::vmcs::host;

use super::super::super::speculation::fill_return_stack;

/// Offset of a general register in the state page.
const fn gpr(index: usize) -> usize {
    core::mem::offset_of!(VcpuState, gpr) + 8 * index
}

bitflags::bitflags! {
    /// How guest mode is entered and left.
    #[derive(Clone, Copy, Debug)]
    #[repr(transparent)]
    pub(super) struct Way: u64 {
        /// The VMCS is launched: VMRESUME.
        const LAUNCHED = 1 << 0;
        /// The return stack is filled after exits. The same as long as `host_rsp` is.
        const FILL_RETURNS = 1 << 1;
    }
}

/// Runs the current VMCS with the general registers of `state` until the next exit, and stores them there. `host_rsp` is what HOST_RSP of this VMCS was last set to, 0 for never.
/// Returns 0 after an exit, 1 when VMLAUNCH or VMRESUME failed.
///
/// An exit and the way back in take 53 instructions here: 27 up to VMRESUME, 26 from the exit on.
///
/// # Safety
///
/// The CPU is in VMX operation; the current VMCS has controls and host state of this backend, but for
/// HOST_RSP and HOST_RIP; `state` is a vCPU's state page, `way` tells the VMCS's launch state.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn run(
    state: *mut VcpuState,
    way: Way,
    host_rsp: *mut u64,
) -> u64 {
    naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdi",
        "cmp rsp, [rdx]",
        "jne 7f",
        "2:",
        // The flags last until the jump: MOV does not change them.
        "test sil, {launched}",
        "mov rax, [rdi + {rax}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "jz 3f",
        "vmresume",
        "jmp 4f",
        "3:",
        "vmlaunch",
        "4:",
        "pop rdi",
        "mov eax, 1",
        "jmp 6f",
        // Exits arrive here: host RSP is that of the `cmp` above.
        "5:",
        "push rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rax}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pop qword ptr [rdi + {rdi}]",
        "pop rdi",
        "xor eax, eax",
        "6:",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
        // The stack is another one than last time.
        "7:",
        "mov [rdx], rsp",
        "mov eax, {host_rsp}",
        "vmwrite rax, rsp",
        "lea rcx, [rip + 5b]",
        "lea rax, [rip + 8f]",
        "test sil, {fill_returns}",
        "cmovnz rcx, rax",
        "mov eax, {host_rip}",
        "vmwrite rax, rcx",
        "jmp 2b",
        // Exits arrive here instead: no return before this is done.
        "8:",
        "push rax",
        fill_return_stack!(),
        "pop rax",
        "jmp 5b",
        launched = const Way::LAUNCHED.bits(),
        fill_returns = const Way::FILL_RETURNS.bits(),
        rax = const gpr(RAX),
        rcx = const gpr(RCX),
        rdx = const gpr(RDX),
        rbx = const gpr(RBX),
        rbp = const gpr(RBP),
        rsi = const gpr(RSI),
        rdi = const gpr(RDI),
        r8 = const gpr(8),
        r9 = const gpr(9),
        r10 = const gpr(10),
        r11 = const gpr(11),
        r12 = const gpr(12),
        r13 = const gpr(13),
        r14 = const gpr(14),
        r15 = const gpr(15),
        host_rsp = const host::RSP,
        host_rip = const host::RIP,
    )
}
