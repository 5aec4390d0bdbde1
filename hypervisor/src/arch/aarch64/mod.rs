//! AArch64 at EL2, from Armv8.0 without VHE: what the portable core asks of the architecture.

pub mod boot;
mod bytes;
pub mod clock;
pub mod entry;
pub mod fastpath;
pub mod features;
pub mod firmware;
pub mod frame;
pub mod interrupts;
pub mod layout;
pub mod paging;
pub mod smp;
pub mod speculation;
pub mod start;
pub mod sysreg;
pub mod tags;
pub mod traps;
pub mod uart;
pub mod vcpu;
pub mod virt;

pub use clock::now;
pub use clock::set_deadline as set_timer;
pub use firmware::psci::power;
pub use frame::Frame;
pub use interrupts::deactivate as interrupt_release;
pub use paging::PageTable;
pub use start::{ap_main, kernel_main};
pub use tags::{alloc_space_tag, free_space_tag};
pub use traps::deliver;
pub use uart::early_print as early_output;
pub use vcpu::{Outcome, VcpuArch, VcpuReply, after_guest, pages_per_vcpu};

use crate::cell::{CpuCell, Ref};
use crate::context::State;
use crate::cpu::Cpu;
use crate::latency::{self, Path};
use crate::space::Space;
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use abi::Status;
use abi::syscall::TriggerMode;
use core::arch::asm;
use core::sync::atomic::Ordering;
use firmware::smccc;
use interrupts as gic;
use sysreg::{isb, read, write};

/// The architecture's part of the per-CPU data.
#[repr(C)]
pub struct CpuArch {
    /// Top of the kernel's stack.
    pub stack_top: u64,
    /// Affinity, as in MPIDR_EL1.
    pub affinity: u64,
    /// Number of this CPU and, in the upper half, the state of an idle handler.
    idle_here: u64,
    /// The host space whose tables are loaded, with HCR_EL2 for threads; `None`: nobody's, or a guest's. The fast path loads it with
    /// the word before.
    space: CpuCell<Option<Ref<Space>>>,
    /// How the interrupt controller names it.
    pub target: CpuCell<gic::Target>,
    /// HCR_EL2 for threads and for guests.
    hcr_thread: u64,
    hcr_guest: u64,
    /// Address of the state page of the vCPU whose registers are loaded.
    guest_page: CpuCell<u64>,
    /// The vCPU whose registers are loaded.
    pub guest: CpuCell<Option<Ref<Vcpu>>>,
}

impl CpuArch {
    /// Data of a CPU that does not run yet.
    pub fn new(index: u32, stack_top: u64, affinity: u64) -> CpuArch {
        CpuArch {
            stack_top,
            affinity,
            idle_here: u64::from(index) | (State::Idle as u64) << 32,
            target: CpuCell::new(gic::Target::default()),
            hcr_thread: features::HCR_THREAD | features::hcr_common(),
            hcr_guest: features::HCR_GUEST | features::hcr_common(),
            guest_page: CpuCell::new(0),
            space: CpuCell::new(None),
            guest: CpuCell::new(None),
        }
    }

    /// Loads the tables of `space`, if they are not loaded.
    #[inline(always)]
    pub fn load_space(&self, space: Ref<Space>) {
        if self.space.get() == Some(space) {
            return;
        }
        self.space.set(Some(space));
        // Threads have no such register; it must not carry anything from one space to another.
        write!("tpidr_el0", 0);
        isb();
        load_tables(&space);
        isb();
        write!("hcr_el2", self.hcr_thread);
    }

    /// Loads the tables of a guest, whose registers of EL1 are to follow, and HCR_EL2 for guests, with the bits `more`.
    #[inline(always)]
    pub fn load_guest_space(&self, guest: &Space, more: u64) {
        self.space.set(None);
        write!("hcr_el2", self.hcr_guest | more);
        isb();
        load_tables(guest);
        isb();
    }

    /// Suspends the vCPU whose registers are loaded, unless it is `next`.
    #[inline(always)]
    pub fn leave_guest(&self, next: Option<Ref<Vcpu>>) {
        if self.guest.get() != next {
            if let Some(vcpu) = self.guest.get() {
                vcpu.arch.with_mut(|arch| arch.suspend());
                // Its timer is off now.
                crate::vcpu::arm(current_cpu(), vcpu);
            }
            self.guest.set(next);
            self.guest_page.set(next.map_or(0, |vcpu| vcpu.state_page.virt.0));
        }
    }
}

/// Loads stage-2 tables; they take effect with the next exception return.
#[inline(always)]
pub fn load_tables(space: &Space) {
    let base = if space.fast != 0 { space.fast } else { prepare_switch(space) };
    write!("vttbr_el2", base);
}

/// What [`load_tables`] loads for a space that shares its VMID, or whose branches nobody else is to steer.
#[cold]
fn prepare_switch(space: &Space) -> u64 {
    let base = space.table.translation_base(space.tag);
    if space.tag == 0 {
        // Several spaces share the VMID.
        write!("vttbr_el2", base);
        // SAFETY: dropping translations is always safe.
        unsafe {
            asm!("isb", "tlbi vmalls12e1", "dsb nsh", "isb", options(nostack, preserves_flags));
        }
    }
    smccc::separate();
    base
}

/// Translations of `space` were taken out of its tables: drops them on all CPUs, none of which has to do anything.
///
/// The invalidation is broadcast to the inner shareable domain, which holds all CPUs, and the DSB completes when it has on
/// each of them, accesses by old translations included (Arm ARM D8.14): that is what a revocation has
/// to wait for, and no interrupt would tell more. A VMID means the same space on all CPUs.
///
/// Twice: on many cores a DSB after one invalidation can complete before another CPU's store by the old translation
/// (Cortex-A55 erratum 2441007, Cortex-A510 erratum 2441009, Cortex-A76 to X925 and Neoverse errata 4118414, 4193780 to 4193801).
#[inline(never)]
pub fn drop_translations(space: &Space) -> u64 {
    if space.cpus.load(Ordering::Relaxed) != 0 {
        // SAFETY: dropping translations is always safe.
        by_tag_of(space, || unsafe {
            asm!(
                "dsb ishst",
                "tlbi vmalls12e1is",
                "dsb ish",
                "tlbi vmalls12e1is",
                "dsb ish",
                options(nostack, preserves_flags)
            );
        });
    }
    0
}

/// A vCPU of `guest` comes to run on CPU `index`, this one: drops what others of the same guest have left.
///
/// What a CPU caches by tables without CnP is that CPU's own (Arm ARM D8.14), and two vCPUs are two CPUs to their guest: an
/// ASID can mean other tables on each, and one with stage 1 off may fetch instructions past the caches that the other writes to.
pub fn forget_other_vcpus(index: u32, guest: &Space) {
    if guest.shared.load(Ordering::Relaxed) & 1 << index != 0 {
        // SAFETY: dropping translations and instructions is always safe.
        by_tag_of(guest, || unsafe {
            asm!("tlbi vmalle1", "ic iallu", "dsb nsh", options(nostack, preserves_flags));
        });
    }
}

/// Drops what `invalidate` says of what is cached by the VMID of `space`: with its stage-2 tables loaded, by which nothing runs
/// meanwhile.
#[inline(always)]
fn by_tag_of(space: &Space, invalidate: impl FnOnce()) {
    let loaded = read!("vttbr_el2");
    write!("vttbr_el2", space.table.translation_base(space.tag));
    isb();
    invalidate();
    write!("vttbr_el2", loaded);
    isb();
}

/// Drops all translations of EL0 and EL1 on this CPU.
pub fn flush_all() {
    // SAFETY: as above.
    unsafe {
        asm!("dsb nshst", "tlbi alle1", "dsb nsh", "isb", options(nostack, preserves_flags));
    }
}

/// The data of the CPU that this code runs on.
#[inline(always)]
pub fn current_cpu() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: TPIDR_EL2 holds the address of this CPU's data, which never ends.
    unsafe {
        asm!("mrs {}, tpidr_el2", out(reg) cpu, options(nomem, nostack, preserves_flags));
        &*cpu
    }
}

/// Forgets translations that may have been taken back since they were loaded.
pub fn flush_translations(cpu: &Cpu) {
    // What is not running now may not be there any more when it would run.
    cpu.arch.space.set(None);
    write!("vttbr_el2", paging::empty_space());
    isb();
    flush_all();
}

/// Interrupts another CPU.
pub fn send_interrupt(cpu: &CpuArch) {
    gic::send(gic::CALL, cpu.target.get());
}

/// Whether programs can reach devices by I/O ports.
pub const HAS_PORTS: bool = false;

/// Whether a part of the range is of registers that act on whichever guest is loaded: programs must not reach them.
pub fn is_guest_only(start: u64, size: u64) -> bool {
    gic::guest_registers()
        .is_some_and(|registers| start < registers.end().0 && registers.start().0 < start + size)
}

/// Routes SPI `line` to the boot CPU, masked; whether delivery holds it: always.
pub fn interrupt_route(line: u32, mode: TriggerMode) -> Result<bool, Status> {
    // Of most devices; the device tree says it of each, to whoever drives it.
    let level = mode != TriggerMode::Edge;
    let to = crate::cpu::by_index(0).arch.target.get();
    if gic::route(line, level, to) { Ok(true) } else { Err(Status::Unsupported) }
}

/// Waits for an interrupt and takes it.
pub fn idle(cpu: &Cpu) {
    latency::leave();
    entry::wait_for_interrupt();
    latency::enter(Path::Preempted);
    traps::interrupts(cpu);
}

/// Takes the interrupts that are pending. Nothing found before is used after.
pub fn take_interrupts(cpu: &Cpu) {
    latency::leave();
    latency::enter(Path::Preempted);
    traps::interrupts(cpu);
}

/// Goes on with `thread`, which is current, in user mode.
pub fn resume_thread(cpu: &Cpu, thread: &Thread) -> ! {
    cpu.arch.load_space(thread.space);
    latency::leave();
    entry::resume_thread(cpu, thread)
}

/// Holds a line that is delivered: it is active by having been taken.
pub fn interrupt_hold(_line: u32) {}

/// Masks an interrupt line.
pub fn interrupt_mask(line: u32) {
    gic::set_enabled(line, false);
}

/// Unmasks an interrupt line.
pub fn interrupt_unmask(line: u32) {
    gic::set_enabled(line, true);
}

/// Stops the current CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: interrupts are masked; the CPU waits, and whatever wakes it leads back into the loop.
        unsafe { asm!("msr daifset, #0xf", "wfi", options(nomem, nostack)) };
    }
}

/// Has the other CPUs stop: the kernel has panicked. They do when they next take interrupts.
pub fn stop_others() {
    if gic::version() != 0 {
        gic::send_to_others(gic::STOP);
    }
}

/// Copies `count` words, each of which is read and written once.
///
/// # Safety
/// The ranges are mapped, and the kernel's to read and to write; there are no Rust references to the second.
pub unsafe fn copy_words(from: u64, to: u64, count: usize) {
    // SAFETY: by the caller's word.
    unsafe {
        asm!(
            "subs {count}, {count}, #2",
            "b.lo 3f",
            "2: ldp {first}, {second}, [{from}], #16",
            "stp {first}, {second}, [{to}], #16",
            "subs {count}, {count}, #2",
            "b.hs 2b",
            // The lowest bit is that of what is left.
            "3: tbz {count}, #0, 4f",
            "ldr {first}, [{from}]",
            "str {first}, [{to}]",
            "4:",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            count = inout(reg) count => _,
            first = out(reg) _,
            second = out(reg) _,
            options(nostack)
        );
    }
}

/// Fills a page with copies of a word.
///
/// # Safety
/// The page is mapped, and the kernel's to write; there are no Rust references to it.
pub unsafe fn fill_page(page: u64, word: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        asm!(
            "2:",
            "stp {word}, {word}, [{at}]",
            "stp {word}, {word}, [{at}, #16]",
            "stp {word}, {word}, [{at}, #32]",
            "stp {word}, {word}, [{at}, #48]",
            "add {at}, {at}, #64",
            "sub {left}, {left}, #1",
            "cbnz {left}, 2b",
            at = inout(reg) page => _,
            left = inout(reg) abi::PAGE_SIZE / 64 => _,
            word = in(reg) word,
            options(nostack, preserves_flags)
        );
    }
}

/// Writes a range back to memory, for who reads it with caches off.
pub fn clean_to_memory(start: u64, size: u64) {
    // CTR_EL0.DminLine: log2 of words.
    let line = 4 << (read!("ctr_el0") >> 16 & 0xf);
    let mut at = start & !(line - 1);
    while at < start + size {
        // SAFETY: cleaning changes no data.
        unsafe { asm!("dc cvac, {}", in(reg) at, options(nostack, preserves_flags)) };
        at += line;
    }
    sysreg::dsb();
    isb();
}
