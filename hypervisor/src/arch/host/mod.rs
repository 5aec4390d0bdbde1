//! A machine of plain data: what the portable core asks of an architecture, for its tests.
//!
//! Several CPUs take turns in one host thread, as [`set_current_cpu`] says. Time stands still until
//! [`set_now`]. Page tables are the real ones of x86-64, without a processor that walks them.

pub mod frame;
pub mod layout;
#[path = "../x86_64/paging.rs"]
pub mod paging;
pub mod vcpu;

#[cfg(all(test, target_arch = "x86_64", not(schedules)))]
#[path = "../x86_64/cpuid.rs"]
#[allow(dead_code)]
mod cpuid;

#[cfg(all(test, target_arch = "x86_64", not(schedules)))]
#[path = "../x86_64/tags.rs"]
#[allow(dead_code)]
mod tags;

#[cfg(all(test, target_arch = "x86_64", not(schedules)))]
#[path = "../x86_64/virt/mod.rs"]
#[allow(dead_code, unused_imports)]
mod virt;

#[cfg(all(test, target_arch = "x86_64", not(schedules)))]
#[path = "../x86_64/speculation.rs"]
#[allow(dead_code, unused_imports)]
mod speculation;

#[cfg(all(test, not(schedules)))]
#[path = "../aarch64/speculation.rs"]
#[allow(dead_code)]
mod speculation_arm;

#[cfg(all(test, not(schedules)))]
#[path = "../aarch64/firmware/fdt.rs"]
#[allow(dead_code)]
mod fdt;

#[cfg(all(test, not(schedules)))]
#[path = "../aarch64/firmware/device_tree.rs"]
#[allow(dead_code)]
mod device_tree;

#[cfg(all(test, not(schedules)))]
#[path = "../x86_64/firmware/mod.rs"]
#[allow(dead_code)]
mod firmware;

#[cfg(all(test, not(schedules)))]
#[path = "../aarch64/interrupts/list_register.rs"]
#[allow(dead_code)]
mod list_register;

pub use frame::Frame;
pub use paging::PageTable;
pub use vcpu::{Outcome, VcpuArch, VcpuReply, after_guest, deliver, pages_per_vcpu};

use crate::cell::{CpuCell, Ref};
use crate::cpu::Cpu;
use crate::space::Space;
use crate::vcpu::Vcpu;
use abi::Status;
use abi::boot::Virtualization;
use abi::syscall::{PowerAction, SpaceKind, TriggerMode};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The architecture's part of the per-CPU data.
pub struct CpuArch {
    /// Another CPU has interrupted this one, and it has not taken that interrupt yet.
    pub interrupted: AtomicBool,
    /// When the timer fires.
    pub timer: AtomicU64,
    /// How often translations were flushed.
    pub flushes: AtomicU64,
    /// vCPUs that hold registers of this CPU.
    pub residents: AtomicU32,
    /// The vCPU that was not suspended since it ran.
    guest: CpuCell<Option<Ref<Vcpu>>>,
}

impl CpuArch {
    /// A CPU that nothing has happened to.
    pub const fn new() -> CpuArch {
        CpuArch {
            interrupted: AtomicBool::new(false),
            timer: AtomicU64::new(u64::MAX),
            flushes: AtomicU64::new(0),
            residents: AtomicU32::new(0),
            guest: CpuCell::new(None),
        }
    }

    /// Suspends the vCPU that ran last, unless it is `next`.
    pub fn leave_guest(&self, next: Option<Ref<Vcpu>>) {
        if self.guest.get() != next {
            if let Some(vcpu) = self.guest.get() {
                vcpu.arch.with_mut(|arch| arch.suspend(self));
            }
            self.guest.set(next);
        }
    }
}

impl Default for CpuArch {
    fn default() -> CpuArch {
        CpuArch::new()
    }
}

static CURRENT: AtomicU64 = AtomicU64::new(0);
static NOW: AtomicU64 = AtomicU64::new(0);

/// Makes `cpu` the one that runs.
pub fn set_current_cpu(cpu: Ref<Cpu>) {
    CURRENT.store(cpu.address(), Ordering::SeqCst);
}

/// The data of the CPU that runs.
pub fn current_cpu() -> &'static Cpu {
    let cpu = CURRENT.load(Ordering::SeqCst) as *const Cpu;
    assert!(!cpu.is_null(), "no CPU runs");
    // SAFETY: `set_current_cpu` stored it, and CPU data never ends.
    unsafe { &*cpu }
}

/// The counter.
pub fn now() -> u64 {
    NOW.load(Ordering::SeqCst)
}

/// Sets the counter.
pub fn set_now(now: u64) {
    NOW.store(now, Ordering::SeqCst);
}

/// Sets the current CPU's timer.
pub fn set_timer(deadline: u64) {
    current_cpu().arch.timer.store(deadline, Ordering::SeqCst);
}

/// Interrupts another CPU: it is pending until that CPU leaves the kernel.
pub fn send_interrupt(cpu: &CpuArch) {
    cpu.interrupted.store(true, Ordering::SeqCst);
}

/// Translations of `space` were taken out of its tables: the CPUs that have to drop them.
pub fn drop_translations(space: &Space) -> u64 {
    space.cpus.load(Ordering::Relaxed)
}

/// Forgets translations.
pub fn flush_translations(cpu: &Cpu) {
    cpu.arch.flushes.fetch_add(1, Ordering::SeqCst);
}

/// Output of the kernel's log: not shown.
pub fn early_output(_bytes: &[u8]) {}

static TAGS: AtomicU64 = AtomicU64::new(1);

/// A tag for a space of `kind`, 0 if there is none.
pub fn alloc_space_tag(kind: SpaceKind) -> u16 {
    let taken = TAGS.load(Ordering::Relaxed);
    if kind != SpaceKind::Host || taken == u64::MAX {
        return 0;
    }
    let tag = taken.trailing_ones();
    TAGS.store(taken | 1 << tag, Ordering::Relaxed);
    tag as u16
}

/// Returns a tag.
pub fn free_space_tag(tag: u16) {
    if tag != 0 {
        let before = TAGS.fetch_and(!(1 << tag), Ordering::Relaxed);
        assert!(before & 1 << tag != 0, "tag {tag} freed twice");
    }
}

/// Tags that are in use.
pub fn space_tags() -> u32 {
    TAGS.load(Ordering::Relaxed).count_ones() - 1
}

/// Copies `count` words.
///
/// # Safety
/// The ranges are the pool's, and there are no Rust references to the second.
pub unsafe fn copy_words(from: u64, to: u64, count: usize) {
    // SAFETY: by the caller's word.
    unsafe { core::ptr::copy_nonoverlapping(from as *const u64, to as *mut u64, count) };
}

/// Fills a page with copies of a word.
///
/// # Safety
/// The page is the pool's, and there are no Rust references to it.
pub unsafe fn fill_page(page: u64, word: u64) {
    for i in 0..512 {
        // SAFETY: by the caller's word.
        unsafe { (page as *mut u64).add(i).write(word) };
    }
}

/// The virtualisation extension whose table format guest spaces have.
pub fn virtualization() -> Virtualization {
    Virtualization::Vmx
}

/// An interrupt line, as its controller has it.
pub struct Line {
    /// Whether it is masked.
    pub masked: crate::sync::atomic::AtomicBool,
    /// Whether the device holds a level-triggered line active, or an edge waits to be taken.
    pub active: AtomicBool,
    mode: AtomicU32,
}

/// The interrupt lines.
pub static LINES: [Line; 16] = [const {
    Line {
        masked: crate::sync::atomic::AtomicBool::new(true),
        active: AtomicBool::new(false),
        mode: AtomicU32::new(0),
    }
}; 16];

/// Device registers that only guests may reach.
pub const GUEST_ONLY: core::ops::Range<u64> = 0xfe00_1000..0xfe00_2000;

/// Whether programs can reach devices by I/O ports.
pub const HAS_PORTS: bool = true;

/// Whether a part of the range is of [`GUEST_ONLY`].
pub fn is_guest_only(start: u64, size: u64) -> bool {
    start < GUEST_ONLY.end && GUEST_ONLY.start < start + size
}

/// Routes a line, masked; whether delivery holds it: if it is level-triggered. There is no line 3.
pub fn interrupt_route(line: u32, mode: TriggerMode) -> Result<bool, Status> {
    let Some(line) = LINES.get(line as usize).filter(|_| line != 3) else {
        return Err(Status::Unsupported);
    };
    line.masked.store(true, Ordering::SeqCst);
    line.mode.store(mode as u32, Ordering::SeqCst);
    Ok(mode == TriggerMode::Level)
}

/// Holds a line that is delivered.
pub fn interrupt_hold(line: u32) {
    interrupt_mask(line);
}

/// Lets a line be delivered again.
pub fn interrupt_release(line: u32) {
    interrupt_unmask(line);
}

/// Masks a line.
pub fn interrupt_mask(line: u32) {
    if let Some(line) = LINES.get(line as usize) {
        line.masked.store(true, Ordering::SeqCst);
    }
}

/// Unmasks a line.
pub fn interrupt_unmask(line: u32) {
    if let Some(line) = LINES.get(line as usize) {
        line.masked.store(false, Ordering::SeqCst);
    }
}

/// The machine as at boot.
#[cfg(test)]
pub fn reset() {
    set_now(0);
    TAGS.store(1, Ordering::Relaxed);
    for line in &LINES {
        line.masked.store(true, Ordering::SeqCst);
        line.active.store(false, Ordering::SeqCst);
    }
}

/// What brings back the time and the tags.
#[cfg(test)]
pub fn save() -> impl Fn() {
    let saved = [&NOW, &TAGS].map(|number| (number, number.load(Ordering::SeqCst)));
    move || {
        for (number, value) in saved {
            number.store(value, Ordering::SeqCst);
        }
    }
}

/// There is no firmware to ask: a PC is switched off by way of ports, which the root task has.
pub fn power(_action: PowerAction) -> Status {
    Status::Unsupported
}
