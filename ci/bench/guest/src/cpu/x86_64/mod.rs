//! x86-64.

mod internal;
mod interrupts;
mod start;
mod tables;

use crate::monitor::{request, stamp};
use crate::sampler::Sampler;
use bench_guest::arch::{CPUID_LEAF, IPI, MSR, X2APIC_VERSION};
use bench_guest::{Arguments, Request, Row, place};
use core::arch::asm;
use interrupts::{ICR, until_arrival};

/// Ticks that instructions take, from RDTSC to RDTSC: `[before] [measured] [after]`, operands. They keep `r15`.
macro_rules! ticks {
    ([$($before:literal),*] [$($measured:literal),*] [$($after:literal),*], $($operands:tt)*) => {{
        let ticks: u32;
        // SAFETY: changes the registers that are named, and what the instructions between say.
        unsafe {
            asm!(
                $($before,)*
                "rdtsc",
                "mov r15d, eax",
                $($measured,)*
                "rdtsc",
                "sub eax, r15d",
                $($after,)*
                lateout("eax") ticks,
                out("edx") _,
                out("r15") _,
                $($operands)*
            );
        }
        ticks
    }};
}

/// Ticks between two reads of the counter in a row.
pub fn overhead() -> u32 {
    ticks!([] [] [],)
}

/// Brings a vCPU into the state that it measures in.
pub fn prepare(_number: usize, _arguments: &Arguments) {
    interrupts::prepare();
}

/// Halts for ever.
pub fn rest() -> ! {
    loop {
        // SAFETY: waits for an interrupt.
        unsafe { asm!("hlt", options(nomem, nostack)) };
    }
}

/// Writes a register of a device.
pub fn device_write(address: u64, value: u32) {
    // SAFETY: the address is a device's, whose registers do nothing to this program's memory that it does not ask for.
    unsafe { asm!("mov [{}], {:e}", in(reg) address, in(reg) value, options(nostack)) };
}

/// Reads a register of a device.
fn device_read(address: u64) -> u32 {
    let value;
    // SAFETY: as in `device_write`.
    unsafe { asm!("mov {:e}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
    value
}

fn port_read() -> u8 {
    let value;
    // SAFETY: a port of the monitor's that does nothing.
    unsafe { asm!("in al, {}", const place::PORT, out("al") value, options(nomem, nostack)) };
    value
}

fn cpuid() -> u32 {
    ticks!(
        ["mov r14, rbx"]
        ["mov eax, r13d", "cpuid"]
        ["mov rbx, r14"],
        in("r13") CPUID_LEAF,
        out("r14") _,
        out("ecx") _,
    )
}

/// Reads the counter, and halts.
fn halt() -> u32 {
    let start;
    // SAFETY: interrupts are on.
    unsafe { asm!("rdtsc", "hlt", out("eax") start, out("edx") _, options(nostack)) };
    start
}

/// Reads the counter, and sends vCPU 1 an interrupt.
fn send() -> u32 {
    let start;
    // SAFETY: the other vCPU handles it.
    unsafe {
        asm!(
            "rdtsc",
            "mov r15d, eax",
            "mov eax, {vector}",
            "mov edx, 1",
            "wrmsr",
            vector = const IPI,
            in("ecx") ICR,
            out("eax") _,
            out("edx") _,
            out("r15") start,
            options(nostack),
        );
    }
    start
}

/// Measures everything here.
pub fn measure(sampler: &Sampler, arguments: &Arguments) {
    let always = || true;
    match arguments.vmmcall {
        0 => sampler.row(Row::Hypercall, || ticks!([] ["vmcall"] [],), always),
        _ => sampler.row(Row::Hypercall, || ticks!([] ["vmmcall"] [],), always),
    }
    let ring = || ticks!([] ["mov [r14], eax"] [], in("r14") place::DOORBELL,);
    let ring_port = || ticks!([] ["out {port}, ax"] [], port = const place::DOORBELL_PORT,);
    match arguments.port_doorbell {
        0 => sampler.row(Row::Doorbell, ring, always),
        _ => sampler.row(Row::Doorbell, ring_port, always),
    }
    sampler.row(Row::Cpuid, cpuid, always);
    sampler.row(
        Row::PortRead,
        || ticks!([] ["in al, {port}"] [], port = const place::PORT,),
        || port_read() == place::PORT_VALUE,
    );
    device_write(place::VALUE, 0);
    sampler.row(
        Row::MmioRead,
        || ticks!([] ["mov r13d, [r14]"] [], in("r14") place::VALUE, out("r13") _,),
        || device_read(place::VALUE) == 0,
    );
    let written = 0x1234_5678;
    sampler.row(
        Row::MmioWrite,
        || ticks!([] ["mov [r14], r13d"] [], in("r14") place::VALUE, in("r13") written,),
        || device_read(place::VALUE) == written,
    );
    sampler.row(Row::Msr, || ticks!([] ["rdmsr"] [], in("ecx") MSR,), always);
    sampler.row(
        Row::InterruptController,
        || ticks!([] ["rdmsr"] [], in("ecx") X2APIC_VERSION,),
        always,
    );
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
        ticks!([] ["mov r13d, [r14]"] [], in("r14") place::PAGE, out("r13") _,)
    };
    sampler.row(Row::PageFault, fault, always);
    internal::prepare_syscalls();
    sampler.row(Row::Syscall, || internal::syscall(), always);
    internal::prepare_contexts();
    sampler.row(Row::ContextSwitch, internal::context_switch, always);
    internal::prepare_faults();
    let fault = || {
        internal::unmap();
        ticks!([] ["mov r13d, [r14]"] [], in("r14") internal::FAULTING, out("r13") _,)
    };
    sampler.row(Row::GuestPageFault, fault, always);
}
