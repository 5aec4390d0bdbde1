//! The local APIC of each CPU: x2APIC through MSRs where the CPU has it, else xAPIC through memory.
//!
//! Sections are of the Intel SDM, volume 3A, chapter 11 (APIC).

use core::arch::asm;
use core::arch::x86_64::_mm_mfence;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bitflags::bitflags;
use x86::msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE, IA32_X2APIC_APICID, rdmsr, wrmsr};

use super::super::firmware::madt::ApicId;
use crate::addr::HostPhys;

use super::super::clock;
use super::super::cpuid::leaf;
use super::super::features::CpuFeatures;
use super::super::layout::window;

/// Vector of interrupts that were withdrawn before the CPU took them (11.9). They get no EOI.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Registers as offsets in the xAPIC's page (table 11-1); in x2APIC mode the register at offset `o` is
/// MSR 0x800 + o / 16 (11.12.1.2).
#[derive(Clone, Copy)]
#[repr(u32)]
enum Register {
    Id = 0x20,
    Version = 0x30,
    TaskPriority = 0x80,
    EndOfInterrupt = 0xb0,
    SpuriousVector = 0xf0,
    ErrorStatus = 0x280,
    CommandLow = 0x300,
    CommandHigh = 0x310,
    LvtTimer = 0x320,
    LvtThermal = 0x330,
    LvtPerformance = 0x340,
    LvtLint0 = 0x350,
    LvtLint1 = 0x360,
    LvtError = 0x370,
    InitialCount = 0x380,
    CurrentCount = 0x390,
    DivideConfiguration = 0x3e0,
}

bitflags! {
    /// IA32_APIC_BASE (11.4.4, 11.12.1).
    struct ApicBase: u64 {
        const X2APIC = 1 << 10;
        const ENABLE = 1 << 11;
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }
    /// Flags of a local vector table entry (11.5.1).
    struct Lvt: u32 {
        const MASKED = 1 << 16;
        const TIMER_TSC_DEADLINE = 0b10 << 17;
    }
    /// Interrupt command register, low half (11.6.1).
    #[derive(Clone, Copy)]
    struct Command: u32 {
        const NMI = 0b100 << 8;
        const INIT = 0b101 << 8;
        const STARTUP = 0b110 << 8;
        const PENDING = 1 << 12;
        const ASSERT = 1 << 14;
        const ALL_OTHERS = 0b11 << 18;
    }
}

/// Spurious-interrupt vector register: the APIC is enabled by software.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Divide configuration: the timer counts every tick of its clock.
const DIVIDE_BY_1: u32 = 0b1011;
/// Reads of the delivery status before an IPI is sent regardless; delivery takes a few bus cycles.
const MAX_DELIVERY_POLLS: u32 = 1_000_000;

/// Virtual address of the xAPIC's registers; 0 in x2APIC mode.
static XAPIC: AtomicU64 = AtomicU64::new(0);
/// Whether the mode is chosen: before that no register may be touched.
static READY: AtomicBool = AtomicBool::new(false);
/// Timer ticks per TSC tick as 32.32 fixed-point number; 0 in TSC-deadline mode.
static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);

fn read(register: Register) -> u32 {
    match XAPIC.load(Relaxed) {
        // SAFETY: `choose_mode` found x2APIC; no register in the list has side effects on reading.
        0 => unsafe { rdmsr(0x800 + (register as u32 >> 4)) as u32 },
        // SAFETY: `choose_mode` found the registers at this address; they are 32 bits wide.
        base => unsafe { ((base + register as u64) as *const u32).read_volatile() },
    }
}

fn write(register: Register, value: u32) {
    match XAPIC.load(Relaxed) {
        // SAFETY: `choose_mode` found x2APIC; the callers write values that the manual defines.
        0 => unsafe { wrmsr(0x800 + (register as u32 >> 4), value.into()) },
        // SAFETY: as in `read`.
        base => unsafe { ((base + register as u64) as *mut u32).write_volatile(value) },
    }
}

/// As [`write`], for set-up, which is smaller with one copy of it.
#[inline(never)]
fn set_up(register: Register, value: u32) {
    write(register, value);
}

/// APIC number of the current CPU by CPUID; works before the APIC is set up.
pub fn boot_id() -> ApicId {
    // The topology leaf has all 32 bits; it reads 0 in EBX where it does not exist.
    let topology = leaf(0xb, 0);
    if topology.ebx != 0 {
        return ApicId(topology.edx);
    }
    ApicId(leaf(1, 0).ebx >> 24)
}

/// Sets up the boot CPU's APIC and decides the mode for all CPUs. Returns the physical address of the
/// registers' page, uncached in the window from now on, or `None` in x2APIC mode.
pub fn init(features: &CpuFeatures) -> Option<HostPhys> {
    // SAFETY: every 64-bit CPU has the register.
    let base = unsafe { rdmsr(IA32_APIC_BASE) };
    let page = HostPhys(base & ApicBase::ADDRESS.bits());
    if !features.x2apic {
        XAPIC.store(window(page).0, Relaxed);
    }
    READY.store(true, Relaxed);
    init_this_cpu();
    (!features.x2apic).then_some(page)
}

/// Sets up the current CPU's APIC after [`init`] did so on the boot CPU: enabled, nothing in service,
/// all local sources masked.
pub fn init_this_cpu() {
    // SAFETY: from disabled the way to x2APIC mode is by xAPIC mode; firmware that set x2APIC also reports it, so
    // that the mode is not left (11.12.5). The address stays.
    unsafe {
        let base = rdmsr(IA32_APIC_BASE) | ApicBase::ENABLE.bits();
        wrmsr(IA32_APIC_BASE, base);
        if XAPIC.load(Relaxed) == 0 {
            wrmsr(IA32_APIC_BASE, base | ApicBase::X2APIC.bits());
        }
    }
    set_up(Register::SpuriousVector, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    let masked = Lvt::MASKED.bits() | u32::from(SPURIOUS_VECTOR);
    for lvt in [Register::LvtTimer, Register::LvtLint0, Register::LvtLint1, Register::LvtError] {
        set_up(lvt, masked);
    }
    // The others exist depending on the number of entries (11.5.1).
    let last_lvt = read(Register::Version) >> 16 & 0xff;
    if last_lvt >= 4 {
        set_up(Register::LvtPerformance, masked);
    }
    if last_lvt >= 5 {
        set_up(Register::LvtThermal, masked);
    }
    set_up(Register::ErrorStatus, 0);
    // After LINT0 is masked: only this write makes QEMU 7.2 withdraw an interrupt of the 8259 that was
    // pending there; it would otherwise arrive later as vector -1.
    set_up(Register::TaskPriority, 0);
    // What firmware left in service would block lower priorities: one EOI for each possible one.
    for _ in 0..16 {
        eoi();
    }
}

/// Number of the current CPU's APIC.
pub fn id() -> ApicId {
    match XAPIC.load(Relaxed) {
        // SAFETY: `init` found x2APIC.
        0 => ApicId(unsafe { rdmsr(IA32_X2APIC_APICID) } as u32),
        _ => ApicId(read(Register::Id) >> 24),
    }
}

/// Ends the interrupt of highest priority that is in service on the current CPU.
#[inline]
pub fn eoi() {
    write(Register::EndOfInterrupt, 0);
}

/// Sends `vector` to the CPU `to`. All stores before it are visible to the receiver.
pub fn send_ipi(to: ApicId, vector: u8) {
    command(to, Command::ASSERT, vector);
}

/// Sends an NMI to the CPU `to`.
pub fn send_nmi(to: ApicId) {
    command(to, Command::ASSERT | Command::NMI, 0);
}

/// Sends an NMI to all other CPUs; nothing before [`init`].
pub fn send_nmi_to_others() {
    if READY.load(Relaxed) {
        command(ApicId(0), Command::ASSERT | Command::NMI | Command::ALL_OTHERS, 0);
    }
}

/// Resets the CPU `to`, which then waits for [`send_startup`] (9.4).
pub fn send_init(to: ApicId) {
    command(to, Command::ASSERT | Command::INIT, 0);
}

/// Starts the CPU `to`, which waits after [`send_init`], in real mode at `page`.
pub fn send_startup(to: ApicId, page: HostPhys) {
    command(to, Command::ASSERT | Command::STARTUP, (page.0 >> 12) as u8);
}

fn command(to: ApicId, command: Command, vector: u8) {
    let low = command.bits() | u32::from(vector);
    if XAPIC.load(Relaxed) == 0 {
        // The write is not serialising: without the fences the IPI can overtake earlier stores (11.12.3).
        // SAFETY: fences have no preconditions. The register takes the target in its upper half.
        unsafe {
            asm!("mfence", "lfence", options(nostack, preserves_flags));
            wrmsr(
                0x800 + (Register::CommandLow as u32 >> 4),
                u64::from(to.0) << 32 | u64::from(low),
            );
        }
    } else {
        let pending = |_: &u32| read(Register::CommandLow) & Command::PENDING.bits() != 0;
        let _ = (0..MAX_DELIVERY_POLLS).take_while(pending).count();
        write(Register::CommandHigh, to.0 << 24);
        write(Register::CommandLow, low);
    }
}

/// Lets the timer count down without interrupt, for [`clock::calibrate`].
pub fn start_counting() {
    set_up(Register::LvtTimer, Lvt::MASKED.bits() | u32::from(SPURIOUS_VECTOR));
    set_up(Register::DivideConfiguration, DIVIDE_BY_1);
    set_up(Register::InitialCount, u32::MAX);
}

/// Ticks since [`start_counting`].
pub fn counted() -> u32 {
    u32::MAX - read(Register::CurrentCount)
}

/// Ends [`start_counting`].
pub fn stop_counting() {
    set_up(Register::InitialCount, 0);
}

/// Gives the current CPU's timer its vector; it fires at deadlines from now on. Needs
/// [`clock::calibrate`].
pub fn start_timer(features: &CpuFeatures, vector: u8) {
    if features.tsc_deadline {
        TIMER_RATIO.store(0, Relaxed);
        set_up(Register::LvtTimer, Lvt::TIMER_TSC_DEADLINE.bits() | u32::from(vector));
        // In xAPIC mode the MSR write could overtake the memory write (11.5.4.1).
        // SAFETY: a fence has no preconditions, and SSE2 is part of x86-64.
        unsafe { _mm_mfence() };
    } else {
        TIMER_RATIO.store(clock::timer_ratio(), Relaxed);
        set_up(Register::DivideConfiguration, DIVIDE_BY_1);
        set_up(Register::LvtTimer, u32::from(vector));
    }
    cancel_deadline();
}

/// Makes the current CPU's timer fire once, when the TSC reaches `tsc`; at once if it has. It replaces
/// an earlier deadline. Where the timer is a counter that cannot count that far, or is not exact, it fires
/// early: the handler compares, and sets the deadline again.
#[inline]
pub fn set_deadline(tsc: u64) {
    let ratio = TIMER_RATIO.load(Relaxed);
    if ratio == 0 {
        // 0 would disarm.
        // SAFETY: `start_timer` set this mode, in which the register exists.
        unsafe { wrmsr(IA32_TSC_DEADLINE, tsc.max(1)) };
    } else {
        let delta = tsc.saturating_sub(clock::now());
        let ticks = (u128::from(delta) * u128::from(ratio)) >> 32;
        // 0 would disarm; one more, so that rounding does not make it early.
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1);
        write(Register::InitialCount, ticks);
    }
}

/// Has the current CPU's local APIC look again for an interrupt that it can deliver, by writing the task priority that
/// it has anyway.
///
/// A real one needs no such reminder. QEMU (7.2, TCG) updates the processor's pending-interrupt flags without a lock when
/// a guest exits under SVM, and loses an interrupt that arrives at that moment: it stays in IRR until the
/// next such write.
#[inline]
pub fn look_again() {
    write(Register::TaskPriority, 0);
}

/// Disarms the current CPU's timer.
pub fn cancel_deadline() {
    if TIMER_RATIO.load(Relaxed) == 0 {
        // SAFETY: as in `set_deadline`.
        unsafe { wrmsr(IA32_TSC_DEADLINE, 0) };
    } else {
        write(Register::InitialCount, 0);
    }
}
