//! The first instructions of each vCPU.

use core::arch::global_asm;

/// Bytes of a vCPU's stack.
const STACK: usize = 16 << 10;

/// One for each vCPU, the second above the first.
#[repr(C, align(4096))]
struct Stacks([[u8; STACK]; 2]);

static mut STACKS: Stacks = Stacks([[0; STACK]; 2]);

global_asm!(
    ".pushsection .text.entry, \"ax\"",
    ".globl _start",
    "_start:",
    "adrp x1, {stacks}",
    "add x1, x1, :lo12:{stacks}",
    "add x2, x0, #1",
    "mov x3, #{stack}",
    "madd x1, x2, x3, x1",
    "mov sp, x1",
    "mov x29, xzr",
    "mov x30, xzr",
    "bl {main}",
    "udf #0",
    ".popsection",
    stacks = sym STACKS,
    stack = const STACK,
    main = sym crate::main,
);
