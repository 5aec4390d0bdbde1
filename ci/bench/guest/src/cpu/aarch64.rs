//! AArch64.

use crate::sampler::Sampler;
use bench_guest::{Arguments, Row, place};
use core::arch::{asm, global_asm};

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

/// Ticks that instructions take, from one read of the counter to the next: `[measured]`, operands. Each read waits for what is
/// before it.
macro_rules! ticks {
    ([$($measured:literal),*], $($operands:tt)*) => {{
        let (start, end): (u64, u64);
        // SAFETY: changes the registers that are named, and what the instructions between say.
        unsafe {
            asm!(
                "isb",
                "mrs {start}, cntvct_el0",
                $($measured,)*
                "isb",
                "mrs {end}, cntvct_el0",
                start = out(reg) start,
                end = lateout(reg) end,
                $($operands)*
            );
        }
        end.wrapping_sub(start) as u32
    }};
}

/// Ticks between two reads of the counter in a row.
pub fn overhead() -> u32 {
    ticks!([],)
}

/// Brings a vCPU into the state that it measures in.
pub fn prepare(_number: usize) {}

/// Halts for ever.
pub fn rest() -> ! {
    loop {
        // SAFETY: waits for an interrupt.
        unsafe { asm!("wfi", options(nomem, nostack)) };
    }
}

/// Writes a register of a device.
pub fn device_write(address: u64, value: u32) {
    // SAFETY: the address is a device's, whose registers do nothing to this program's memory that it does not ask for.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) address, options(nostack)) };
}

/// Reads a register of a device.
fn device_read(address: u64) -> u32 {
    let value;
    // SAFETY: as in `device_write`.
    unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

/// Measures everything here.
pub fn measure(sampler: &Sampler, _arguments: &Arguments) {
    let always = || true;
    sampler.row(
        Row::Hypercall,
        || ticks!(["hvc #0"], inlateout("x0") 0u64 => _, out("x1") _, out("x2") _, out("x3") _,),
        always,
    );
    sampler.row(
        Row::Doorbell,
        || ticks!(["str wzr, [{address}]"], address = in(reg) place::DOORBELL,),
        always,
    );
    sampler.row(
        Row::IdRegister,
        || ticks!(["mrs {value}, id_aa64pfr0_el1"], value = out(reg) _,),
        always,
    );
    device_write(place::VALUE, 0);
    sampler.row(
        Row::MmioRead,
        || ticks!(["ldr {value:w}, [{address}]"], value = out(reg) _, address = in(reg) place::VALUE,),
        || device_read(place::VALUE) == 0,
    );
    let written = 0x1234_5678;
    sampler.row(
        Row::MmioWrite,
        || ticks!(["str {value:w}, [{address}]"], value = in(reg) written, address = in(reg) place::VALUE,),
        || device_read(place::VALUE) == written,
    );
    sampler.row(
        Row::SystemRegister,
        || ticks!(["mrs {value}, actlr_el1"], value = out(reg) _,),
        always,
    );
}
