//! From the loader's 32-bit protected mode, and from an AP's real mode, to 64-bit Rust.
//!
//! The boot page tables map the first 4 GiB of physical memory three times, with 2-MiB pages, writable
//! and executable: at their own addresses, at [`WINDOW`] and, the first 2 GiB, at [`IMAGE`]. They serve
//! until the kernel has its final tables, and each AP for the way there.

use core::arch::global_asm;
use core::mem::offset_of;

use super::super::firmware::pvh;
use super::super::layout::{IMAGE, WINDOW};
use super::super::{CpuArch, ap_main, paging, smp};
use crate::cpu::Cpu;

// The static tables below hard-code the slots of the two windows.
const _: () = assert!(WINDOW == 0xffff_8000_0000_0000 && IMAGE == 0xffff_ffff_8000_0000);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
}

/// The code that an AP starts with in real mode: it fits a page, and works in any page below 1 MiB.
pub fn trampoline() -> &'static [u8] {
    let start = &raw const trampoline_start;
    let size = (&raw const trampoline_end).addr() - start.addr();
    // SAFETY: both symbols bound read-only data of the image, defined below.
    unsafe { core::slice::from_raw_parts(start, size) }
}

// The multiboot2 header (specification 2.0, 3.1.1 and 3.1.2): tags for the information that the kernel
// needs (memory map, module, command line, ACPI), the physical 32-bit entry and page-aligned modules.
global_asm!(
    r#"
    .pushsection .multiboot2, "a"
    .balign 8
0:  .long 0xe85250d6
    .long 0
    .long 1f - 0b
    .long -(0xe85250d6 + (1f - 0b))

    .word 1, 0
    .long 24
    .long 1, 3, 6
    .long 0

    .word 3, 0
    .long 12
    .long multiboot2_entry - {image}
    .long 0

    .word 6, 0
    .long 8

    .word 0, 0
    .long 8
1:
    .popsection

    // The note XEN_ELFNOTE_PHYS32_ENTRY (Xen, docs/misc/pvh.pandoc): where PVH loaders enter.
    .pushsection .note.pvh, "a", @note
    .balign 4
    .long 4
    .long 8
    .long 18
    .asciz "Xen"
    .quad pvh_entry - {image}
    .popsection
    "#,
    image = const IMAGE,
    options(att_syntax),
);

// Tables: GDT for the first steps (code and data where the final GDT has them, then 32-bit code) and
// the page tables.
global_asm!(
    r#"
    .pushsection .boot.data, "aw"
    .balign 4096
boot_pml4:
    .quad boot_pdpt_low - {image} + 3
    .fill 255, 8, 0
    .quad boot_pdpt_low - {image} + 3
    .fill 254, 8, 0
    .quad boot_pdpt_image - {image} + 3
boot_pdpt_low:
    .quad boot_pd - {image} + 3
    .quad boot_pd - {image} + 0x1003
    .quad boot_pd - {image} + 0x2003
    .quad boot_pd - {image} + 0x3003
    .fill 508, 8, 0
boot_pdpt_image:
    .fill 510, 8, 0
    .quad boot_pd - {image} + 3
    .quad boot_pd - {image} + 0x1003
    // Present, writable, 2 MiB.
    .set page, 0x83
boot_pd:
    .rept 2048
    .quad page
    .set page, page + 0x200000
    .endr

boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
boot_gdt_end:

    // Limit and base.
    .balign 8
    .word 0, 0, 0
boot_gdt_phys:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - {image}
    .balign 8
boot_counter:
    .quad 0
    .popsection

    .pushsection .bss
    .balign 16
    .skip {stack_size}
boot_stack_top:
    .popsection
    "#,
    image = const IMAGE,
    stack_size = const 32 << 10,
    options(att_syntax),
);

// The way of the boot CPU. Registers: edi = which loader, esi = its information.
global_asm!(
    r#"
    // From flat 32-bit protected mode to 64-bit code at \target (Intel SDM 3A 10.8.5). CR0 and CR4 get
    // whole values, as an AP comes with its cache disabled: PG, WP, NE, ET, TS, MP, PE; PGE, PAE. No thread has vector
    // registers: with TS, their use is an exception. The loader's data segments stay until the kernel has its own: they
    // mean nothing in 64-bit mode.
    .macro enter_long_mode target
    movl $0xa0, %eax
    movl %eax, %cr4
    movl $(boot_pml4 - {image}), %eax
    movl %eax, %cr3
    // EFER.SCE and LME, and EFER.NXE where CPUID has NX: bit 20 there, bit 11 here.
    movl $0x80000001, %eax
    cpuid
    andl $0x100000, %edx
    shrl $9, %edx
    orl $0x101, %edx
    movl %edx, %ebp
    movl $0xc0000080, %ecx
    rdmsr
    orl %ebp, %eax
    wrmsr
    movl $0x8001003b, %eax
    movl %eax, %cr0
    lgdtl boot_gdt_phys - {image}
    ljmpl $0x08, $(\target - {image})
    .endm

    .pushsection .boot.text, "ax"
    .code32
    .global pvh_entry
pvh_entry:
    movl ${pvh_magic}, %eax
    .global multiboot2_entry
multiboot2_entry:
    cli
    cld
    movl %eax, %edi
    movl %ebx, %esi
    rdtsc
    movl %eax, boot_counter - {image}
    movl %edx, boot_counter - {image} + 4

    // Long mode: CPUID 80000001h:EDX[29].
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    jb no_long_mode
    movl $0x80000001, %eax
    cpuid
    btl $29, %edx
    jnc no_long_mode
    enter_long_mode boot_entry64

    // Says so on the UART (data at 0x3f8, status at 0x3fd), with a bounded wait for each byte.
no_long_mode:
    movl $(no_long_mode_text - {image}), %esi
2:  lodsb
    testb %al, %al
    jz 5f
    movb %al, %bl
    movl $100000, %ecx
3:  movw $0x3fd, %dx
    inb %dx, %al
    testb $0x20, %al
    loopz 3b
    movw $0x3f8, %dx
    movb %bl, %al
    outb %al, %dx
    jmp 2b
5:  cli
    hlt
    jmp 5b
no_long_mode_text:
    .asciz "bulkhead: this CPU has no 64-bit mode\r\n"

    .code64
boot_entry64:
    movabsq $6f, %rax
    jmpq *%rax
6:  leaq boot_stack_top(%rip), %rsp
    xorl %ebp, %ebp
    movl %edi, %edi
    movl %esi, %esi
    movq boot_counter(%rip), %rdx
    callq {start}
    ud2
    .popsection
    "#,
    image = const IMAGE,
    pvh_magic = const pvh::MAGIC,
    start = sym super::start,
    options(att_syntax),
);

// The way of an AP. The page in low memory holds only what must run in real mode: all it needs to know
// is fixed at link time. The rest is in the image, which every set of page tables maps.
global_asm!(
    r#"
    .pushsection .rodata.trampoline, "a"
    .code16
    .global trampoline_start, trampoline_end
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    lgdtl 7f - trampoline_start
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $0x18, $(ap_entry32 - {image})
7:  .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt - {image}
trampoline_end:
    .popsection

    .pushsection .boot.text, "ax"
    .code32
ap_entry32:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    enter_long_mode ap_entry64

    .code64
ap_entry64:
    movabsq $8f, %rax
    jmpq *%rax
8:  xorl %edi, %edi
    // Take the data: one CPU gets it, and a CPU that comes late gets none.
    xchgq %rdi, {starting}(%rip)
    testq %rdi, %rdi
    jz 9f
    movq {page_tables}(%rip), %rax
    movq %rax, %cr3
    movq {stack_top}(%rdi), %rsp
    xorl %ebp, %ebp
    callq {ap_main}
    ud2
9:  cli
    hlt
    jmp 9b
    .popsection
    "#,
    image = const IMAGE,
    starting = sym smp::STARTING,
    page_tables = sym paging::KERNEL_ROOT,
    stack_top = const offset_of!(Cpu, arch) + offset_of!(CpuArch, stack_top),
    ap_main = sym ap_main,
    options(att_syntax),
);
