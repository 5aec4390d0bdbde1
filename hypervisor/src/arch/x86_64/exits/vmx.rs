//! The way into guest mode and back.
//!
//! An exit is a kernel entry of its own: nothing is left on a stack. The stack pointer after it is inside the vCPU, where the one
//! register has room that has to be out of the way first. What the monitor is told without a closer look goes on to
//! [`super::tell`] at once; all else to the general path, [`guest_left`], which defines what an exit means.

use core::arch::naked_asm;
use core::mem::offset_of;

use super::super::speculation::fill_return_stack;
use super::super::traps::{again, guest_left, load_rip};
use super::super::virt::vmx::exit::{
    HAS_LENGTH, REASON_EPT_VIOLATION, REASON_IO, REASON_WRMSR, STORE, STORE_MASK, TOLD,
    UNBLOCKED_NMI,
};
use super::super::virt::vmx::{BLOCKING_MOV_SS, BLOCKING_STI};
use super::super::virt::{CpuVirt, SyscallMsrs};
use super::{GUEST, STACK, VIRT, guest_again, offset, tell, tell_groups, tell_now, tell_write};
use abi::vcpu::x86_64::{Groups, RCX, VcpuState};
use abi::vcpu::{ExitKind, FAULT_FETCH, FAULT_LINEAR, FAULT_READ, FAULT_WRITE};
use x86::msr;
use x86::vmx::vmcs::{guest as guest_field, ro};

// What the assembly takes for granted.
const _: () = {
    assert!(HAS_LENGTH == 0x80);
    assert!(offset_of!(SyscallMsrs, star) == 0);
    assert!(msr::IA32_LSTAR == msr::IA32_STAR + 1 && offset_of!(SyscallMsrs, lstar) == 8);
    assert!(msr::IA32_CSTAR == msr::IA32_STAR + 2 && offset_of!(SyscallMsrs, cstar) == 16);
    assert!(msr::IA32_FMASK == msr::IA32_STAR + 3 && offset_of!(SyscallMsrs, sfmask) == 24);
};

unsafe extern "C" {
    /// As [`enter`], with the state page in rbx and the vCPU in rbp, by a jump; the VMCS is launched, and what is the guest's
    /// may be lent.
    pub fn vmx_resume();
    fn vmx_left();
    fn vmx_left_filling();
}

/// Where exits arrive: where the return stack is not filled, and where it is.
pub fn ways_out() -> [u64; 2] {
    [vmx_left as *const () as u64, vmx_left_filling as *const () as u64]
}

/// Stores the registers of the guest that was left: rsp is the vCPU then, r15 its state page, and rbx 0.
macro_rules! store_guest {
    () => {
        concat!(
            "push rax\n",
            "mov rax, [rsp + 8]\n",
            store_registers!(),
            "mov r15, rax\n",
            "pop qword ptr [r15]\n",
            "sub rsp, {page}\n",
            "mov rax, cr2\n",
            "mov [rsp + {cr2}], rax\n",
            "xor ebx, ebx\n",
        )
    };
}

/// Writes the MSR `$number` behind STAR with its value in the [`SyscallMsrs`] at `$address` of `$segment`.
macro_rules! wrmsr {
    ($segment:literal, $address:literal, $number:literal) => {
        concat!(
            concat!("mov ecx, {msr_star} + ", $number, "\n"),
            concat!("mov eax, ", $segment, "[", $address, " + 8 * ", $number, "]\n"),
            concat!("mov edx, ", $segment, "[", $address, " + 8 * ", $number, " + 4]\n"),
            "wrmsr\n",
        )
    };
}

/// Runs guest code on the vCPU in `CpuArch::guest`, until an exit, which is a kernel entry of its own.
///
/// The way in takes 22 instructions up to VMRESUME, the way out 23 until everything is in its place.
///
/// # Safety
///
/// The CPU is in VMX operation; the current VMCS is the vCPU's and has controls and host state of this backend; what is
/// the guest's is loaded; nothing on the stack is needed any more.
#[unsafe(naked)]
pub unsafe extern "sysv64" fn enter() -> ! {
    naked_asm!(
        "mov rbp, gs:[{guest}]",
        "mov rbx, [rbp + {page}]",
        "2:",
        "mov rax, cr2",
        "cmp rax, [rbp + {cr2}]",
        "je 3f",
        "mov rax, [rbp + {cr2}]",
        "mov cr2, rax",
        "3:",
        // The flags last until the jump: MOV does not change them.
        "cmp byte ptr [rbp + {launched}], 0",
        "mov rax, [rbx]",
        load_registers!(),
        "je 4f",
        "vmresume",
        "jmp 5f",
        "4:",
        "vmlaunch",
        // The guest was not entered, its registers are on the state page still.
        "5:",
        "mov rdi, gs:[0]",
        "mov rsi, gs:[{guest}]",
        "mov edx, 1",
        "mov rsp, gs:[{stack}]",
        "call {guest_left}",
        "ud2",

        // The monitor has run: what was lent to it, the guest gets back. rbx = the state page.
        ".global vmx_resume",
        "vmx_resume:",
        "mov rax, cr3",
        "cmp rax, [rbp + {host_cr3}]",
        "jne 9f",
        "cmp byte ptr [rbp + {lent}], 0",
        "je 2b",
        "mov byte ptr [rbp + {lent}], 0",
        "mov eax, [rbp + {kernel_gs_base}]",
        "mov edx, [rbp + {kernel_gs_base} + 4]",
        "mov ecx, eax",
        "or ecx, edx",
        "jz 6f",
        "mov ecx, {msr_kernel_gs_base}",
        "wrmsr",
        "6:",
        "cmp byte ptr [rbp + {differs}], 0",
        "je 7f",
        wrmsr!("", "rbp + {msrs}", 1),
        "7:",
        "cmp byte ptr [rbp + {differs} + 1], 0",
        "je 2b",
        wrmsr!("", "rbp + {msrs}", 0),
        wrmsr!("", "rbp + {msrs}", 2),
        wrmsr!("", "rbp + {msrs}", 3),
        "jmp 2b",
        "9:",
        "mov rdi, gs:[0]",
        "mov rsp, gs:[{stack}]",
        "call {again}",
        "ud2",

        // Exits arrive here.
        ".global vmx_left",
        "vmx_left:",
        store_guest!(),
        "7:",
        "stage_entry_vmx_exit:",
        "mov eax, {exit_reason}",
        "vmread rcx, rax",
        "cmp ecx, {reasons}",
        "jae 8f",
        "movzx esi, word ptr [rcx * 2 + {told}]",
        "test esi, esi",
        "jz 3f",
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "btr esi, 15",
        "jnc {tell}",
        "2:",
        "mov eax, {instruction_length}",
        "vmread rcx, rax",
        "shl ecx, 8",
        "or esi, ecx",
        "jmp {tell}",

        "3:",
        "cmp ecx, {ept_violation}",
        "je 5f",
        "cmp ecx, {wrmsr}",
        "je 4f",
        "cmp ecx, {io_instruction}",
        "jne 8f",
        // Ports, but not strings. rdx = word 1.
        "mov eax, {exit_qualification}",
        "vmread rdx, rax",
        "test dl, 3 << 4",
        "jnz 8f",
        "mov ecx, edx",
        "mov eax, edx",
        "shr edx, 16",
        "and ecx, 7",
        "inc ecx",
        "shl ecx, 16",
        "or edx, ecx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "mov esi, {io}",
        "test al, 1 << 3",
        "jz 6f",
        "or edx, 1 << 24",
        "jmp 2b",
        "6:",
        "mov eax, {instruction_length}",
        "vmread rcx, rax",
        "shl ecx, 8",
        "or esi, ecx",
        "mov byte ptr [rsp + {launched}], 1",
        "jmp {tell_write}",

        // WRMSR, but not of those that the kernel switches.
        "4:",
        "mov eax, [r15 + {rcx}]",
        "sub eax, {msr_star}",
        "cmp eax, {msr_fmask} - {msr_star}",
        "jbe 8f",
        "xor edx, edx",
        "xor r8d, r8d",
        "xor r9d, r9d",
        "mov esi, {write_msr}",
        "jmp 2b",

        // A fault of the second-level tables, that did not interrupt the delivery of an event, nor undo the blocking of
        // NMIs. rdx = what was tried, r8 = where, r9 = the linear address, if there is one.
        "5:",
        "mov eax, {idt_vectoring}",
        "vmread rcx, rax",
        "test ecx, ecx",
        "js 8f",
        "mov eax, {exit_qualification}",
        "vmread rdx, rax",
        "test edx, {unblocked_nmi}",
        "jnz 8f",
        "mov eax, {guest_physical}",
        "vmread r8, rax",
        "xor r9d, r9d",
        "mov esi, {stage_two_fault}",
        "mov ecx, edx",
        "and edx, {fault_flags}",
        "test dl, {fault_linear}",
        "jz {tell}",
        "mov eax, {guest_linear}",
        "vmread r9, rax",
        "mov byte ptr [rsp + {launched}], 1",
        "and ecx, {store_mask}",
        "cmp ecx, {store}",
        "je {tell_write}",
        "jmp {tell}",

        // Exits arrive here instead: nothing returns before the return stack is filled.
        ".global vmx_left_filling",
        "vmx_left_filling:",
        store_guest!(),
        "mov rbp, rsp",
        "mov rsp, gs:[{stack}]",
        fill_return_stack!(),
        "mov rsp, rbp",
        "jmp 7b",
        "8:",
        general_path!(),
        guest = const GUEST,
        stack = const STACK,
        page = const offset::PAGE,
        cr2 = const offset::CR2,
        launched = const offset::LAUNCHED,
        lent = const offset::LENT,
        differs = const offset::DIFFERS,
        host_cr3 = const offset::HOST_CR3,
        kernel_gs_base = const offset::MSRS + offset_of!(SyscallMsrs, kernel_gs_base),
        msrs = const offset::MSRS,
        msr_kernel_gs_base = const msr::IA32_KERNEL_GSBASE,
        msr_star = const msr::IA32_STAR,
        msr_fmask = const msr::IA32_FMASK,
        exit_reason = const ro::EXIT_REASON,
        exit_qualification = const ro::EXIT_QUALIFICATION,
        instruction_length = const ro::VMEXIT_INSTRUCTION_LEN,
        idt_vectoring = const ro::IDT_VECTORING_INFO,
        guest_physical = const ro::GUEST_PHYSICAL_ADDR_FULL,
        guest_linear = const ro::GUEST_LINEAR_ADDR,
        reasons = const TOLD.len(),
        told = sym TOLD,
        ept_violation = const REASON_EPT_VIOLATION,
        wrmsr = const REASON_WRMSR,
        io_instruction = const REASON_IO,
        unblocked_nmi = const UNBLOCKED_NMI,
        fault_flags = const FAULT_READ | FAULT_WRITE | FAULT_FETCH | FAULT_LINEAR,
        fault_linear = const FAULT_LINEAR,
        store_mask = const STORE_MASK,
        store = const STORE,
        stage_two_fault = const ExitKind::StageTwoFault as u32,
        io = const ExitKind::Io as u32,
        write_msr = const ExitKind::WriteMsr as u32,
        tell = sym tell,
        tell_write = sym tell_write,
        guest_left = sym guest_left,
        again = sym again,
        rcx = const 8 * RCX,
    )
}

/// What [`super::tell`] does here beside: lends the monitor's threads what they share with the guest, as
/// [`super::super::virt::VcpuArch::lend`] does. rax = groups, rsp = the vCPU, r15 = its state page; rdi, rsi, rdx, r8, r9 and r14 stay.
///
/// # Safety
/// Only from there, by a jump.
#[unsafe(naked)]
pub unsafe extern "C" fn vmx_tell() {
    naked_asm!(
        "mov r10, rdx",
        "mov r11, rax",
        "mov ecx, {msr_kernel_gs_base}",
        "rdmsr",
        "mov [rsp + {kernel_gs_base}], eax",
        "mov [rsp + {kernel_gs_base} + 4], edx",
        "or eax, edx",
        "jz 2f",
        "xor eax, eax",
        "xor edx, edx",
        "wrmsr",
        "2:",
        "cmp byte ptr [rsp + {differs}], 0",
        "je 3f",
        wrmsr!("gs:", "{host_msrs}", 1),
        "3:",
        "cmp byte ptr [rsp + {differs} + 1], 0",
        "je 4f",
        wrmsr!("gs:", "{host_msrs}", 0),
        wrmsr!("gs:", "{host_msrs}", 2),
        wrmsr!("gs:", "{host_msrs}", 3),
        "4:",
        "lgdt gs:[{gdtr}]",
        "mov byte ptr gs:[{task_limit_lost}], 1",
        "mov byte ptr [rsp + {lent}], 1",
        "mov byte ptr [rsp + {launched}], 1",
        "mov rdx, r10",
        "mov rax, r11",
        "cmp rax, {rip_only}",
        "jne {tell_groups}",
        "mov eax, {rip}",
        "vmread [r15 + {page_rip}], rax",
        "jmp {tell_now}",
        msr_kernel_gs_base = const msr::IA32_KERNEL_GSBASE,
        msr_star = const msr::IA32_STAR,
        kernel_gs_base = const offset::MSRS + offset_of!(SyscallMsrs, kernel_gs_base),
        host_msrs = const VIRT + offset_of!(CpuVirt, host.msrs),
        differs = const offset::DIFFERS,
        gdtr = const VIRT + offset_of!(CpuVirt, host.gdtr),
        task_limit_lost = const VIRT + offset_of!(CpuVirt, task_limit_lost),
        lent = const offset::LENT,
        launched = const offset::LAUNCHED,
        rip_only = const Groups::RIP.bits(),
        rip = const guest_field::RIP,
        page_rip = const offset_of!(VcpuState, rip),
        tell_groups = sym tell_groups,
        tell_now = sym tell_now,
    )
}

/// What [`super::reply`] does here instead of writing to the VMCB: the vCPU at rbp gets the instruction pointer of the state page
/// at rcx, and no interrupt shadow. Goes on in `guest_again`.
///
/// # Safety
/// Only from there, by a jump.
#[unsafe(naked)]
pub unsafe extern "C" fn vmx_load_rip() {
    naked_asm!(
        "mov rax, [rbp + {vmcs}]",
        "cmp rax, gs:[{current_vmcs}]",
        "jne 9f",
        "mov rax, [rcx + {page_rip}]",
        "mov edx, {rip}",
        "vmwrite rdx, rax",
        "mov edx, {interruptibility}",
        "vmread rax, rdx",
        "test al, {shadow}",
        "jz {guest_again}",
        "and eax, ~{shadow}",
        "vmwrite rdx, rax",
        "jmp {guest_again}",
        // Another VMCS is current.
        "9:",
        "mov rdi, gs:[0]",
        "mov rsi, rbp",
        "mov rsp, gs:[{stack}]",
        "call {load_rip}",
        "ud2",
        vmcs = const offset::ID,
        current_vmcs = const VIRT + offset_of!(CpuVirt, current),
        page_rip = const offset_of!(VcpuState, rip),
        rip = const guest_field::RIP,
        interruptibility = const guest_field::INTERRUPTIBILITY_STATE,
        shadow = const BLOCKING_STI | BLOCKING_MOV_SS,
        guest_again = sym guest_again,
        stack = const STACK,
        load_rip = sym load_rip,
    )
}
