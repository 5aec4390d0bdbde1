//! The entry of system calls, with the fast path of `Call` and `ReplyWait`.
//!
//! It means what `crate::ipc` says, for the common case: no words in the UTCB, the other side is on this CPU, the
//! handler is idle, and nobody else waits. Whatever is unusual is found before anything is changed, and goes on
//! to the general path with all registers that the ABI preserves; the system call of a foreign thread with all registers,
//! for which `rax`, whose value is known, serves until its mark was looked at. The message registers `rsi rdx r8 r9 r10 r12
//! r13 r14` are not touched at all. The stack is not used: interrupts are off, and NMI, machine check and debug
//! exceptions have stacks of their own.
//!
//! The labels `stage_...` say what is behind them to who looks at what a path executes (`bench`); nothing goes there.

use super::CpuArch;
use super::frame::{Frame, SYSCALL, offset as frame};
use super::gdt::{USER_CODE, USER_DATA};
use crate::context::{ReplyPath, State};
use crate::cpu::Cpu;
use crate::domain::offset as domain;
use crate::notification::offset as notification;
use crate::portal::offset as portal;
use crate::slot::offset as slot;
use crate::space::{Space, offset as space};
use crate::thread::Thread;
use abi::cap::Kind;
use abi::{MAX_CALL_DEPTH, Op, Rights, Status};
use core::arch::naked_asm;
use core::mem::offset_of;

const SCRATCH: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, scratch);
const STACK: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, stack_top);
const SPACE: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, space);
const IDLE_HERE: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, idle_here);
const GENERAL_SWITCH: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, general_switch);
const CURRENT: usize = offset_of!(Cpu, current);
/// Where a thread has its registers.
pub const FRAME: usize = offset_of!(Thread, frame);
/// What of a capability, rotated by 16 bits, tells kind and right to call.
pub const KIND_AND_CALL: u64 = 63 << 16 | Rights::CALL.bits() as u64;
/// What that is of a portal that may be called.
pub const PORTAL_AND_CALL: u64 = (Kind::Portal as u64) << 16 | Rights::CALL.bits() as u64;
const FRAME_END: usize = FRAME + size_of::<Frame>();

/// The highest number of an operation; all below are operations, too.
const LAST: u8 = Op::ALL[Op::ALL.len() - 1] as u8;

// What the assembly takes for granted.
const _: () = {
    assert!(LAST as usize == Op::ALL.len() - 1);
    assert!(offset_of!(Thread, context) == 0 && FRAME_END.is_multiple_of(16));
    assert!(Op::Call as u8 == 0 && Op::ReplyWait as u8 == 1 && State::Ready as u32 == 0);
    assert!(offset_of!(Thread, context.state) == offset_of!(Thread, context.cpu) + 4);
    assert!(ReplyPath::Thread as u8 == 0 && offset_of!(Cpu, arch) == 0);
    assert!(crate::domain::SLOTS_PER_PAGE == 64 && (Kind::Portal as u64) < 64);
};

unsafe extern "C" {
    /// As [`syscall_entry`], without the fast path.
    pub fn general_syscall_entry();
}

/// Saves all user registers in the current thread; rsp is behind its frame then.
macro_rules! save_registers {
    () => {
        concat!(
            "mov gs:[{scratch}], rsp\n",
            "mov rsp, gs:[{current}]\n",
            "lea rsp, [rsp + {frame_end}]\n",
            "push {ss}\n",
            "push qword ptr gs:[{scratch}]\n",
            "push r11\n",
            "push {cs}\n",
            "push rcx\n",
            "push 0\n",
            "push {syscall}\n",
            "push rax; push rcx; push rdx; push rbx; push rbp; push rsi; push rdi; push r8; push r9\n",
            "push r10; push r11; push r12; push r13; push r14; push r15\n",
        )
    };
}

/// Returns with success to the thread at the register `rax`, `rbp` or `r15`, which are cleared.
macro_rules! return_to {
    ($thread:literal) => {
        concat!(
            "mov rcx, [",
            $thread,
            " + {rip}]\n",
            "mov r11, [",
            $thread,
            " + {rflags}]\n",
            "mov rsp, [",
            $thread,
            " + {rsp}]\n",
            "xor eax, eax\n",
            "xor ebp, ebp\n",
            "xor r15d, r15d\n",
            "swapgs\n",
            "sysretq\n",
        )
    };
}
pub(super) use return_to;

/// Target of `SYSCALL`.
///
/// # Safety
/// Only the processor comes here, from a thread that is current on this CPU: interrupts are off, and `rcx` and `r11`
/// hold the user's `rip` and `rflags`.
#[unsafe(naked)]
pub unsafe extern "C" fn syscall_entry() {
    naked_asm!(
        "swapgs",
        "test rax, rax",
        "jnz 20f",

        // Call: rdi = selector. rax = caller, rbp = portal + kind, r15 = handler.
        "mov rax, gs:[{current}]",
        "cmp byte ptr [rax + {foreign}], 0",
        "jne 12f",
        "stage_message_call:",
        "mov rbp, [rax + {thread_domain}]",
        "cmp rdi, [rbp + {slots}]",
        "jae 10f",
        "mov r15d, edi",
        "shr r15d, 6",
        "mov rbp, [rbp + {directory}]",
        "mov rbp, [rbp + r15 * 8]",
        "mov r15d, edi",
        "and r15d, 63",
        "shl r15d, 6",
        "mov rbp, [rbp + r15]",
        // The capability: kind and right, which come to lie beside each other.
        "rol rbp, 16",
        "mov r15d, ebp",
        "and r15d, {kind_and_call}",
        "cmp r15d, {portal_and_call}",
        "jne 10f",
        "sar rbp, 16",
        // The handler: there, idle, on this CPU; the chain not too long.
        "mov r15, [rbp - {portal_kind} + {handler}]",
        "test r15, r15",
        "jz 10f",
        "mov rbx, gs:[{idle_here}]",
        "cmp rbx, [r15 + {cpu_state}]",
        "jne 10f",
        "movzx ebx, byte ptr [rax + {depth}]",
        "inc ebx",
        "cmp ebx, {max_depth}",
        "ja 10f",
        "mov [r15 + {depth}], bl",
        // Its space, if it is another one. Neither side may use I/O ports, and no guest be loaded. If the space gets its first ports
        // at this moment, its threads have them when this CPU passes the epoch that follows.
        "stage_switch_call:",
        "mov rbx, [r15 + {thread_space}]",
        "cmp rbx, gs:[{space}]",
        "je 2f",
        "cmp byte ptr gs:[{general_switch}], 0",
        "jne 10f",
        "cmp qword ptr [rbx + {ports}], 0",
        "jne 10f",
        "mov gs:[{space}], rbx",
        "mov rbx, [rbx + {fast}]",
        "mov cr3, rbx",
        "2:",
        // From here on it happens.
        "stage_save_call:",
        "mov [rax + {rip}], rcx",
        "mov [rax + {rflags}], r11",
        "mov [rax + {rsp}], rsp",
        "mov qword ptr [rax + {vector}], {syscall}",
        "stage_switch_callee:",
        "mov dword ptr [rax + {state}], {in_call}",
        "mov [rax + {callee}], r15",
        "mov [r15 + {caller}], rax",
        "mov dword ptr [r15 + {state}], {ready}",
        "mov gs:[{current}], r15",
        "mov rdi, [rbp - {portal_kind} + {identity}]",
        "xor ebx, ebx",
        return_to!("r15"),

        // An unusual ReplyWait or Call: nothing has happened yet. What held kernel addresses is scrubbed.
        "14:",
        "mov eax, {reply_wait}",
        "jmp 13f",
        "10:",
        "xor eax, eax",
        "13:",
        "xor ebx, ebx",
        "xor ebp, ebp",
        "xor r15d, r15d",
        "jmp 30f",

        "20:",
        "stage_entry_other:",
        "cmp rax, {reply_wait}",
        "jne 50f",
        "stage_reply_wait:",
        // ReplyWait: rax = handler, rbp = caller. The reply path of a foreign thread is none of the fast ones.
        "mov rax, gs:[{current}]",
        "cmp byte ptr [rax + {reply_path}], 0",
        "jne 40f",
        "mov rbp, [rax + {caller}]",
        "test rbp, rbp",
        "jz 14b",
        "stage_switch_reply:",
        "mov r15, [rbp + {thread_space}]",
        "cmp r15, gs:[{space}]",
        "je 3f",
        "cmp byte ptr gs:[{general_switch}], 0",
        "jne 14b",
        "cmp qword ptr [r15 + {ports}], 0",
        "jne 14b",
        "mov gs:[{space}], r15",
        "mov r15, [r15 + {fast}]",
        "mov cr3, r15",
        "3:",
        "stage_save_reply:",
        "mov [rax + {rip}], rcx",
        "mov [rax + {rflags}], r11",
        "mov [rax + {rsp}], rsp",
        "mov qword ptr [rax + {vector}], {syscall}",
        "stage_switch_caller:",
        "xor ebx, ebx",
        "mov dword ptr [rax + {state}], {idle}",
        "mov [rax + {depth}], bl",
        "mov [rax + {caller}], rbx",
        "mov [rbp + {callee}], rbx",
        "mov dword ptr [rbp + {state}], ebx",
        "mov gs:[{current}], rbp",
        "xor edi, edi",
        return_to!("rbp"),

        "40:",
        "stage_reply_vcpu:",
        "cmp byte ptr [rax + {reply_path}], {to_vcpu}",
        "je {vcpu_reply}",
        // No register is changed yet but rax.
        "mov eax, {reply_wait}",
        "jmp 30f",

        // Signal, if nobody is attached to the notification. rcx, r11, rbx and rbp lie in the frame: they, rax and
        // nothing else are used. rcx = slot, rbp = notification + kind, r11 = badge.
        "50:",
        "stage_entry_signal:",
        "cmp rax, {signal}",
        "jne 60f",
        "mov rax, gs:[{current}]",
        "cmp byte ptr [rax + {foreign}], 0",
        "jne 55f",
        "mov [rax + {rip}], rcx",
        "mov [rax + {rflags}], r11",
        "mov [rax + {rbx}], rbx",
        "mov [rax + {rbp}], rbp",
        "stage_message_signal:",
        "mov rcx, [rax + {thread_domain}]",
        "cmp rdi, [rcx + {slots}]",
        "jae 53f",
        "mov ebx, edi",
        "shr ebx, 6",
        "mov rcx, [rcx + {directory}]",
        "mov rcx, [rcx + rbx * 8]",
        "mov ebx, edi",
        "and ebx, 63",
        "shl ebx, 6",
        "add rcx, rbx",
        // Capability and badge, as `Slot::badge` reads them: neither changes meanwhile.
        "mov rbx, [rcx + {extra}]",
        "mov rbp, [rcx]",
        "mov r11, [rcx + {first}]",
        "cmp rbp, [rcx]",
        "jne 53f",
        "xor rbx, [rcx + {extra}]",
        "shr rbx, {turn_shift}",
        "jnz 53f",
        "rol rbp, 16",
        "mov ecx, ebp",
        "and ecx, {kind_and_signal}",
        "cmp ecx, {notification_and_signal}",
        "jne 53f",
        "sar rbp, 16",
        // From here on it happens. The locked instruction comes before the look at who is attached.
        "lock or [rbp - {notification_kind} + {word}], r11",
        "mov rcx, [rax + {rip}]",
        "mov r11, [rax + {rflags}]",
        "mov rbx, [rax + {rbx}]",
        "cmp byte ptr [rbp - {notification_kind} + {attached}], 0",
        "jne 54f",
        "mov rbp, [rax + {rbp}]",
        "xor eax, eax",
        "swapgs",
        "sysretq",

        // Unusual: nothing has happened.
        "53:",
        "mov rcx, [rax + {rip}]",
        "mov r11, [rax + {rflags}]",
        "mov rbx, [rax + {rbx}]",
        "mov rbp, [rax + {rbp}]",
        "55:",
        "mov eax, {signal}",
        "jmp 30f",
        // Somebody is attached.
        "54:",
        "sub rbp, {notification_kind}",
        "mov gs:[{signalled}], rbp",
        "mov rbp, [rax + {rbp}]",
        "mov eax, {signal}",
        save_registers!(),
        "mov rsp, gs:[{stack}]",
        "call {signalled_entry}",
        "ud2",

        // What no operation has as its number.
        "60:",
        "stage_entry_unknown:",
        "cmp al, {last}",
        "jbe 30f",
        "mov gs:[{scratch}], rax",
        "mov rax, gs:[{current}]",
        "cmp byte ptr [rax + {foreign}], 0",
        "jne 61f",
        "mov eax, {bad_operation}",
        "swapgs",
        "sysretq",
        "61:",
        "mov rax, gs:[{scratch}]",
        "jmp 30f",

        "12:",
        "xor eax, eax",

        // The general path: all registers go into the current thread.
        "30:",
        "stage_entry_general:",
        save_registers!(),
        "mov rsp, gs:[{stack}]",
        "call {general}",
        "ud2",

        ".global general_syscall_entry",
        "general_syscall_entry:",
        "swapgs",
        "jmp 30b",
        current = const CURRENT,
        space = const SPACE,
        idle_here = const IDLE_HERE,
        general_switch = const GENERAL_SWITCH,
        scratch = const SCRATCH,
        stack = const STACK,
        slots = const domain::SLOTS,
        directory = const domain::DIRECTORY,
        handler = const portal::HANDLER,
        identity = const portal::IDENTITY,
        fast = const offset_of!(Space, fast),
        ports = const space::PORTS,
        thread_domain = const offset_of!(Thread, domain),
        thread_space = const offset_of!(Thread, space),
        caller = const offset_of!(Thread, caller),
        callee = const offset_of!(Thread, context.callee),
        state = const offset_of!(Thread, context.state),
        cpu_state = const offset_of!(Thread, context.cpu),
        depth = const offset_of!(Thread, context.depth),
        reply_path = const offset_of!(Thread, context.reply_path),
        to_vcpu = const ReplyPath::Vcpu as u8,
        vcpu_reply = sym super::exits::reply,
        rip = const FRAME + frame::RIP,
        rflags = const FRAME + frame::RFLAGS,
        rsp = const FRAME + frame::RSP,
        vector = const FRAME + frame::VECTOR,
        frame_end = const FRAME_END,
        kind_and_call = const KIND_AND_CALL,
        portal_and_call = const PORTAL_AND_CALL,
        foreign = const offset_of!(Thread, foreign),
        portal_kind = const Kind::Portal as u64,
        max_depth = const MAX_CALL_DEPTH,
        in_call = const State::InCall as u32,
        idle = const State::Idle as u32,
        ready = const State::Ready as u32,
        reply_wait = const Op::ReplyWait as u8,
        signal = const Op::Signal as u8,
        last = const LAST,
        bad_operation = const Status::BadOperation as u8,
        first = const slot::FIRST,
        extra = const slot::EXTRA,
        turn_shift = const slot::TURN_SHIFT,
        word = const notification::WORD,
        attached = const notification::ATTACHED,
        signalled = const offset_of!(Cpu, signalled),
        signalled_entry = sym super::traps::signalled,
        rbx = const FRAME + frame::RBX,
        rbp = const FRAME + frame::RBP,
        kind_and_signal = const 63 << 16 | Rights::SIGNAL.bits() as u64,
        notification_and_signal = const (Kind::Notification as u64) << 16 | Rights::SIGNAL.bits() as u64,
        notification_kind = const Kind::Notification as u64,
        syscall = const SYSCALL,
        ss = const USER_DATA.bits(),
        cs = const USER_CODE.bits(),
        general = sym super::traps::system_call,
    )
}
