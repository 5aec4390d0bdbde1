//! The fast paths between a guest and its monitor: an exit becomes a call of the monitor's handler, the reply resumes the guest.
//!
//! They mean what [`crate::vcpu`] and [`crate::ipc`] say, for the common case: the handler is idle and on this CPU, its
//! space, which is the monitor's, is loaded and was when the guest ran, nothing is to be done between the two against speculation,
//! and no more than the instruction pointer is asked for or replied. What is unusual is found before anything is changed,
//! and goes on to the general path; more registers are saved by it on the way.
//!
//! Nothing reschedules here: who makes a better choice ready enters the kernel by an interrupt, which ends guest mode.
//!
//! The labels `stage_...` are for `bench`, as in [`super::fastpath`].

use super::fastpath::{FRAME, KIND_AND_CALL, PORTAL_AND_CALL};
use super::frame::{SYSCALL, offset as frame};
use super::virt::offset;
use super::virt::svm::vmcb::Vmcb;
use super::{CpuArch, traps};
use crate::context::{ReplyPath, State};
use crate::cpu::Cpu;
use crate::domain::offset as domain;
use crate::doorbell;
use crate::notification::offset as notification;
use crate::portal::offset as portal;
use crate::space::Space;
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use abi::boot::Virtualization;
use abi::cap::Kind;
use abi::vcpu::x86_64::{Groups, RBX, RCX, RDI, VcpuState};
use core::arch::naked_asm;
use core::mem::offset_of;

/// Stores the guest's general registers to the state page at rax, but for that and rsp.
macro_rules! store_registers {
    () => {
        concat!(
            "mov [rax + 8 * 1], rcx\n",
            "mov [rax + 8 * 2], rdx\n",
            "mov [rax + 8 * 3], rbx\n",
            "mov [rax + 8 * 5], rbp\n",
            "mov [rax + 8 * 6], rsi\n",
            "mov [rax + 8 * 7], rdi\n",
            "mov [rax + 8 * 8], r8\n",
            "mov [rax + 8 * 9], r9\n",
            "mov [rax + 8 * 10], r10\n",
            "mov [rax + 8 * 11], r11\n",
            "mov [rax + 8 * 12], r12\n",
            "mov [rax + 8 * 13], r13\n",
            "mov [rax + 8 * 14], r14\n",
            "mov [rax + 8 * 15], r15\n",
        )
    };
}

/// Loads the guest's general registers from the state page at rbx, but for rax and rsp.
macro_rules! load_registers {
    () => {
        concat!(
            "mov rcx, [rbx + 8 * 1]\n",
            "mov rdx, [rbx + 8 * 2]\n",
            "mov rbp, [rbx + 8 * 5]\n",
            "mov rsi, [rbx + 8 * 6]\n",
            "mov rdi, [rbx + 8 * 7]\n",
            "mov r8, [rbx + 8 * 8]\n",
            "mov r9, [rbx + 8 * 9]\n",
            "mov r10, [rbx + 8 * 10]\n",
            "mov r11, [rbx + 8 * 11]\n",
            "mov r12, [rbx + 8 * 12]\n",
            "mov r13, [rbx + 8 * 13]\n",
            "mov r14, [rbx + 8 * 14]\n",
            "mov r15, [rbx + 8 * 15]\n",
            "mov rbx, [rbx + 8 * 3]\n",
        )
    };
}

/// Takes the general path, which defines what an exit means, for the vCPU at rsp.
macro_rules! general_path {
    () => {
        concat!(
            "mov rdi, gs:[0]\n",
            "mov rsi, rsp\n",
            "xor edx, edx\n",
            "mov rsp, gs:[{stack}]\n",
            "call {guest_left}\n",
            "ud2\n",
        )
    };
}

mod svm;
mod vmx;

use svm::svm_resume;
use vmx::{vmx_load_rip, vmx_resume, vmx_tell};

pub use vmx::ways_out;

/// Runs guest code on the vCPU in `CpuArch::guest`, until an exit, which is a kernel entry of its own.
///
/// # Safety
/// [`super::virt::VcpuArch::prepare`] has just made it ready, with `extension`; interrupts are off; nothing on the stack is
/// needed any more.
#[inline(always)]
pub unsafe fn enter(extension: Virtualization) -> ! {
    // SAFETY: the caller's.
    unsafe {
        match extension {
            Virtualization::Vmx => vmx::enter(),
            _ => svm::enter(),
        }
    }
}

const ARCH: usize = offset_of!(Cpu, arch);
/// Where the CPU's data has the vCPU that is loaded.
pub const GUEST: usize = ARCH + offset_of!(CpuArch, guest);
/// Where it has the top of the kernel's stack.
pub const STACK: usize = ARCH + offset_of!(CpuArch, stack_top);
/// Where it has what virtualisation keeps.
pub const VIRT: usize = ARCH + offset_of!(CpuArch, virt);
const CURRENT: usize = offset_of!(Cpu, current);

// What the assembly takes for granted. General registers are on the state page in the order of their encoding.
const _: () = {
    assert!(offset_of!(VcpuState, gpr) == 0 && RCX == 1 && RBX == 3 && RDI == 7);
    assert!(offset_of!(Vcpu, context) == 0 && offset_of!(Thread, context) == 0);
    assert!(State::Ready as u32 == 0 && ReplyPath::Thread as u8 == 0);
    assert!(Groups::RIP.bits() == 1);
};

/// Tells an exit to the monitor: rsi = word 0 (kind and length of the instruction), rdx, r8, r9 = words 1 to 3, rsp = the vCPU, rbx = its
/// VMCB, r15 = its state page.
///
/// A vCPU is called by nobody, so the handler's calls start at depth 1.
///
/// # Safety
/// Only from the ways out of guest mode, by a jump.
#[unsafe(naked)]
pub unsafe extern "C" fn tell() {
    naked_asm!(
        // The timer's interrupt may have been lost (`apic::look_again`); it is due all the same.
        "mov rdi, rdx",
        "rdtsc",
        "shl rdx, 32",
        "or rax, rdx",
        "mov rdx, rdi",
        "cmp rax, gs:[{timer}]",
        "jae 9f",
        "cmp byte ptr gs:[{general_exit}], 0",
        "jne 9f",
        // The portal: rbp = portal + kind.
        "movzx ecx, sil",
        "add ecx, [rsp + {exit_base}]",
        "mov rbp, [rsp + {domain}]",
        "cmp rcx, [rbp + {slots}]",
        "jae 9f",
        "mov eax, ecx",
        "shr eax, 6",
        "mov rbp, [rbp + {directory}]",
        "mov rbp, [rbp + rax * 8]",
        "and ecx, 63",
        "shl ecx, 6",
        "mov rbp, [rbp + rcx]",
        "rol rbp, 16",
        "mov eax, ebp",
        "and eax, {kind_and_call}",
        "cmp eax, {portal_and_call}",
        "jne 9f",
        "sar rbp, 16",
        // The handler: there, idle, on this CPU, in the monitor's space, which is loaded.
        "mov r14, [rbp - {portal_kind} + {handler}]",
        "test r14, r14",
        "jz 9f",
        "mov rax, gs:[{idle_here}]",
        "cmp rax, [r14 + {cpu_state}]",
        "jne 9f",
        "mov rax, [r14 + {thread_space}]",
        "cmp rax, gs:[{space}]",
        "jne 9f",
        "cmp rax, [rsp + {monitor}]",
        "jne 9f",
        // From here on it happens.
        "stage_switch_tell:",
        "mov [r14 + {caller}], rsp",
        "mov dword ptr [r14 + {state}], {ready}",
        "mov [rsp + {callee}], r14",
        "mov dword ptr [rsp + {state}], {in_call}",
        "mov gs:[{current}], r14",
        "mov byte ptr [r14 + {reply_path}], {to_vcpu}",
        "mov byte ptr [r14 + {depth}], 1",
        "mov rdi, [rbp - {portal_kind} + {identity}]",
        "mov rax, [rbp - {portal_kind} + {groups}]",
        "test rbx, rbx",
        "jz {vmx_tell}",
        "cmp rax, {rip_only}",
        "jne 8f",
        "stage_save_rip:",
        "mov rax, [rbx + {vmcb_rip}]",
        "mov [r15 + {page_rip}], rax",
        ".global tell_now",
        "tell_now:",
        "mov rcx, [r14 + {rip}]",
        "mov r11, [r14 + {rflags}]",
        "mov rsp, [r14 + {rsp}]",
        "xor eax, eax",
        "xor ebx, ebx",
        "xor ebp, ebp",
        "xor r10d, r10d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        "xor r15d, r15d",
        "swapgs",
        "sysretq",

        // Other groups: the general path saves them.
        ".global tell_groups",
        "tell_groups:",
        "8:",
        "mov rbx, rsp",
        "mov rsp, gs:[{stack}]",
        "push rdi",
        "push rsi",
        "push rdx",
        "push r8",
        "push r9",
        "sub rsp, 8",
        "mov rdi, gs:[0]",
        "mov rsi, rbx",
        "mov rdx, rax",
        "call {save}",
        "add rsp, 8",
        "pop r9",
        "pop r8",
        "pop rdx",
        "pop rsi",
        "pop rdi",
        "jmp tell_now",

        // Unusual: nothing has happened.
        "9:",
        general_path!(),
        vmx_tell = sym vmx_tell,
        timer = const crate::cpu::offset::TIMER,
        general_exit = const ARCH + offset_of!(CpuArch, general_exit),
        exit_base = const offset_of!(Vcpu, exit_base),
        domain = const offset_of!(Vcpu, domain),
        slots = const domain::SLOTS,
        directory = const domain::DIRECTORY,
        kind_and_call = const KIND_AND_CALL,
        portal_and_call = const PORTAL_AND_CALL,
        portal_kind = const Kind::Portal as u64,
        handler = const portal::HANDLER,
        identity = const portal::IDENTITY,
        groups = const portal::GROUPS,
        idle_here = const ARCH + offset_of!(CpuArch, idle_here),
        cpu_state = const offset_of!(Thread, context.cpu),
        thread_space = const offset_of!(Thread, space),
        space = const ARCH + offset_of!(CpuArch, space),
        monitor = const offset_of!(Vcpu, monitor),
        caller = const offset_of!(Thread, caller),
        callee = const offset_of!(Thread, context.callee),
        state = const offset_of!(Thread, context.state),
        ready = const State::Ready as u32,
        in_call = const State::InCall as u32,
        current = const CURRENT,
        reply_path = const offset_of!(Thread, context.reply_path),
        to_vcpu = const ReplyPath::Vcpu as u8,
        depth = const offset_of!(Thread, context.depth),
        rip_only = const Groups::RIP.bits(),
        vmcb_rip = const offset_of!(Vmcb, rip),
        page_rip = const offset_of!(VcpuState, rip),
        rip = const FRAME + frame::RIP,
        rflags = const FRAME + frame::RFLAGS,
        rsp = const FRAME + frame::RSP,
        stack = const STACK,
        save = sym traps::save_exit,
        guest_left = sym traps::guest_left,
    )
}

unsafe extern "C" {
    /// The end of [`tell`]: the handler in r14 goes on with what is in rdi, rsi, rdx, r8 and r9.
    pub fn tell_now();
    /// The same, after the groups in rax were saved; rsp is the vCPU.
    pub fn tell_groups();
    /// Enters guest mode on the vCPU at rbp, which is current, unless there is something else to do first.
    pub fn guest_again();
}

/// Tells a write that may be for a doorbell: rsi, rdx, r8, r9, rsp, rbx and r15 are as for [`tell`], where it goes on if
/// there is no doorbell. If there is, the guest goes on after the write.
///
/// # Safety
/// Only from the ways out of guest mode, by a jump.
#[unsafe(naked)]
pub unsafe extern "C" fn tell_write() {
    naked_asm!(
        "mov rax, [rsp + {guest_space}]",
        "cmp qword ptr [rax + {doorbells}], 0",
        "je {tell}",
        "mov rbp, rsp",
        "mov rsp, gs:[{stack}]",
        "push rsi",
        "push rdx",
        "push r8",
        "push r9",
        "mov rcx, rdx",
        "mov rdx, rsi",
        "mov rsi, rbp",
        "mov rdi, gs:[0]",
        "call {ring}",
        "pop r9",
        "pop r8",
        "pop rdx",
        "pop rsi",
        "test al, al",
        "jnz 2f",
        "mov rsp, rbp",
        "jmp {tell}",
        // Who was signalled may be a better choice.
        "2:",
        "cmp byte ptr gs:[{reschedule}], 0",
        "je {guest_again}",
        "mov rdi, gs:[0]",
        "call {again}",
        "ud2",
        guest_space = const offset_of!(Vcpu, guest),
        doorbells = const offset_of!(Space, doorbells) + doorbell::PAGE,
        stack = const STACK,
        reschedule = const offset_of!(Cpu, reschedule),
        tell = sym tell,
        ring = sym traps::ring,
        guest_again = sym guest_again,
        again = sym traps::again,
    )
}

/// `ReplyWait` of the handler in rax, whose caller is a vCPU, with the groups in rsi; rcx and r11 are the handler's
/// instruction pointer and flags, rsp its stack pointer. What its next call does not set is saved, the rest is not needed
/// any more.
///
/// # Safety
/// Only from the entry of system calls, by a jump.
#[unsafe(naked)]
pub unsafe extern "C" fn reply() {
    naked_asm!(
        "mov [rax + {rip}], rcx",
        "mov [rax + {rflags}], r11",
        "mov [rax + {rsp}], rsp",
        "mov qword ptr [rax + {vector}], {syscall}",
        "cmp rsi, {rip_only}",
        "jne 8f",
        "mov rbp, [rax + {caller}]",
        "test rbp, rbp",
        "jz 8f",
        // From here on it happens.
        "xor ebx, ebx",
        "mov dword ptr [rax + {state}], {idle}",
        "mov [rax + {depth}], bl",
        "mov [rax + {reply_path}], bl",
        "mov [rax + {caller}], rbx",
        "mov [rbp + {callee}], rbx",
        "mov [rbp + {state}], ebx",
        "mov gs:[{current}], rbp",
        "mov rcx, [rbp + {page}]",
        "cmp byte ptr [rbp + {is_svm}], 0",
        "je {vmx_load_rip}",
        "stage_load_rip:",
        "mov rdx, [rbp + {vmcb}]",
        "mov rax, [rcx + {page_rip}]",
        "mov [rdx + {vmcb_rip}], rax",
        "mov [rdx + {shadow}], rbx",

        ".global guest_again",
        "guest_again:",
        // It is loaded, and has the tag that it had.
        "cmp rbp, gs:[{guest}]",
        "jne 9f",
        "mov rcx, [rbp + {tag_generation}]",
        "cmp rcx, gs:[{generation}]",
        "jne 9f",
        // No kick, nobody else ready who is as important, nothing to do on the way.
        "mov rcx, [rbp + {notification}]",
        "test rcx, rcx",
        "jz 2f",
        "cmp qword ptr [rcx + {word}], 0",
        "jne 9f",
        "2:",
        "cmp byte ptr [rbp + {expired}], 0",
        "jne 9f",
        "cmp byte ptr gs:[{settled}], 0",
        "je 9f",
        "cmp byte ptr [rbp + {to_do}], 0",
        "jne 9f",
        "mov rbx, [rbp + {page}]",
        "cmp byte ptr [rbp + {is_svm}], 0",
        "jne {svm_resume}",
        "jmp {vmx_resume}",

        // An unusual reply: nothing has happened.
        "8:",
        "mov rdi, gs:[0]",
        "mov rsp, gs:[{stack}]",
        "call {vcpu_reply}",
        "ud2",
        // An unusual entry.
        "9:",
        "mov rdi, gs:[0]",
        "mov rsp, gs:[{stack}]",
        "call {again}",
        "ud2",
        rip = const FRAME + frame::RIP,
        rflags = const FRAME + frame::RFLAGS,
        rsp = const FRAME + frame::RSP,
        vector = const FRAME + frame::VECTOR,
        syscall = const SYSCALL,
        rip_only = const Groups::RIP.bits(),
        caller = const offset_of!(Thread, caller),
        guest = const GUEST,
        tag_generation = const offset::TAG_GENERATION,
        generation = const ARCH + offset_of!(CpuArch, guest_tags) + super::tags::GENERATION,
        notification = const offset_of!(Vcpu, context.notification),
        word = const notification::WORD,
        expired = const offset_of!(Vcpu, expired),
        settled = const crate::cpu::offset::SETTLED,
        to_do = const offset::TO_DO,
        state = const offset_of!(Thread, context.state),
        idle = const State::Idle as u32,
        depth = const offset_of!(Thread, context.depth),
        reply_path = const offset_of!(Thread, context.reply_path),
        callee = const offset_of!(Thread, context.callee),
        current = const CURRENT,
        page = const offset::PAGE,
        vmcb = const offset::VMCB,
        is_svm = const offset::IS_SVM,
        page_rip = const offset_of!(VcpuState, rip),
        vmcb_rip = const offset_of!(Vmcb, rip),
        shadow = const offset_of!(Vmcb, interrupt_shadow),
        svm_resume = sym svm_resume,
        vmx_resume = sym vmx_resume,
        vmx_load_rip = sym vmx_load_rip,
        stack = const STACK,
        vcpu_reply = sym traps::vcpu_reply,
        again = sym traps::again,
    )
}
