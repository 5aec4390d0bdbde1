//! Stand-in for the kernel's core: prints what boot code found, starts all CPUs, and shows that timers
//! and IPIs arrive.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst};

use x86::io::outb;

use crate::addr::{HostPhys, HostVirt};
use crate::arch::features::CpuFeatures;
use crate::arch::gdt::{GdtTss, KERNEL_CODE};
use crate::arch::panic::refuse;
use crate::arch::{acpi, apic, clock, ioapic, smp};
use crate::boot::memory_map::{PhysRange, RegionKind};
use crate::boot::{BootParams, madt::ApicId};

const MAX: usize = 4;
static TABLES: [GdtTss; MAX] = [const { GdtTss::new() }; MAX];
static TICKS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
static AP_STEP: AtomicUsize = AtomicUsize::new(0);

#[repr(align(16))]
struct Stack(#[allow(dead_code)] [u8; 16384]);
static mut STACKS: [Stack; MAX] = [const { Stack([0; 16384]) }; MAX];
static mut IDT: [[u64; 2]; 256] = [[0; 2]; 256];

global_asm!(
    r#"
    .macro demo_stub n
    demo_vector_\n:
        push rdi
        mov edi, \n
        jmp 2f
    .endm
    .pushsection .text
    demo_stub 0
    demo_stub 1
    demo_stub 2
    2:  push rax
        push rcx
        push rdx
        push rsi
        push r8
        push r9
        push r10
        push r11
        call {tick}
        pop r11
        pop r10
        pop r9
        pop r8
        pop rsi
        pop rdx
        pop rcx
        pop rax
        pop rdi
        iretq
    .popsection
    "#,
    tick = sym tick
);

unsafe extern "C" {
    static demo_vector_0: u8;
    static demo_vector_1: u8;
    static demo_vector_2: u8;
}

extern "C" fn tick(which: usize) {
    TICKS[which].fetch_add(1, SeqCst);
    apic::eoi();
}

fn load_idt() {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    // SAFETY: demo.
    unsafe {
        for (i, stub) in
            [&raw const demo_vector_0, &raw const demo_vector_1, &raw const demo_vector_2]
                .into_iter()
                .enumerate()
        {
            let at = stub.addr() as u64;
            let low = at & 0xffff
                | (KERNEL_CODE.bits() as u64) << 16
                | 0x8e << 40
                | (at >> 16 & 0xffff) << 48;
            IDT[0x40 + i] = [low, at >> 32];
        }
        let pointer = Pointer(4095, (&raw const IDT).addr() as u64);
        asm!("lidt [{}]", in(reg) &raw const pointer);
    }
}

fn interrupts(on: bool) {
    // SAFETY: demo.
    unsafe { if on { asm!("sti") } else { asm!("cli") } }
}

/// Stand-in.
pub fn kernel_main(params: &'static BootParams) -> ! {
    log::info!("{:?}, command line {:?}", params.loader, params.command_line);
    for region in params.memory_map.regions() {
        log::info!("  {:?} {:?}", region.range, region.kind);
    }
    for hole in params.memory_map.holes(HostPhys(5 << 30)) {
        log::info!("  hole {hole:?}");
    }
    let low = PhysRange::new(HostPhys(1 << 20), (4 << 30) - (1 << 20)).unwrap();
    let pool = params.memory_map.find(8 << 20, 2 << 20, low);
    log::info!("pool {pool:?} bundle {:?} rsdp {:?}", params.bundle, params.rsdp);
    log::info!(
        "kernel {} bytes, usable {} MiB",
        params.memory_map.total(RegionKind::Kernel),
        params.memory_map.total(RegionKind::Usable) >> 20
    );
    if params.bundle.is_none() {
        refuse(format_args!("no boot bundle: the loader passed no module"));
    }
    let features = CpuFeatures::detect();
    log::info!("{features:?}");
    if let Err(why) = features.check(&params.command_line) {
        refuse(format_args!("{why}"));
    }
    // SAFETY: demo.
    unsafe {
        features.enable_on_this_cpu();
        TABLES[0].init(HostVirt(0));
        TABLES[0].load();
        TABLES[0].reload_task();
    }
    load_idt();
    let info = acpi::read(params.rsdp, apic::boot_id());
    let platform = &info.platform;
    log::info!("cpus {:?} i/o apics {:?}", platform.cpus(), platform.io_apics());
    log::info!("pm timer {:?} isa 0 {:?} 9 {:?}", info.pm_timer, platform.isa_line(0), platform.isa_line(9));
    log::info!("xapic {:?}, id {:?} {:?}", apic::init(&features), apic::id(), apic::boot_id());
    let before = clock::now();
    assert!(clock::calibrate(info.pm_timer), "no timer to calibrate with");
    log::info!(
        "tsc {} Hz, timer {} Hz, took {} us; {} us since entry",
        clock::tsc_hz(),
        clock::timer_hz(),
        (clock::now() - before) * 1_000_000 / clock::tsc_hz(),
        (clock::now() - params.boot_counter) * 1_000_000 / clock::tsc_hz()
    );
    ioapic::init(platform);
    log::info!("{} interrupt lines", ioapic::lines());

    apic::start_timer(&features, 0x40);
    for round in 0..3 {
        let deadline = clock::now() + clock::ticks(5000);
        apic::set_deadline(deadline);
        interrupts(true);
        while TICKS[0].load(SeqCst) == round {}
        interrupts(false);
        log::info!("timer: {} ticks late", clock::now() as i64 - deadline as i64);
    }
    apic::set_deadline(clock::now() - 1);
    interrupts(true);
    let past = clock::wait_until(1000, || TICKS[0].load(SeqCst) == 4);
    interrupts(false);
    log::info!("deadline in the past: {past}");

    // The 8254's channel 0 at 1 kHz through the I/O APIC.
    // SAFETY: demo.
    unsafe {
        outb(0x43, 0x34);
        outb(0x40, 0xa9);
        outb(0x40, 0x04);
    }
    if let Some(line) = platform.isa_line(0)
        && ioapic::lines() > 0
    {
        ioapic::route(line, 0x42, apic::id()).unwrap();
        ioapic::unmask(line.gsi).unwrap();
        interrupts(true);
        clock::delay(20_000);
        interrupts(false);
        ioapic::mask(line.gsi).unwrap();
        log::info!("{} interrupts in 20 ms at 1 kHz", TICKS[2].load(SeqCst));
    }

    let cr3: u64;
    // SAFETY: demo.
    unsafe { asm!("mov {}, cr3", out(reg) cr3) };
    for (i, &id) in platform.cpus().iter().enumerate().skip(1).take(MAX - 1) {
        // SAFETY: demo.
        let up = unsafe {
            let top = (&raw mut STACKS).cast::<Stack>().add(i + 1).addr() as u64;
            smp::start(id, i, HostVirt(top), HostPhys(cr3))
        };
        log::info!("cpu {i} {id:?}: {up}");
        if up {
            let woken = clock::wait_until(1_000_000, || AP_STEP.load(SeqCst) == 1);
            apic::send_ipi(id, 0x41);
            let answer = clock::wait_until(1_000_000, || AP_STEP.load(SeqCst) == 2);
            log::info!("ready {woken}, IPI and back: {answer}, {} here", TICKS[1].load(SeqCst));
            AP_STEP.store(0, SeqCst);
        }
    }
    if platform.cpus().len() > 1 {
        interrupts(true);
        clock::wait_until(1_000_000, || TICKS[1].load(SeqCst) >= 2);
        interrupts(false);
        log::info!("IPI from the last AP: {}", TICKS[1].load(SeqCst));
    }
    // SAFETY: demo.
    let none = unsafe { smp::start(ApicId(77), 3, HostVirt(1), HostPhys(cr3)) };
    log::info!("a CPU that does not exist: {none}");
    panic!("demo over");
}

/// Stand-in.
pub fn ap_main(index: usize) -> ! {
    let features = CpuFeatures::detect();
    // SAFETY: demo.
    unsafe {
        features.enable_on_this_cpu();
        TABLES[index].init(HostVirt(0));
        TABLES[index].load();
    }
    load_idt();
    apic::init_this_cpu();
    apic::start_timer(&features, 0x40);
    let before = TICKS[0].load(SeqCst);
    apic::set_deadline(clock::now() + clock::ticks(1000));
    interrupts(true);
    while TICKS[0].load(SeqCst) == before {}
    log::info!("ap {index} {:?} {:?}: timer works", apic::id(), apic::boot_id());
    AP_STEP.store(1, SeqCst);
    while TICKS[1].load(SeqCst) == 0 {}
    AP_STEP.store(2, SeqCst);
    apic::send_ipi(ApicId(0), 0x41);
    crate::arch::panic::halt()
}
