//! The guest: fills its registers with patterns, lets the other one run, and looks whether they are still there.

use core::arch::global_asm;

/// RAX of a request: all turns were taken.
pub const FINISHED: u64 = 1;
/// RAX of a request: a register holds something else. RCX is its number, RDX what it should hold, RBX what it holds.
pub const CHANGED: u64 = 2;

/// Page tables, which come with the code: three pages, for a page of 2 MiB at address 0.
pub const TABLES: u64 = 0x4000;
/// Where a guest starts in real mode, with an exception: gates, of four bytes each, and its handler.
pub const REAL: u64 = 0x3f00;
pub const REAL_GATES: u64 = 14;
/// The guest's variables, then three pages for what XSAVE stores: the pattern, before, after.
const DATA: u64 = 0x8000;
const AREAS: u64 = DATA + 0x1000;
/// The port of a doorbell.
pub const DOORBELL: u64 = 0x80;
/// End of the guest's stack.
pub const STACK: u64 = DATA + 0x5000;

// RAX is its seed, RCX the turns left, RDX its TSC_AUX, RBX its XCR0 (0: there is none), R8 whether it runs under SVM,
// R9 whether RDTSCP is there, R10 whether the PAT is its own, R11 which bits of DR7 turn. The pattern of a register is the seed, rotated by the register's number, with the bits of a
// mask. In between, r14 is the seed and r15 the address of the variables.
global_asm!(
    r#"
    .pushsection .rodata.registers_guest, "a"
    .balign 4096
    .code64
    .set seed, 0
    .set turns, 8
    .set tsc_aux, 16
    .set xcr0, 24
    .set svm, 32
    .set has_tsc_aux, 40
    .set has_pat, 48
    .set dr7_bits, 56
    .set stack, 64
    .set table, 72
    .set gdt, 256
    .set idt, 512

    .macro pattern number, mask
    mov     rax, r14
    rol     rax, \number
    movabs  rdx, \mask
    and     rax, rdx
    .endm
    // rsi is what register \number holds.
    .macro same number, mask
    pattern \number, \mask
    mov     ecx, \number
    cmp     rax, rsi
    jne     90f
    .endm
    .macro put_msr msr, number, mask
    pattern \number, \mask
    mov     rdx, rax
    shr     rdx, 32
    mov     ecx, \msr
    wrmsr
    .endm
    .macro get_msr msr, number, mask
    mov     ecx, \msr
    rdmsr
    mov     rsi, rdx
    shl     rsi, 32
    mov     eax, eax
    or      rsi, rax
    same    \number, \mask
    .endm
    // A register that MOV writes, with bits that are fixed.
    .macro put register, number, mask, fixed
    pattern \number, \mask
    mov     edx, \fixed
    or      rax, rdx
    mov     \register, rax
    .endm
    .macro get register, number, mask, fixed
    mov     rsi, \register
    mov     edx, \fixed
    not     rdx
    and     rsi, rdx
    same    \number, \mask
    .endm
    // A null selector with a requested privilege level of 1 or 2, which makes it differ from the monitor's.
    .macro put_selector register, number
    pattern \number, 1
    inc     eax
    mov     \register, ax
    .endm
    .macro get_selector register, number
    mov     esi, \register
    dec     rsi
    same    \number, 1
    .endm
    .macro general register, number
    mov     \register, r14
    rol     \register, \number
    .endm
    .macro all_general
    general rax, 60
    general rcx, 61
    general rdx, 62
    general rbx, 63
    general rbp, 5
    general rsi, 6
    general rdi, 7
    general r8, 8
    general r9, 9
    general r10, 10
    general r11, 11
    general r12, 12
    general r13, 13
    general r15, 15
    rol     r14, 14
    popfq
    .endm
    // Does \instruction with TF set: the trap comes right after it. The handler of #DB puts into rsi where that is.
    .macro step number, instruction:vararg
    pushfq
    or      dword ptr [rsp], 0x100
    popfq
    \instruction
9:  nop
    lea     rax, [rip + 9b]
    mov     ecx, \number
    cmp     rax, rsi
    jne     90f
    .endm
    // What was pushed \place words before the last.
    .macro pushed place, number
    mov     rsi, [rsp + 8 * \place]
    same    \number, 0xffffffffffffffff
    .endm

    .global registers_guest
registers_guest:
    mov     r15d, {data}
    mov     [r15 + seed], rax
    mov     [r15 + turns], rcx
    mov     [r15 + tsc_aux], rdx
    mov     [r15 + xcr0], rbx
    mov     [r15 + svm], r8
    mov     [r15 + has_tsc_aux], r9
    mov     [r15 + has_pat], r10
    mov     [r15 + dr7_bits], r11
    mov     [r15 + stack], rsp
    // What the hypervisor does in the guest's place is a step like any other.
    movabs  rax, 0x00af9b000000ffff
    mov     [r15 + gdt + 8], rax
    movabs  rax, 0x00cf93000000ffff
    mov     [r15 + gdt + 16], rax
    lea     rax, [rip + 70f]
    movabs  rdx, 0x8e0000080000
    or      rax, rdx
    mov     [r15 + idt + 16], rax
    mov     qword ptr [r15 + idt + 24], 0
    mov     word ptr [r15 + table], 31
    lea     rax, [r15 + gdt]
    mov     [r15 + table + 2], rax
    lgdt    [r15 + table]
    lea     rax, [r15 + idt]
    mov     [r15 + table + 2], rax
    lidt    [r15 + table]
    step    40, out {doorbell}, al
    mov     ecx, 0xc0000082
    xor     edx, edx
    step    41, wrmsr
    jmp     2f
70: mov     rsi, [rsp]
    and     dword ptr [rsp + 16], ~0x100
    iretq

2:  mov     r14, [r15 + seed]
    // Vector registers: XRSTOR takes them from a page of patterns with control words and a header that are valid.
    cld
    mov     edi, {areas}
    mov     rax, r14
    mov     ecx, 512
3:  rol     rax, 7
    add     rax, rcx
    stosq
    dec     ecx
    jnz     3b
    mov     ecx, 1024
    xor     eax, eax
    rep stosq
    mov     ebp, {areas}
    mov     rax, r14
    and     eax, 0xc00
    or      eax, 0x37f
    mov     [rbp], ax
    mov     rax, r14
    and     eax, 0x7f00
    mov     [rbp + 2], ax
    mov     word ptr [rbp + 4], 0xff
    and     word ptr [rbp + 6], 0x7ff
    shr     qword ptr [rbp + 8], 17
    shr     qword ptr [rbp + 16], 17
    mov     rax, r14
    and     eax, 0x603f
    or      eax, 0x1f80
    mov     [rbp + 24], eax
    lea     rdi, [rbp + 512]
    xor     eax, eax
    mov     ecx, 8
    rep stosq
    mov     rax, [r15 + xcr0]
    mov     rdx, rax
    shr     rdx, 32
    test    eax, eax
    jz      4f
    mov     [rbp + 512], rax
    xrstor64 [rbp]
    xsave64 [rbp + 0x1000]
    jmp     5f
4:  fxrstor64 [rbp]
    fxsave64 [rbp + 0x1000]
5:
    put_selector ds, 1
    put_selector es, 2
    put_selector fs, 3
    put_selector gs, 4
    pattern 5, 1
    inc     eax
    lldt    ax
    put_msr 0x174, 10, 0xffff
    put_msr 0x175, 11, 0x7fffffffffff
    put_msr 0x176, 12, 0x7fffffffffff
    put_msr 0x277, 13, 0x0505050505050505
    put_msr 0xc0000081, 14, 0xffffffffffffffff
    put_msr 0xc0000082, 15, 0x7fffffffffff
    put_msr 0xc0000083, 16, 0x7fffffffffff
    put_msr 0xc0000084, 17, 0x3fffff
    put_msr 0xc0000100, 18, 0x7fffffffffff
    put_msr 0xc0000101, 19, 0x7fffffffffff
    put_msr 0xc0000102, 20, 0x7fffffffffff
    // GDTR and IDTR: nothing is taken from the tables.
    pattern 21, 0xffff
    mov     [r15 + table], ax
    pattern 22, 0x7fffffffffff
    mov     [r15 + table + 2], rax
    lgdt    [r15 + table]
    pattern 23, 0xffff
    mov     [r15 + table], ax
    pattern 24, 0x7fffffffffff
    mov     [r15 + table + 2], rax
    lidt    [r15 + table]
    put     cr2, 25, 0xffffffffffffffff, 0
    // PWT, PCD.
    put     cr3, 26, 0x18, {tables}
    // Of CR4, what turns with the seed is TSD, DE, PGE and PCE.
    mov     rsi, cr4
    and     esi, ~0x18c
    pattern 27, 0x18c
    or      rax, rsi
    mov     cr4, rax
    cmp     qword ptr [r15 + svm], 0
    je      6f
    put     cr8, 28, 0xf, 0
6:  put     dr0, 29, 0x7fffffffffff, 0
    put     dr1, 30, 0x7fffffffffff, 0
    put     dr2, 31, 0x7fffffffffff, 0
    put     dr3, 32, 0x7fffffffffff, 0
    put     dr6, 33, 0x600f, 0xffff0ff0
    // DR7: breakpoints for writes.
    pattern 34, 0xffffffff
    and     rax, [r15 + dr7_bits]
    or      eax, 0x11110400
    mov     dr7, rax
    // CR0: MP, TS, WP, AM.
    put     cr0, 35, 0x5000a, 0x80000031
    // Flags: ID, AC, NT, IOPL, OF, DF, SF, ZF, AF, PF, CF.
    pattern 36, 0x247cd5
    or      eax, 2
    push    rax
    cmp     qword ptr [r15 + svm], 0
    jne     7f
    all_general
    vmcall
    jmp     8f
7:  all_general
    vmmcall

8:  pushfq
    push    rax
    push    rcx
    push    rdx
    push    rbx
    push    rbp
    push    rsi
    push    rdi
    push    r8
    push    r9
    push    r10
    push    r11
    push    r12
    push    r13
    push    r14
    push    r15
    cld
    mov     r15d, {data}
    mov     r14, [r15 + seed]
    pushed  14, 60
    pushed  13, 61
    pushed  12, 62
    pushed  11, 63
    pushed  10, 5
    pushed  9, 6
    pushed  8, 7
    pushed  7, 8
    pushed  6, 9
    pushed  5, 10
    pushed  4, 11
    pushed  3, 12
    pushed  2, 13
    pushed  1, 14
    pushed  0, 15
    add     rsp, 15 * 8
    pop     rsi
    xor     rsi, 2
    same    36, 0x247cd5
    mov     rsi, rsp
    mov     rax, [r15 + stack]
    mov     ecx, 37
    cmp     rsi, rax
    jne     90f
    get     cr0, 35, 0x5000a, 0x80000031
    clts
    get_selector ds, 1
    get_selector es, 2
    get_selector fs, 3
    get_selector gs, 4
    sldt    esi
    dec     rsi
    same    5, 1
    get_msr 0x174, 10, 0xffff
    get_msr 0x175, 11, 0x7fffffffffff
    get_msr 0x176, 12, 0x7fffffffffff
    cmp     qword ptr [r15 + has_pat], 0
    je      6f
    get_msr 0x277, 13, 0x0505050505050505
6:
    get_msr 0xc0000081, 14, 0xffffffffffffffff
    get_msr 0xc0000082, 15, 0x7fffffffffff
    get_msr 0xc0000083, 16, 0x7fffffffffff
    get_msr 0xc0000084, 17, 0x3fffff
    get_msr 0xc0000100, 18, 0x7fffffffffff
    get_msr 0xc0000101, 19, 0x7fffffffffff
    get_msr 0xc0000102, 20, 0x7fffffffffff
    sgdt    [r15 + table]
    movzx   esi, word ptr [r15 + table]
    same    21, 0xffff
    mov     rsi, [r15 + table + 2]
    same    22, 0x7fffffffffff
    sidt    [r15 + table]
    movzx   esi, word ptr [r15 + table]
    same    23, 0xffff
    mov     rsi, [r15 + table + 2]
    same    24, 0x7fffffffffff
    get     cr2, 25, 0xffffffffffffffff, 0
    get     cr3, 26, 0x18, {tables}
    mov     rsi, cr4
    and     esi, 0x18c
    same    27, 0x18c
    cmp     qword ptr [r15 + svm], 0
    je      6f
    get     cr8, 28, 0xf, 0
6:  get     dr0, 29, 0x7fffffffffff, 0
    get     dr1, 30, 0x7fffffffffff, 0
    get     dr2, 31, 0x7fffffffffff, 0
    get     dr3, 32, 0x7fffffffffff, 0
    get     dr6, 33, 0x600f, 0xffff0ff0
    mov     rsi, dr7
    pattern 34, 0xffffffff
    and     rax, [r15 + dr7_bits]
    or      eax, 0x11110400
    mov     ecx, 34
    cmp     rax, rsi
    jne     90f
    cmp     qword ptr [r15 + has_tsc_aux], 0
    je      6f
    rdtscp
    mov     esi, ecx
    mov     rax, [r15 + tsc_aux]
    mov     ecx, 38
    cmp     rax, rsi
    jne     90f
    // XCR0, and what it makes XSAVE store.
6:  mov     ebp, {areas}
    mov     rdi, [r15 + xcr0]
    test    edi, edi
    jz      4f
    xor     ecx, ecx
    xgetbv
    mov     esi, edx
    shl     rsi, 32
    or      rsi, rax
    mov     rax, rdi
    mov     ecx, 39
    cmp     rax, rsi
    jne     90f
    mov     rdx, rax
    shr     rdx, 32
    xsave64 [rbp + 0x2000]
    jmp     5f
4:  fxsave64 [rbp + 0x2000]
5:  xor     edi, edi
6:  mov     rax, [rbp + rdi * 8 + 0x1000]
    mov     rsi, [rbp + rdi * 8 + 0x2000]
    lea     ecx, [rdi + 1000]
    cmp     rax, rsi
    jne     90f
    inc     edi
    cmp     edi, 512
    jb      6b
    // XMM and, from byte 576 on, the upper halves of YMM were what they should be.
    mov     edi, 160 / 8
6:  mov     rax, [rbp + rdi * 8]
    mov     rsi, [rbp + rdi * 8 + 0x1000]
    lea     ecx, [rdi + 2000]
    cmp     rax, rsi
    jne     90f
    inc     edi
    cmp     edi, 416 / 8
    jb      6b
    test    byte ptr [r15 + xcr0], 4
    jz      7f
    mov     edi, 576 / 8
6:  mov     rax, [rbp + rdi * 8]
    mov     rsi, [rbp + rdi * 8 + 0x1000]
    lea     ecx, [rdi + 2000]
    cmp     rax, rsi
    jne     90f
    inc     edi
    cmp     edi, 832 / 8
    jb      6b

7:  movabs  rax, 0x9e3779b97f4a7c15
    add     [r15 + seed], rax
    dec     qword ptr [r15 + turns]
    jnz     2b
    mov     eax, {finished}
    jmp     91f
    // rcx is the register's number, rax what it should hold, rsi what it holds.
90: mov     rdx, rax
    mov     rbx, rsi
    mov     eax, {changed}
91: cmp     qword ptr [r15 + svm], 0
    jne     92f
    vmcall
    jmp     93f
92: vmmcall
    // From now on the turns are all the other's: RAX is none of the requests.
93: xor     eax, eax
    jmp     91b

    // General protection, whose handler tells where the stack is.
    .org registers_guest + {real} - {code} + 13 * 4
    .word {real_gates} * 4, {real} >> 4
    .code16
    mov     ax, sp
    cpuid
    .code64

    // Accessed and written to already, so that the processor need not say so.
    .org registers_guest + {tables} - {code}
    .quad {tables} + 0x1067
    .org registers_guest + {tables} - {code} + 0x1000
    .quad {tables} + 0x2067
    .org registers_guest + {tables} - {code} + 0x2000
    .quad 0xe7
    .global registers_guest_end
registers_guest_end:
    .popsection
    "#,
    data = const DATA,
    doorbell = const DOORBELL,
    areas = const AREAS,
    real = const REAL,
    real_gates = const REAL_GATES,
    tables = const TABLES,
    code = const crate::turns::CODE,
    finished = const FINISHED,
    changed = const CHANGED,
);

unsafe extern "C" {
    static registers_guest: u8;
    static registers_guest_end: u8;
}

/// The guest's code and page tables.
pub fn code() -> impl Iterator<Item = u8> {
    let start = &raw const registers_guest;
    let length = (&raw const registers_guest_end).addr() - start.addr();
    // SAFETY: between the labels is read-only data.
    (0..length).map(move |at| unsafe { start.add(at).read_volatile() })
}
