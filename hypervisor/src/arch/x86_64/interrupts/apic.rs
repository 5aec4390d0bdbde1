//! The local APIC of each CPU: x2APIC through MSRs where the CPU has it, else xAPIC through memory.
//!
//! Sections are of the Intel SDM, volume 3A, chapter 11 (APIC).

use core::arch::asm;
use core::arch::x86_64::_mm_mfence;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bitflags::bitflags;
use x86::apic::xapic::{
    XAPIC_EOI, XAPIC_ESR, XAPIC_ICR0, XAPIC_ICR1, XAPIC_ID, XAPIC_LVT_ERROR, XAPIC_LVT_LINT0,
    XAPIC_LVT_LINT1, XAPIC_LVT_PMI, XAPIC_LVT_THERMAL, XAPIC_LVT_TIMER, XAPIC_SVR,
    XAPIC_TIMER_CURRENT_COUNT, XAPIC_TIMER_DIV_CONF, XAPIC_TIMER_INIT_COUNT, XAPIC_TPR,
    XAPIC_VERSION,
};
use x86::msr::{IA32_APIC_BASE, IA32_TSC_DEADLINE, rdmsr, wrmsr};

use super::super::firmware::madt::ApicId;
use crate::addr::HostPhys;

use super::super::clock;
use super::super::features::CpuFeatures;
use super::super::layout::window;

/// Vector of interrupts that were withdrawn before the CPU took them (11.9). They get no EOI.
pub const SPURIOUS_VECTOR: u8 = 0xff;

bitflags! {
    /// Interrupt command register, low half (11.6.1). Without a mode of delivery, the interrupt of the vector is sent.
    #[derive(Clone, Copy)]
    pub struct Command: u32 {
        /// A non-maskable interrupt.
        const NMI = 0b100 << 8;
        /// Resets the CPU, which then waits for [`Command::STARTUP`] (9.4).
        const INIT = 0b101 << 8;
        /// Starts the CPU in real mode at the page of the vector's number.
        const STARTUP = 0b110 << 8;
        /// The last one is on its way.
        const PENDING = 1 << 12;
        /// What all are sent with.
        const ASSERT = 1 << 14;
        /// To all CPUs but this.
        const ALL_OTHERS = 0b11 << 18;
    }
}

/// IA32_APIC_BASE (11.4.4, 11.12.1).
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Flags of a local vector table entry (11.5.1).
const LVT_MASKED: u32 = 1 << 16;
const LVT_TSC_DEADLINE: u32 = 0b10 << 17;
/// Spurious-interrupt vector register: the APIC is enabled by software.
const SOFTWARE_ENABLE: u32 = 1 << 8;
/// Divide configuration: the timer counts every tick of its clock.
const DIVIDE_BY_1: u32 = 0b1011;
/// Reads of the delivery status before an IPI is sent regardless; delivery takes a few bus cycles.
const MAX_DELIVERY_POLLS: u32 = 1_000_000;

/// Virtual address of the xAPIC's registers; 0 in x2APIC mode.
static XAPIC: AtomicU64 = AtomicU64::new(0);
/// Timer ticks per TSC tick as 32.32 fixed-point number, from [`clock::calibrate`]; 0 in TSC-deadline mode.
pub static TIMER_RATIO: AtomicU64 = AtomicU64::new(0);

/// The register at offset `register` of the xAPIC's page (table 11-1) in x2APIC mode (11.12.1.2).
const fn msr(register: u32) -> u32 {
    0x800 + (register >> 4)
}

fn read(register: u32) -> u32 {
    match XAPIC.load(Relaxed) {
        // SAFETY: `choose_mode` found x2APIC; no register in the list has side effects on reading.
        0 => unsafe { rdmsr(msr(register)) as u32 },
        // SAFETY: `choose_mode` found the registers at this address; they are 32 bits wide.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

fn write(register: u32, value: u32) {
    match XAPIC.load(Relaxed) {
        // SAFETY: `choose_mode` found x2APIC; the callers write values that the manual defines.
        0 => unsafe { wrmsr(msr(register), value.into()) },
        // SAFETY: as in `read`.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// As [`write`], for set-up, which is smaller with one copy of it.
#[inline(never)]
fn set_up(register: u32, value: u32) {
    write(register, value);
}

/// Sets up the boot CPU's APIC and decides the mode for all CPUs. Returns the physical address of the
/// registers' page, uncached in the window from now on, or `None` in x2APIC mode.
pub fn init(features: &CpuFeatures) -> Option<HostPhys> {
    // SAFETY: every 64-bit CPU has the register.
    let base = unsafe { rdmsr(IA32_APIC_BASE) };
    let page = HostPhys(base & BASE_ADDRESS);
    if !features.x2apic {
        XAPIC.store(window(page).0, Relaxed);
    }
    init_this_cpu();
    (!features.x2apic).then_some(page)
}

/// Sets up the current CPU's APIC after [`init`] did so on the boot CPU: enabled, nothing in service,
/// all local sources masked.
pub fn init_this_cpu() {
    // SAFETY: from disabled the way to x2APIC mode is by xAPIC mode; firmware that set x2APIC also reports it, so
    // that the mode is not left (11.12.5). The address stays.
    unsafe {
        let base = rdmsr(IA32_APIC_BASE) | BASE_ENABLE;
        wrmsr(IA32_APIC_BASE, base);
        if XAPIC.load(Relaxed) == 0 {
            wrmsr(IA32_APIC_BASE, base | BASE_X2APIC);
        }
    }
    set_up(XAPIC_SVR, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    let masked = LVT_MASKED | u32::from(SPURIOUS_VECTOR);
    for lvt in [XAPIC_LVT_TIMER, XAPIC_LVT_LINT0, XAPIC_LVT_LINT1, XAPIC_LVT_ERROR] {
        set_up(lvt, masked);
    }
    // The others exist depending on the number of entries (11.5.1).
    let last_lvt = read(XAPIC_VERSION) >> 16 & 0xff;
    if last_lvt >= 4 {
        set_up(XAPIC_LVT_PMI, masked);
    }
    if last_lvt >= 5 {
        set_up(XAPIC_LVT_THERMAL, masked);
    }
    set_up(XAPIC_ESR, 0);
    set_up(XAPIC_TIMER_DIV_CONF, DIVIDE_BY_1);
    // After LINT0 is masked: only this write makes QEMU 7.2 withdraw an interrupt of the 8259 that was
    // pending there; it would otherwise arrive later as vector -1.
    set_up(XAPIC_TPR, 0);
    // What firmware left in service would block lower priorities: one EOI for each possible one.
    for _ in 0..16 {
        eoi();
    }
}

/// Number of the current CPU's APIC.
pub fn id() -> ApicId {
    let id = read(XAPIC_ID);
    ApicId(if XAPIC.load(Relaxed) == 0 { id } else { id >> 24 })
}

/// Ends the interrupt of highest priority that is in service on the current CPU.
#[inline]
pub fn eoi() {
    write(XAPIC_EOI, 0);
}

/// Sends an interrupt to the CPU `to`. All stores before it are visible to the receiver.
pub fn send(to: ApicId, command: Command, vector: u8) {
    let low = (command | Command::ASSERT).bits() | u32::from(vector);
    if XAPIC.load(Relaxed) == 0 {
        // The write is not serialising: without the fences the IPI can overtake earlier stores (11.12.3).
        // SAFETY: fences have no preconditions. The register takes the target in its upper half.
        unsafe {
            asm!("mfence", "lfence", options(nostack, preserves_flags));
            wrmsr(msr(XAPIC_ICR0), u64::from(to.0) << 32 | u64::from(low));
        }
    } else {
        let pending = |_: &u32| read(XAPIC_ICR0) & Command::PENDING.bits() != 0;
        let _ = (0..MAX_DELIVERY_POLLS).take_while(pending).count();
        write(XAPIC_ICR1, to.0 << 24);
        write(XAPIC_ICR0, low);
    }
}

/// Lets the timer count down without interrupt until [`start_timer`], for [`clock::calibrate`].
pub fn start_counting() {
    set_up(XAPIC_TIMER_INIT_COUNT, u32::MAX);
}

/// Ticks since [`start_counting`].
pub fn counted() -> u32 {
    u32::MAX - read(XAPIC_TIMER_CURRENT_COUNT)
}

/// Gives the current CPU's timer its vector; it fires at deadlines from now on. Needs
/// [`clock::calibrate`].
pub fn start_timer(features: &CpuFeatures, vector: u8) {
    if features.tsc_deadline {
        TIMER_RATIO.store(0, Relaxed);
        set_up(XAPIC_LVT_TIMER, LVT_TSC_DEADLINE | u32::from(vector));
        // In xAPIC mode the MSR write could overtake the memory write (11.5.4.1).
        // SAFETY: a fence has no preconditions, and SSE2 is part of x86-64; the register exists in this mode.
        unsafe {
            _mm_mfence();
            wrmsr(IA32_TSC_DEADLINE, 0);
        }
    } else {
        set_up(XAPIC_LVT_TIMER, u32::from(vector));
        set_up(XAPIC_TIMER_INIT_COUNT, 0);
    }
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
        write(XAPIC_TIMER_INIT_COUNT, ticks);
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
    write(XAPIC_TPR, 0);
}
