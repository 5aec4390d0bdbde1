//! From 32-bit protected mode to long mode, for each vCPU.

use super::tables;
use core::arch::global_asm;

/// Bytes of a vCPU's stack.
const STACK: usize = 16 << 10;

/// One for each vCPU, the second above the first.
#[repr(C, align(4096))]
struct Stacks([[u8; STACK]; 2]);

static mut STACKS: Stacks = Stacks([[0; STACK]; 2]);

/// CR4.PAE.
const PAE: u32 = 1 << 5;
/// EFER.SCE and EFER.LME.
const EFER_BITS: u32 = 1 << 0 | 1 << 8;
/// CR0.PG.
const PG: u32 = 1 << 31;

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".code32",
    ".globl _start",
    "_start:",
    "cld",
    "movl %edi, %esi",
    // vCPU 1 is started together with vCPU 0, and makes the same tables of the same words.
    "movl ${directories}, %edi",
    "movl ${large}, %eax",
    "movl ${entries}, %ecx",
    "2: movl %eax, (%edi)",
    "movl $0, 4(%edi)",
    "addl $8, %edi",
    "addl $0x200000, %eax",
    "decl %ecx",
    "jnz 2b",
    "movl ${pointers}, %edi",
    "movl ${directories} + {table}, %eax",
    "movl $4, %ecx",
    "3: movl %eax, (%edi)",
    "movl $0, 4(%edi)",
    "addl $8, %edi",
    "addl $4096, %eax",
    "decl %ecx",
    "jnz 3b",
    "movl ${pointers} + {table}, %eax",
    "movl %eax, {root}",
    "movl ${root}, %eax",
    "movl %eax, %cr3",
    "movl %cr4, %eax",
    "orl ${pae}, %eax",
    "movl %eax, %cr4",
    "movl $0xc0000080, %ecx",
    "movl ${efer}, %eax",
    "xorl %edx, %edx",
    "wrmsr",
    "movl %cr0, %eax",
    "orl ${pg}, %eax",
    "movl %eax, %cr0",
    "lgdtl {gdtr}",
    "leal 1(%esi), %eax",
    "imull ${stack}, %eax, %eax",
    "leal {stacks}(%eax), %esp",
    "ljmpl ${code}, $4f",
    ".code64",
    "4: movl ${data}, %eax",
    "movl %eax, %ds",
    "movl %eax, %es",
    "movl %eax, %ss",
    "movl %esi, %edi",
    "movl %esp, %esp",
    "xorl %ebp, %ebp",
    "call {main}",
    "ud2",
    ".popsection",
    directories = sym tables::DIRECTORIES,
    pointers = sym tables::POINTERS,
    root = sym tables::ROOT,
    gdtr = sym tables::GDTR,
    stacks = sym STACKS,
    main = sym crate::main,
    large = const tables::LARGE,
    table = const tables::TABLE,
    entries = const tables::DIRECTORY_ENTRIES,
    pae = const PAE,
    efer = const EFER_BITS,
    pg = const PG,
    stack = const STACK,
    code = const tables::KERNEL_CODE,
    data = const tables::KERNEL_DATA,
    options(att_syntax),
);
