//! The way into guest mode and back.
//!
//! An exit is a kernel entry of its own: nothing is left on a stack. What the monitor is told without a closer look goes on
//! to [`super::tell`] at once; all else to the general path, [`guest_left`], which defines what an exit means.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::super::speculation::fill_return_stack;
use super::super::traps::guest_left;
use super::super::virt::CpuVirt;
use super::super::virt::svm::exit::{IOIO, MSR, NESTED_PAGE_FAULT, TOLD};
use super::super::virt::svm::vmcb::{InterruptControl, Vmcb};
use super::{GUEST, STACK, VIRT, offset, tell, tell_write};
use abi::vcpu::{ExitKind, FAULT_FETCH, FAULT_READ, FAULT_WRITE};

/// Byte of the virtual interrupt control that holds V_INTR_MASKING.
const MASKING: usize = offset_of!(Vmcb, interrupt_control) + 3;

// What the assembly takes for granted.
const _: () = {
    assert!(InterruptControl::V_INTR_MASKING.bits() == 1 << 24);
    assert!(ExitKind::WriteMsr as u32 == ExitKind::ReadMsr as u32 + 1);
};

unsafe extern "C" {
    /// As [`enter`], with the state page in rbx and the vCPU in rbp, by a jump.
    pub fn svm_resume();
}

/// Runs guest code on the vCPU in `CpuArch::guest`, until an exit, which is a kernel entry of its own.
///
/// The way in takes 23 instructions from `svm_resume` up to VMRUN, the way out 28 until everything is in its place.
///
/// Interrupts: with the global interrupt flag clear, nothing arrives. The machine's interrupts end guest mode
/// only if IF is set at VMRUN, as guests run with V_INTR_MASKING, hence STI, after CLGI, and CLI before STGI
/// (AMD APM 2 15.17, 15.21). So a pending NMI is taken at STGI, a pending interrupt when the kernel lets it.
///
/// V_INTR_MASKING is set each time: the machine's interrupts depend on it, and the processor writes the field at every exit;
/// QEMU 7.2 clears it when VMRUN refuses the state.
///
/// # Safety
///
/// EFER.SVME and the host save area are set; the VMCB is one of this backend and complete; interrupts are off; what of the
/// vCPU the assembly uses is prepared ([`super::super::virt::VcpuArch::prepare`]); nothing on the stack is needed any more.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter() -> ! {
    naked_asm!(
        "mov rbp, gs:[{guest}]",
        "mov rbx, [rbp + {page}]",
        ".global svm_resume",
        "svm_resume:",
        "mov rdx, [rbp + {vmcb}]",
        "mov rax, [rbx]",
        "mov [rdx + {vmcb_rax}], rax",
        "or byte ptr [rdx + {masking}], 1",
        "mov rax, [rbp + {vmcb_phys}]",
        "mov rsp, rbp",
        load_registers!(),
        "clgi",
        "sti",
        "vmload rax",
        "vmrun rax",
        // VMRUN has restored RAX, RSP and RFLAGS.
        "vmsave rax",
        "mov rax, [rsp + {page}]",
        store_registers!(),
        "mov r15, rax",
        "mov rbx, [rsp + {vmcb}]",
        "mov rax, [rsp + {host}]",
        "vmload rax",
        "cli",
        "stgi",
        "mov rax, [rbx + {vmcb_rax}]",
        "mov [r15], rax",
        // What was to be flushed or injected was, and what the processor has cached is true.
        "mov byte ptr [rbx + {tlb_control}], 0",
        "mov qword ptr [rbx + {inject}], 0",
        "mov eax, [rsp + {clean}]",
        "mov [rbx + {vmcb_clean}], eax",
        // All is in its place: rsp is the vCPU, rbx the VMCB and r15 the state page.
        "cmp byte ptr gs:[{fills_returns}], 0",
        "jne 9f",
        "7:",
        // An event whose delivery the exit interrupted is for the general path.
        "stage_entry_exit:",
        "cmp dword ptr [rbx + {interrupted}], 0",
        "jl 8f",
        "mov ecx, [rbx + {exit_code}]",
        "cmp ecx, {codes}",
        "jae 3f",
        "movzx esi, word ptr [rcx * 2 + {told}]",
        "test esi, esi",
        "jz 4f",
        "xor edx, edx",
        "xor r8d, r8d",
        "2:",
        "xor r9d, r9d",
        "cmp byte ptr [rsp + {next_rip}], 0",
        "je {tell}",
        // The processor tells where the next instruction is, if there was one.
        "cmp esi, 255",
        "jbe {tell}",
        "mov ecx, [rbx + {vmcb_next_rip}]",
        "sub ecx, [rbx + {rip}]",
        "shl ecx, 8",
        "movzx esi, sil",
        "movzx ecx, cx",
        "or esi, ecx",
        "jmp {tell}",

        // A fault of the second-level tables: rdx = what was tried, r8 = where.
        "3:",
        "cmp ecx, {page_fault}",
        "jne 8f",
        "mov ecx, [rbx + {info1}]",
        "mov edx, {read}",
        "mov eax, {fetch}",
        "test cl, 1 << 4",
        "cmovnz edx, eax",
        "mov eax, {write}",
        "test cl, 1 << 1",
        "cmovnz edx, eax",
        "mov r8, [rbx + {info2}]",
        "mov esi, {stage_two_fault}",
        "jmp 2b",

        "4:",
        "cmp ecx, {msr}",
        "je 5f",
        "cmp ecx, {ioio}",
        "jne 8f",
        // Ports, but not strings. rdx = word 1, r8 = the next instruction.
        "mov ecx, [rbx + {info1}]",
        "test cl, 3 << 2",
        "jnz 8f",
        "mov eax, ecx",
        "mov edx, ecx",
        "shr edx, 16",
        "shl ecx, 12",
        "and ecx, 7 << 16",
        "or edx, ecx",
        "mov r8, [rbx + {info2}]",
        "mov ecx, r8d",
        "sub ecx, [rbx + {rip}]",
        "movzx ecx, cl",
        "shl ecx, 8",
        "lea esi, [rcx + {io}]",
        "xor r9d, r9d",
        "test al, 1",
        "jz {tell_write}",
        "or edx, 1 << 24",
        "jmp {tell}",
        // RDMSR, WRMSR.
        "5:",
        "mov ecx, [rbx + {info1}]",
        "and ecx, 1",
        "lea esi, [rcx + {read_msr} + 2 * 256]",
        "xor edx, edx",
        "xor r8d, r8d",
        "jmp 2b",

        // The return stack is filled before anything returns.
        "9:",
        "mov rbp, rsp",
        "mov rsp, gs:[{stack}]",
        fill_return_stack!(),
        "mov rsp, rbp",
        "jmp 7b",
        "8:",
        general_path!(),
        guest = const GUEST,
        fills_returns = const VIRT + offset_of!(CpuVirt, fills_returns),
        page = const offset::PAGE,
        vmcb = const offset::VMCB,
        vmcb_phys = const offset::ID,
        host = const offset::HOST,
        clean = const offset::CLEAN,
        next_rip = const offset::NEXT_RIP,
        stack = const STACK,
        vmcb_rax = const offset_of!(Vmcb, rax),
        vmcb_clean = const offset_of!(Vmcb, clean),
        vmcb_next_rip = const offset_of!(Vmcb, next_rip),
        masking = const MASKING,
        tlb_control = const offset_of!(Vmcb, tlb_control),
        inject = const offset_of!(Vmcb, inject),
        interrupted = const offset_of!(Vmcb, exit_interrupted),
        exit_code = const offset_of!(Vmcb, exit_code),
        info1 = const offset_of!(Vmcb, exit_info1),
        info2 = const offset_of!(Vmcb, exit_info2),
        rip = const offset_of!(Vmcb, rip),
        codes = const TOLD.len(),
        told = sym TOLD,
        page_fault = const NESTED_PAGE_FAULT,
        msr = const MSR,
        ioio = const IOIO,
        read = const FAULT_READ,
        write = const FAULT_WRITE,
        fetch = const FAULT_FETCH,
        stage_two_fault = const ExitKind::StageTwoFault as u32,
        io = const ExitKind::Io as u32,
        read_msr = const ExitKind::ReadMsr as u32,
        tell = sym tell,
        tell_write = sym tell_write,
        guest_left = sym guest_left,
    )
}
