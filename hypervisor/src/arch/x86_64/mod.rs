//! x86-64: what the portable core asks of the architecture.

pub mod boot;
pub mod clock;
pub mod cpuid;
pub mod entry;
pub mod exits;
pub mod fastpath;
pub mod features;
pub mod firmware;
pub mod frame;
pub mod gdt;
pub mod interrupts;
pub mod layout;
pub mod paging;
pub mod smp;
pub mod speculation;
pub mod start;
pub mod tags;
pub mod traps;
pub mod uart;
pub mod vcpu;
pub mod virt;

pub use clock::now;
pub use frame::Frame;
pub use interrupts::apic::set_deadline as set_timer;
pub use interrupts::ioapic::{mask as interrupt_hold, mask as interrupt_mask};
pub use interrupts::ioapic::{unmask as interrupt_release, unmask as interrupt_unmask};
pub use paging::PageTable;
pub use start::{ap_main, kernel_main};
pub use tags::{alloc_space_tag, free_space_tag};
pub use traps::deliver;
pub use uart::early_print as early_output;
pub use vcpu::{VcpuReply, after_guest, pages_per_vcpu};
pub use virt::{Outcome, VcpuArch};

use crate::cell::{CpuCell, Ref};
use crate::cpu::Cpu;
use crate::latency::{self, Path};
use crate::mem::KernelPage;
use crate::space::Space;
use crate::thread::Thread;
use crate::vcpu::Vcpu;
use abi::Status;
use abi::boot::Virtualization;
use abi::syscall::{PowerAction, TriggerMode};
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};
use firmware::madt::{ApicId, Gsi, Line};
use gdt::GdtTss;
use interrupts::apic::{self, Command};
use interrupts::ioapic;
use speculation::Measures;
use virt::hw;
use x86::controlregs::Cr4;

/// The architecture's part of the per-CPU data.
#[repr(C)]
pub struct CpuArch {
    /// Address of the per-CPU data itself.
    this: CpuCell<u64>,
    /// The user's stack pointer during a system call's first instructions.
    scratch: CpuCell<u64>,
    /// Top of the kernel's stack.
    stack_top: u64,
    /// Number of the local APIC.
    pub apic: ApicId,
    /// Number of this CPU and, in the upper half, the state of an idle handler.
    idle_here: u64,
    tables: &'static GdtTss,
    /// Whether the I/O permission bitmap is in force.
    ports_enabled: CpuCell<bool>,
    /// The general path has to switch to another space: I/O permissions or what is a guest's is loaded, or there is a
    /// barrier to take.
    general_switch: CpuCell<bool>,
    /// Preparing a thread takes more than its tables: I/O permissions or barriers.
    more_to_do: CpuCell<bool>,
    /// A vCPU stays loaded while only its monitor runs.
    guest_stays: CpuCell<bool>,
    /// Exits take the general path: the vCPU does not stay loaded, or there is more to do for its monitor.
    general_exit: CpuCell<bool>,
    /// What is done here against speculation.
    measures: CpuCell<Measures>,
    /// Whose branches are in the predictors; `None`: not known, or nobody's.
    predictors: CpuCell<Option<Ref<Space>>>,
    /// The host space whose tables are loaded; `None`: the kernel's own.
    space: CpuCell<Option<Ref<Space>>>,
    /// The space whose I/O permissions are in the bitmap.
    ports: CpuCell<Option<Ref<Space>>>,
    /// What virtualisation keeps on this CPU.
    pub virt: CpuCell<virt::CpuVirt>,
    /// Pages for it.
    virt_pages: Option<[KernelPage; virt::PAGES_PER_CPU]>,
    /// The vCPU that has not been suspended since it ran.
    guest: CpuCell<Option<Ref<Vcpu>>>,
    /// Tags of guest translations.
    pub guest_tags: CpuCell<tags::GuestTags>,
}

impl CpuArch {
    /// Loads the page tables and I/O permissions of `space`, if they are not loaded.
    #[inline]
    pub fn load_space(&self, space: Ref<Space>) {
        if self.space.get() == Some(space) {
            return;
        }
        self.space.set(Some(space));
        // SAFETY: the space's tables have the kernel's upper half, and the space outlives its loading: before
        // its tables are freed, every CPU passes an epoch, which loads others.
        unsafe { hw::set_cr3(space.fast) };
        self.load_ports(space);
    }

    fn load_ports(&self, space: Ref<Space>) {
        let Some(pages) = space.port_bitmap() else {
            if self.ports_enabled.get() {
                self.set_ports_enabled(false);
            }
            return;
        };
        if self.ports.get() != Some(space) {
            for (part, page) in self.tables.io_bitmap().chunks_exact(1024).zip(&pages) {
                // SAFETY: both are a page of memory of the kernel's. Another CPU may change a bit of the space's page
                // meanwhile; then an epoch begins, after which it is read again.
                unsafe { copy_words(page.virt.0, part.as_ptr() as u64, 512) };
            }
            self.ports.set(Some(space));
        }
        self.set_ports_enabled(true);
    }

    /// Prepares the CPU for a thread in `space`.
    ///
    /// A vCPU stays loaded while only its monitor runs, unless something is to be done against speculation in between: what is
    /// still the guest's then is the monitor's to know (`virt::table`). The fast path switches to no other space meanwhile.
    #[inline]
    pub fn prepare_thread(&self, space: Ref<Space>) {
        if let Some(vcpu) = self.guest.get() {
            if vcpu.monitor == space && self.guest_stays.get() {
                self.virt.with_mut(|virt| vcpu.arch.in_place().lend(virt));
            } else {
                self.leave_guest(None);
            }
        }
        if self.space.get() == Some(space) && !self.more_to_do.get() {
            return;
        }
        self.load_space(space);
        if self.ports_enabled.get() && self.virt.with_mut(virt::CpuVirt::take_task_limit_lost) {
            // SAFETY: these are the tables of this CPU, and the kernel runs with interrupts off.
            unsafe { self.tables.load_task() };
        }
        self.separate(space, space);
        if self.measures.get().contains(Measures::BUFFERS) {
            speculation::overwrite_buffers();
        }
    }

    /// Has what ran before not steer the branches of `space`, which comes to run, unless it was `trusted`. Guests trust their
    /// monitors, which can change all of their state, but not the other way round.
    #[inline(always)]
    fn separate(&self, space: Ref<Space>, trusted: Ref<Space>) {
        if self.measures.get().contains(Measures::PREDICTORS) {
            self.separate_now(space, trusted);
        }
    }

    #[cold]
    fn separate_now(&self, space: Ref<Space>, trusted: Ref<Space>) {
        let before = self.predictors.replace(Some(space));
        if before != Some(space) && before != Some(trusted) {
            // SAFETY: this CPU has the measure.
            unsafe { speculation::empty_predictors() };
        }
    }

    /// Suspends the vCPU that ran last, unless it is `next`.
    #[inline(always)]
    pub fn leave_guest(&self, next: Option<Ref<Vcpu>>) {
        if self.guest.get() != next {
            if let Some(vcpu) = self.guest.get() {
                self.virt.with_mut(|virt| vcpu.arch.in_place().suspend(virt));
            }
            self.guest.set(next);
            let Some(vcpu) = next else {
                self.virt.with_mut(virt::CpuVirt::restore_xcr0);
                return self.set_general_switch();
            };
            self.general_switch.set(true);
            if self.more_to_do.get() {
                self.separate(vcpu.guest, vcpu.monitor);
            }
        }
    }

    #[inline(always)]
    fn set_ports_enabled(&self, enabled: bool) {
        self.tables.set_io_bitmap(enabled);
        self.ports_enabled.set(enabled);
        let more = enabled || self.measures.get().intersects(Measures::BARRIERS);
        self.more_to_do.set(more);
        self.general_exit.set(more || !self.guest_stays.get());
        self.set_general_switch();
    }

    #[inline(always)]
    fn set_general_switch(&self) {
        let loaded = self.guest.get().is_some();
        self.general_switch.set(loaded || self.more_to_do.get());
    }

    /// Takes measures against speculation from now on.
    fn set_measures(&self, measures: Measures) {
        self.measures.set(measures);
        let between = Measures::BARRIERS | Measures::VECTORS;
        self.guest_stays.set(!measures.intersects(between));
        self.set_ports_enabled(self.ports_enabled.get());
    }
}

/// Copies `count` words, each of which is read and written once.
///
/// # Safety
/// The ranges are mapped, and the kernel's to read and to write; there are no Rust references to the second.
pub unsafe fn copy_words(from: u64, to: u64, count: usize) {
    // SAFETY: by the caller's word; the direction flag is clear in the kernel.
    unsafe {
        asm!(
            "rep movsq",
            inout("rcx") count => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags)
        );
    }
}

/// Fills a page with copies of a word.
///
/// # Safety
/// The page is mapped, and the kernel's to write; there are no Rust references to it.
pub unsafe fn fill_page(page: u64, word: u64) {
    // SAFETY: as in `copy_words`.
    unsafe {
        asm!(
            "rep stosq",
            inout("rcx") 512u64 => _,
            inout("rdi") page => _,
            in("rax") word,
            options(nostack, preserves_flags)
        );
    }
}

/// The data of the CPU that this code runs on.
#[inline(always)]
pub fn current_cpu() -> &'static Cpu {
    let cpu: *const Cpu;
    // SAFETY: in the kernel GS is the base of the per-CPU data, whose first word is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(pure, readonly, nostack, preserves_flags));
        &*cpu
    }
}

/// Translations of `space` were taken out of its tables: the CPUs that have to drop them. There is no instruction that
/// does it for other CPUs.
pub fn drop_translations(space: &Space) -> u64 {
    space.cpus.load(Ordering::Relaxed)
}

/// Forgets translations and I/O permissions that may have been taken back since they were loaded.
pub fn flush_translations(cpu: &Cpu) {
    cpu.arch.ports.set(None);
    cpu.arch.guest_tags.with_mut(tags::GuestTags::flush);
    // What is not running now may not be there any more when it would run.
    cpu.arch.space.set(None);
    cpu.arch.predictors.set(None);
    cpu.arch.set_ports_enabled(false);
    let cr4 = hw::cr4();
    // SAFETY: the kernel's own tables. Toggling PGE flushes all tags (Intel SDM vol. 3, 4.10.4.1).
    unsafe {
        hw::set_cr3(paging::kernel_root().0);
        hw::set_cr4(cr4 & !(Cr4::CR4_ENABLE_GLOBAL_PAGES.bits() as u64));
        hw::set_cr4(cr4);
    }
}

/// Interrupts another CPU.
pub fn send_interrupt(cpu: &CpuArch) {
    apic::send(cpu.apic, Command::empty(), traps::CALL);
}

static VIRTUALIZATION: AtomicU32 = AtomicU32::new(0);

/// The virtualisation extension in use.
#[inline]
pub fn virtualization() -> Virtualization {
    Virtualization::from_code(VIRTUALIZATION.load(Ordering::Relaxed))
        .unwrap_or(Virtualization::None)
}

/// Whether programs can reach devices by I/O ports.
pub const HAS_PORTS: bool = true;

/// Whether a part of the range is of registers that act on whichever guest is loaded: there are none.
pub fn is_guest_only(_start: u64, _size: u64) -> bool {
    false
}

/// Routes interrupt line `line` to the boot CPU, masked; whether delivery holds it: if it is level-triggered.
pub fn interrupt_route(line: u32, mode: TriggerMode) -> Result<bool, Status> {
    let route = match mode {
        TriggerMode::Default => start::platform().line(Gsi(line)),
        TriggerMode::Edge => Line::isa(Gsi(line)),
        TriggerMode::Level => Line::pci(Gsi(line)),
    };
    let vector = traps::FIRST_LINE + line as u8;
    let to = crate::cpu::by_index(0).arch.apic;
    ioapic::route(route, vector, to).ok_or(Status::Unsupported)?;
    Ok(route.is_level)
}

/// Waits for an interrupt and takes it.
pub fn idle(_cpu: &Cpu) {
    apic::look_again();
    latency::leave();
    // SAFETY: as for `take_interrupts`; STI takes effect after HLT has begun.
    unsafe { asm!("sti; hlt; cli") };
    latency::enter(Path::Preempted);
}

/// Takes the interrupts that are pending. Nothing found before is used after.
pub fn take_interrupts(_cpu: &Cpu) {
    latency::leave();
    // SAFETY: handlers in kernel mode ([`traps::nested`]) keep to the rules of a kernel entry, and the caller
    // holds no lock and no reference.
    unsafe { asm!("sti; nop; cli") };
    latency::enter(Path::Preempted);
}

/// Goes on with `thread`, which is current, in user mode.
pub fn resume_thread(cpu: &Cpu, thread: &Thread) -> ! {
    cpu.arch.prepare_thread(thread.space);
    latency::leave();
    entry::resume_thread(thread)
}

/// There is no firmware to ask: a PC is switched off by way of ports, which the root task has.
pub fn power(_action: PowerAction) -> Status {
    Status::Unsupported
}

/// Stops the current CPU for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off the CPU waits forever; an NMI or SMI leads back into the loop.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Has the other CPUs stop: the kernel has panicked.
pub fn stop_others() {
    // Before there are others, this CPU's APIC may not be set up.
    if crate::cpu::count() > 1 {
        apic::send(ApicId(0), Command::NMI | Command::ALL_OTHERS, 0);
    }
}
