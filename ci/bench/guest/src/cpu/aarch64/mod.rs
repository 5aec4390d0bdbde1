//! AArch64.

mod internal;
mod interrupts;
mod start;
mod tables;

use crate::monitor::{request, stamp};
use crate::sampler::Sampler;
use bench_guest::{Arguments, Request, Row, place};
use core::arch::asm;
use interrupts::{halt, send, until_arrival};

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
pub fn prepare(number: usize, arguments: &Arguments) {
    tables::prepare();
    interrupts::prepare(number, arguments.gic);
}

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

/// Ticks that a read of memory takes.
fn read(address: u64) -> u32 {
    ticks!(["ldr {value:w}, [{address}]"], value = out(reg) _, address = in(reg) address,)
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
    sampler.row(Row::MmioRead, || read(place::VALUE), || device_read(place::VALUE) == 0);
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
    sampler.row(Row::InterruptController, || read(interrupts::MEASURED), always);
    sampler.row(Row::HaltWake, || until_arrival(halt), always);
    let signal = || {
        request(Request::Interrupt);
        0
    };
    sampler.row(Row::SignalToHandler, || until_arrival(signal).wrapping_sub(stamp()), always);
    if sampler.wants(Row::Ipi) {
        crate::wait_for_other();
    }
    sampler.row(Row::Ipi, || until_arrival(send), always);
    let fault = || {
        request(Request::TakePage);
        read(place::PAGE)
    };
    sampler.row(Row::PageFault, fault, always);
    internal::prepare_syscalls();
    sampler.row(Row::Syscall, || internal::syscall(), always);
    internal::prepare_contexts();
    sampler.row(Row::ContextSwitch, internal::context_switch, always);
    internal::prepare_faults();
    let fault = || {
        internal::unmap();
        read(internal::FAULTING)
    };
    sampler.row(Row::GuestPageFault, fault, always);
}
