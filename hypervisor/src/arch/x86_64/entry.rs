//! Ways into the kernel, and the way back to a thread.
//!
//! A system call saves the user's registers right in the thread that is current. An interrupt or exception
//! saves them on the stack that the processor chose, and [`trap`] copies them. Either way the kernel
//! then goes on at the top of its one stack of this CPU: nothing is ever left on it, and it is left by
//! [`resume_thread`], by entering a guest, or by halting.

use super::fastpath::{self, return_to};
use super::frame::{Frame, SYSCALL, offset as frame};
use super::gdt::{KERNEL_CODE, OWN_STACKS};
use super::speculation::Measures;
use super::virt::hw::cr2;
use super::{CpuArch, current_cpu};
use crate::cell::Given;
use crate::cpu::Cpu;
use crate::thread::Thread;
use abi::text::{Dec, Hex};
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use x86::Ring;
use x86::bits64::segmentation::Descriptor64;
use x86::dtables::{DescriptorTablePointer, lidt};
use x86::msr::{IA32_FMASK, IA32_GS_BASE, IA32_KERNEL_GSBASE, IA32_LSTAR, IA32_STAR};
use x86::msr::{IA32_SYSENTER_CS, wrmsr};
use x86::segmentation::{BuildDescriptor, DescriptorBuilder, GateDescriptorBuilder};

const FRAME: usize = offset_of!(Thread, frame);
const STACK: usize = offset_of!(Cpu, arch) + offset_of!(CpuArch, stack_top);

/// RFLAGS bits that SYSCALL clears: all that a program can set, and IF.
pub const SYSCALL_CLEARS: u64 = 0x0025_7fd5;

macro_rules! push_registers {
    () => {
        "push rax; push rcx; push rdx; push rbx; push rbp; push rsi; push rdi; push r8; push r9; \
         push r10; push r11; push r12; push r13; push r14; push r15"
    };
}

macro_rules! pop_registers {
    () => {
        "pop r15; pop r14; pop r13; pop r12; pop r11; pop r10; pop r9; pop r8; pop rdi; pop rsi; \
         pop rbp; pop rbx; pop rdx; pop rcx; pop rax"
    };
}

/// Vectors of exceptions.
const EXCEPTIONS: u64 = 32;

/// A table of entries, in groups that share their long jumps.
struct Entries {
    /// Bytes of an entry.
    entry: u64,
    /// Entries of a group.
    count: u64,
    /// Bytes of a group.
    group: u64,
}

impl Entries {
    /// Where entry `index` is in the table.
    const fn offset(&self, index: u64) -> u64 {
        index / self.count * self.group + index % self.count * self.entry
    }
}

const EXCEPTION: Entries = Entries { entry: 6, count: 16, group: 16 * 6 + 16 };
const INTERRUPT: Entries = Entries { entry: 4, count: 32, group: 32 * 4 + 8 };
const _: () = assert!((256 - EXCEPTIONS).is_multiple_of(INTERRUPT.count));

/// One entry for each exception: pushes a zero where the processor pushes no error code, then the vector.
#[unsafe(naked)]
#[rustfmt::skip]
unsafe extern "C" fn exceptions() {
    naked_asm!(
        ".balign 8",
        ".set vector, 0",
        ".rept {exceptions} / {count}",
        ".rept {count}",
        // 8, 10 to 14, 17, 21, 29 and 30 have an error code (Intel SDM vol. 3, 6.13; AMD APM vol. 2, 8.2).
        ".if vector != 8 && (vector < 10 || vector > 14) && vector != 17 && vector != 21 \
             && vector != 29 && vector != 30",
        "push 0",
        ".else",
        "nop",
        "nop",
        ".endif",
        "push vector",
        ".if vector == 1 || vector == 2 || vector == 8 || vector == 18",
        "jmp 3f",
        ".else",
        "jmp 2f",
        ".endif",
        ".set vector, vector + 1",
        ".endr",
        "2:",
        "jmp {common}",
        "3:",
        "jmp paranoid_entry",
        ".balign 8",
        ".endr",
        exceptions = const EXCEPTIONS,
        count = const EXCEPTION.count,
        common = sym common_entry,
    )
}

/// One entry for each other vector: pushes it as a number with a sign, which is shortest.
#[unsafe(naked)]
unsafe extern "C" fn interrupts() {
    naked_asm!(
        ".balign 8",
        ".set vector, {first} - 256",
        ".rept (256 - {first}) / {count}",
        ".rept {count}",
        ".if vector < -128",
        "push vector + 256",
        ".else",
        "push vector",
        ".endif",
        "jmp 2f",
        ".set vector, vector + 1",
        ".endr",
        "2:",
        "jmp {interrupt}",
        ".balign 8",
        ".endr",
        first = const EXCEPTIONS,
        count = const INTERRUPT.count,
        interrupt = sym interrupt_entry,
    )
}

/// Puts the vector, and a zero for an error code, where those of an exception are.
#[unsafe(naked)]
unsafe extern "C" fn interrupt_entry() {
    naked_asm!(
        "push qword ptr [rsp]",
        "and qword ptr [rsp], 255",
        "and qword ptr [rsp + 8], 0",
        "jmp {common}",
        common = sym common_entry,
    )
}

/// Offset of `cs` from the stack pointer after the vector was pushed.
const CS_AT_ENTRY: usize = 24;

#[unsafe(naked)]
unsafe extern "C" fn common_entry() {
    naked_asm!(
        "test byte ptr [rsp + {cs}], 3",
        "jz 2f",
        "swapgs",
        "2:",
        push_registers!(),
        "cld",
        "mov rdi, rsp",
        "test byte ptr [rsp + {cs} + 120], 3",
        "jnz 4f",
        "call {nested}",
        "3:",
        pop_registers!(),
        "add rsp, 16",
        "iretq",
        "4:",
        "call {trap}",
        "ud2",

        // For what can come between a kernel entry and its `swapgs`: looks at the base of GS itself. A user program
        // cannot make that negative, as FSGSBASE is off.
        "paranoid_entry:",
        push_registers!(),
        "cld",
        "mov ecx, {gs_base}",
        "rdmsr",
        "xor ebx, ebx",
        "test edx, edx",
        "js 5f",
        "swapgs",
        "inc ebx",
        "5:",
        "mov rdi, rsp",
        "test byte ptr [rsp + {cs} + 120], 3",
        "jnz 4b",
        "call {nested}",
        "test ebx, ebx",
        "jz 3b",
        "swapgs",
        "jmp 3b",
        gs_base = const IA32_GS_BASE,
        cs = const CS_AT_ENTRY,
        nested = sym super::traps::nested,
        trap = sym trap,
    )
}

/// User code was interrupted: saves its registers in the current thread and goes on at the top of the
/// kernel's stack.
extern "C" fn trap(frame: &Frame) -> ! {
    let cpu = current_cpu();
    match cpu.current.get().and_then(|current| current.as_thread()) {
        Some(thread) => thread.frame.set(*frame),
        None => panic!("user registers without a thread"),
    }
    // SAFETY: what is on the stack has been copied; `handle` never returns.
    unsafe {
        asm!(
            "mov rsp, gs:[{stack}]",
            "call {handle}",
            "ud2",
            stack = const STACK,
            handle = sym super::traps::user_trap,
            options(noreturn),
        )
    }
}

/// Goes on with `thread` in user mode. Its space is loaded and it is current.
pub fn resume_thread(thread: &Thread) -> ! {
    // SAFETY: a frame always holds user selectors and flags with IF; the thread is the caller's.
    unsafe {
        asm!(
            "mov rsp, rdi",
            "cmp qword ptr [rsp + 120], {syscall}",
            "jne 2f",
            pop_registers!(),
            "mov rcx, [rsp + 16]",
            "mov r11, [rsp + 32]",
            "mov rsp, [rsp + 40]",
            "swapgs",
            "sysretq",
            "2:",
            pop_registers!(),
            "add rsp, 16",
            "swapgs",
            "iretq",
            in("rdi") thread.frame.as_ptr(),
            syscall = const SYSCALL,
            options(noreturn),
        )
    }
}

/// Returns from the `ReplyWait` of `handler` with a message of four words. Its space is loaded and it is current.
#[unsafe(naked)]
pub extern "C" fn deliver(
    identity: u64,
    first: u64,
    second: u64,
    third: u64,
    fourth: u64,
    handler: &Thread,
) -> ! {
    // rdi, rsi and rdx are in place; the third word goes to r8, the fourth to r9.
    naked_asm!(
        "mov rax, r9",
        "mov r9, r8",
        "mov r8, rcx",
        "xor ebx, ebx",
        "xor r10d, r10d",
        "xor r12d, r12d",
        "xor r13d, r13d",
        "xor r14d, r14d",
        return_to!("rax"),
        rip = const FRAME + frame::RIP,
        rflags = const FRAME + frame::RFLAGS,
        rsp = const FRAME + frame::RSP,
    )
}

/// Gate of the interrupt descriptor table (Intel SDM vol. 3, 6.14.1).
fn gate(vector: u64) -> Descriptor64 {
    let address = match vector.checked_sub(EXCEPTIONS) {
        None => exceptions as *const () as u64 + EXCEPTION.offset(vector),
        Some(index) => interrupts as *const () as u64 + INTERRUPT.offset(index),
    };
    let slot = OWN_STACKS.iter().position(|&own| u64::from(own) == vector);
    let ist = slot.map_or(0, |slot| slot as u8 + 1);
    // INT3 and INTO are the only ones that a program may raise with an instruction.
    let level = if vector == 3 || vector == 4 { Ring::Ring3 } else { Ring::Ring0 };
    let gate: DescriptorBuilder =
        GateDescriptorBuilder::<u64>::interrupt_descriptor(KERNEL_CODE, address);
    gate.ist(ist).dpl(level).present().finish()
}

/// The interrupt descriptor table, aligned as the processor reads it best (Intel SDM 3A 6.10).
#[repr(C, align(16))]
struct Gates([Descriptor64; 256]);

/// From the boot CPU.
static IDT: Given<Gates> = Given::new();

/// Opens the ways in on this CPU, whose data is `cpu`.
///
/// # Safety
/// Segments are loaded, the stack in `cpu` is this CPU's.
pub unsafe fn init_this_cpu(cpu: &'static Cpu) {
    // Where each return to a program takes a barrier, no call is fast.
    let buffers = cpu.arch.measures.get().contains(Measures::BUFFERS);
    let system_calls = if buffers {
        fastpath::general_syscall_entry as *const ()
    } else {
        fastpath::syscall_entry as *const ()
    };
    let gates = || Gates(core::array::from_fn(|vector| gate(vector as u64)));
    let table = IDT.get().unwrap_or_else(|| IDT.give(gates));
    // SAFETY: the table is complete and stays; the MSRs get addresses of code and data that stay.
    unsafe {
        lidt(&DescriptorTablePointer::new(&table.0));
        wrmsr(IA32_GS_BASE, cpu as *const Cpu as u64);
        wrmsr(IA32_KERNEL_GSBASE, 0);
        wrmsr(IA32_STAR, super::gdt::STAR);
        wrmsr(IA32_LSTAR, system_calls as u64);
        wrmsr(IA32_FMASK, SYSCALL_CLEARS);
        // Whatever ran before may have left a target: without a code segment, SYSENTER raises #GP.
        wrmsr(IA32_SYSENTER_CS, 0);
    }
}

/// Calls the NMI handler for an NMI that ended guest mode, and unblocks NMIs.
pub fn call_nmi() {
    // SAFETY: the gate of vector 2 has a stack of its own and returns with IRET.
    unsafe { asm!("int 2") };
}

/// Ends a CPU that met a fault in the kernel.
pub fn kernel_fault(frame: &Frame) -> ! {
    if crate::panic::is_panicked() {
        super::halt();
    }
    crate::panic::fatal(format_args!(
        "exception {} in the kernel: error {}, rip {}, rsp {}, cr2 {}",
        Dec(frame.vector),
        Hex(frame.error),
        Hex(frame.rip),
        Hex(frame.rsp),
        Hex(cr2())
    ))
}
