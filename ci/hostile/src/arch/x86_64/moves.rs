//! What a program may try beside system calls. Most of it ends in an exception.

use crate::random::Random;
use core::arch::asm;

/// An instruction that stands alone.
macro_rules! instruction {
    ($($text:literal),*) => {
        // SAFETY: the thread has nothing to lose; whatever happens to its registers, its handler starts it anew.
        unsafe {
            asm!(
                "push rbx", "push rbp", $($text,)* "pop rbp", "pop rbx",
                inout("rax") 0u64 => _, inout("rcx") 0u64 => _, inout("rdx") 0u64 => _, out("rsi") _, out("rdi") _,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _,
                out("r15") _,
            )
        }
    };
}

/// A system call with this stack pointer and these flags added.
fn system_call_with(tag: u64, stack: u64, flags: u64) {
    // SAFETY: as for `instruction!`; the stack pointer comes back out of r13, which the operation leaves alone.
    unsafe {
        asm!(
            "push rbx", "push rbp",
            "mov r13, rsp",
            "pushfq",
            "or [rsp], {flags}",
            "mov r15, {stack}",
            "popfq",
            "mov rsp, r15",
            "syscall",
            "mov rsp, r13",
            "push 0x202",
            "popfq",
            "pop rbp", "pop rbx",
            flags = in(reg) flags,
            stack = in(reg) stack,
            inout("rax") tag => _, inout("rdi") 3u64 => _,
            out("rcx") _, out("r11") _, out("r13") _, out("r15") _,
            out("rsi") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r12") _, out("r14") _,
        )
    }
}

/// Goes to `address`, with `stack` if that is not 0.
fn jump(address: u64, stack: u64) {
    // SAFETY: as for `instruction!`.
    unsafe {
        asm!("test {0}, {0}", "cmovnz rsp, {0}", "jmp {1}", in(reg) stack, in(reg) address, options(noreturn))
    }
}

/// Loads a selector into a segment register.
fn load_segment(random: &mut Random) {
    let selector = random.pick(&[
        0, 3, 0x10, 0x13, 0x18, 0x1b, 0x20, 0x23, 0x28, 0x2b, 0x30, 0x33, 0x38, 0x3b, 0xfffb, 7,
    ]);
    // SAFETY: as for `instruction!`.
    unsafe {
        match random.below(6) {
            0 => asm!("mov ds, {0:x}", in(reg) selector),
            1 => asm!("mov es, {0:x}", in(reg) selector),
            2 => asm!("mov fs, {0:x}", in(reg) selector),
            3 => asm!("mov gs, {0:x}", in(reg) selector),
            4 => {
                asm!("mov ss, {0:x}", "mov eax, 0xff", "syscall", in(reg) selector, out("rax") _, out("rcx") _, out("r11") _)
            }
            _ => {
                asm!("push {0}", "lea rax, [rip + 2f]", "push rax", "retfq", "2:", in(reg) selector, out("rax") _)
            }
        }
    }
}

/// IRETQ to anywhere.
fn interrupt_return(random: &mut Random) {
    let (ip, flags) = (random.edge(), random.word());
    let (code, stack) =
        (random.pick(&[0x33, 0x33, 0x10, 0x23, 3]), random.pick(&[0x2b, 0x2b, 0x18, 0, 3]));
    // SAFETY: as for `instruction!`.
    unsafe {
        asm!("push {stack}", "push {sp}", "push {flags}", "push {code}", "push {ip}", "iretq",
            stack = in(reg) stack, sp = in(reg) random.edge(), flags = in(reg) flags, code = in(reg) code, ip = in(reg) ip,
            options(noreturn))
    }
}

/// Number of moves.
pub const MOVES: u64 = 64;

/// Does one of them.
pub fn make(random: &mut Random) {
    let edge = random.edge();
    match random.below(MOVES) {
        0 => instruction!("xorps xmm0, xmm0"),
        1 => instruction!("fninit"),
        2 => instruction!("emms"),
        3 => instruction!("ud2"),
        4 => instruction!("int3"),
        5 => instruction!("int 2"),
        6 => instruction!("int 8"),
        7 => instruction!("int 14"),
        8 => instruction!("int 0x80"),
        9 => instruction!("int 0xf0"),
        10 => instruction!("int 0xf1"),
        11 => instruction!("hlt"),
        12 => instruction!("cli"),
        13 => instruction!("sti"),
        14 => instruction!("mov cr3, rax"),
        15 => instruction!("mov rax, cr0"),
        16 => instruction!("mov cr8, rax"),
        17 => instruction!("mov dr7, rax"),
        18 => instruction!("wrmsr"),
        19 => instruction!("rdmsr"),
        20 => instruction!("swapgs"),
        21 => instruction!("sysretq"),
        22 => instruction!("sysenter"),
        23 => instruction!("invlpg [rsp]"),
        24 => instruction!("lgdt [rsp]"),
        25 => instruction!("lidt [rsp]"),
        26 => instruction!("ltr ax"),
        27 => instruction!("lldt ax"),
        28 => instruction!("wbinvd"),
        29 => instruction!("clts"),
        30 => instruction!("xsetbv"),
        31 => instruction!("xgetbv"),
        32 => instruction!("vmrun rax"),
        33 => instruction!("vmload rax"),
        34 => instruction!("vmmcall"),
        35 => instruction!("vmcall"),
        36 => instruction!("stgi"),
        37 => instruction!("clgi"),
        38 => instruction!("invlpga rax, ecx"),
        39 => instruction!("wrfsbase rax"),
        40 => instruction!("wrgsbase rax"),
        41 => instruction!("rdpmc"),
        42 => instruction!("in al, dx", "out dx, eax"),
        43 => instruction!("mov dx, 0xcf9", "mov al, 6", "out dx, al"),
        44 => instruction!("mov dx, 0x3f8", "outsb"),
        45 => instruction!("div rcx"),
        46 => instruction!("monitor"),
        47 => instruction!("push 0x4ed5", "popfq", "std"),
        48 => instruction!("sidt [rsp - 16]", "sgdt [rsp - 16]", "str ax", "smsw ax"),
        49 => instruction!("mov byte ptr [rsp - 8], 0", "ret"),
        50 => jump(edge, 0),
        51 => jump(edge, random.edge()),
        // The last address before the hole, and the first in it.
        52 => jump(0x7fff_ffff_fffe, 0),
        53 => jump(0x8000_0000_0000, 0xffff_8000_0000_0000),
        54 => load_segment(random),
        55 => interrupt_return(random),
        // Trap, direction, nested task, alignment, resume, I/O privilege flags across SYSCALL.
        56..60 => system_call_with(
            random.pick(&[0, 4, 20, 0xff, edge]),
            random.edge(),
            random.word() & 0x25_7dd5,
        ),
        60 => system_call_with(random.pick(&[0, 1, 4, 20, 0xff]), edge, 1 << 8),
        // SAFETY: as for `instruction!`.
        61 => unsafe {
            (edge as *const u64).read_volatile();
        },
        // SAFETY: as for `instruction!`.
        62 => unsafe {
            asm!("mov byte ptr [{0}], 1", in(reg) random.word() | 0xffff_8000_0000_0000)
        },
        // SAFETY: as for `instruction!`.
        _ => unsafe { asm!("mov rsp, {0}", "push rax", "ud2", in(reg) edge, options(noreturn)) },
    }
}
