//! The way into guest mode and back.

use core::arch::naked_asm;

use super::super::super::speculation::fill_return_stack;
use abi::vcpu::x86_64::{RBP, RBX, RCX, RDI, RDX, RSI, VcpuState};

/// Offset of a general register in the state page.
const fn gpr(index: usize) -> usize {
    core::mem::offset_of!(VcpuState, gpr) + 8 * index
}

macro_rules! run {
    ($($after_exit:tt)*) => { naked_asm!(
        "push rbp",
        "push rbx",
        "push r12",
        "push r13",
        "push r14",
        "push r15",
        "push rdx",
        "push rdi",
        "mov rax, rsi",
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
        "clgi",
        "sti",
        "vmload rax",
        "vmrun rax",
        // VMRUN has restored RAX, RSP and RFLAGS.
        "vmsave rax",
        $($after_exit)*
        "push rdi",
        "mov rdi, [rsp + 8]",
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
        "pop rax",
        "vmload rax",
        "cli",
        "stgi",
        "pop r15",
        "pop r14",
        "pop r13",
        "pop r12",
        "pop rbx",
        "pop rbp",
        "ret",
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
    ) };
}

/// Runs the VMCB at physical address `vmcb` with the general registers of `state`, but for RAX, until the
/// next exit, and stores them there. `host` is the physical address of what VMSAVE saved of the CPU.
///
/// Interrupts: with the global interrupt flag clear, nothing arrives. The machine's interrupts end guest mode
/// only if IF is set at VMRUN, as guests run with V_INTR_MASKING, hence STI, after CLGI, and CLI before STGI
/// (AMD APM 2 15.17, 15.21). So a pending NMI is taken at STGI, a pending interrupt when the caller lets it.
///
/// An exit and the way back in take 56 instructions here: 27 up to VMRUN, 29 from the exit on.
///
/// # Safety
///
/// EFER.SVME and the host save area are set; the VMCB is one of this backend; interrupts are off; `state` is a
/// vCPU's state page.
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn run(state: *mut VcpuState, vmcb: u64, host: u64) {
    run!()
}

/// As [`run`], and fills the return stack before the first return.
///
/// # Safety
///
/// As for [`run`].
#[unsafe(naked)]
pub(super) unsafe extern "sysv64" fn run_and_fill(state: *mut VcpuState, vmcb: u64, host: u64) {
    run!(fill_return_stack!(),)
}
