//! From the boot code to the root task.

use super::features::CpuFeatures;
use super::firmware::acpi;
use super::firmware::madt::{ApicId, Platform};
use super::gdt::GdtTss;
use super::interrupts::{apic, ioapic};
use super::paging;
use super::speculation::{self, Measures};
use super::virt::hw;
use super::{CpuArch, boot, clock, entry, exits, layout, smp, tags, traps, virt};
use crate::addr::{HostPhys, HostVirt};
use crate::boot::memory_map::{PhysRange, RegionKind};
use crate::boot::{BootParams, handover, image};
use crate::cell::{CpuCell, Given, Ref};
use crate::context::State;
use crate::cpu::{self, Cpu};
use crate::log;
use crate::mem::{self, PAGE};
use crate::panic::refuse;
use crate::root;
use crate::tables::KernelRights;
use abi::boot::{BootInfo, Virtualization};
use abi::cap::MemoryKind;
use abi::text::{Dec, Hex, Text};
use core::arch::asm;
use core::sync::atomic::Ordering;

/// Pages of a CPU's kernel stack.
const STACK_PAGES: usize = 4;
/// Milliseconds of a time slice without a budget.
const TIME_SLICE: u64 = 10;

static PLATFORM: Given<Platform> = Given::new();
static FEATURES: Given<CpuFeatures> = Given::new();

/// What firmware says of CPUs and interrupts.
pub fn platform() -> &'static Platform {
    PLATFORM.get().expect("the kernel reads it first")
}

/// Called by the boot code, on its stack and page tables.
pub fn kernel_main(params: &mut BootParams) -> ! {
    log::info!(concat!("Bulkhead ", env!("CARGO_PKG_VERSION")));
    let Some(bundle) = params.bundle else {
        refuse(format_args!("panic: no boot bundle: the loader passed no module"));
    };
    // SAFETY: the boot code has checked that the module is RAM below 4 GiB, which the boot page tables map, and
    // claimed it; nothing writes to it before the root task runs.
    let head = match unsafe { handover::read_bundle(bundle) } {
        Ok(head) => head,
        Err(why) => refuse(format_args!("panic: {why}")),
    };
    let features = match CpuFeatures::detect(&params.command_line) {
        Ok(features) => FEATURES.give(|| features),
        Err(why) => refuse(format_args!("panic: {}", Text(why))),
    };
    // SAFETY: the boot page tables have supervisor pages only, and CR3 holds no flags.
    unsafe { features.enable_on_this_cpu() };
    let apic_registers = apic::init(features);
    let mut info = acpi::read(&boot::BootWindow, params.rsdp, apic::id());
    if !clock::calibrate(info.pm_timer) {
        refuse(format_args!("panic: no timer to measure the time-stamp counter with"));
    }
    ioapic::init(&mut info.platform);
    let platform = PLATFORM.give(|| info.platform);

    let pool = make_pool(params);
    if map_kernel(features, pool).is_none() {
        refuse(format_args!("panic: the kernel pool is too small"));
    }
    let io_apics = platform.io_apics().iter().map(|io_apic| io_apic.address);
    for device in io_apics.chain(apic_registers) {
        let page = HostPhys(device.0 & !(PAGE - 1));
        // Several I/O APICs may share a page, which is then there already.
        let _ = paging::map_kernel(layout::window(page), page, PAGE, KernelRights::Device);
        if let Err(why) = params.memory_map.add(page.0, PAGE, RegionKind::Kernel) {
            refuse(format_args!("panic: {why}"));
        }
    }

    let virtualization = virt::detect();
    super::VIRTUALIZATION.store(virtualization as u32, Ordering::Relaxed);
    paging::set_ept_giant_pages(virt::features().giant_pages);
    let Some(first) = make_cpu(0, apic::id()) else {
        refuse(format_args!("panic: the kernel pool is too small"));
    };
    enter_cpu(first, features);
    start_others(platform);

    let info = boot_info(params, pool);
    if let Err(status) = root::start(&first, info, &head) {
        refuse(format_args!("panic: cannot start the root task: {}", Text(status.name())));
    }
    run()
}

/// Called by the boot code of the other CPUs, on their stacks and the kernel's page tables.
pub extern "C" fn ap_main(cpu: Ref<Cpu>) -> ! {
    let features = FEATURES.get().expect("the boot CPU comes first");
    // SAFETY: as on the boot CPU; the kernel's tables have no user pages.
    unsafe { features.enable_on_this_cpu() };
    apic::init_this_cpu();
    if !enter_cpu(cpu, features) {
        super::halt();
    }
    smp::arrive(cpu);
    cpu.note_inbox();
    run()
}

fn make_pool(params: &mut BootParams) -> PhysRange {
    let low = PhysRange::new(HostPhys(1 << 20), (4 << 30) - (1 << 20));
    let pool = low.and_then(|low| handover::claim_pool(params, low));
    let Some(pool) = pool else {
        refuse(format_args!("panic: too little free memory below 4 GiB for the kernel"));
    };
    // SAFETY: free RAM below 4 GiB, claimed, and mapped in the window by the boot tables.
    unsafe { mem::init(pool.start(), pool.size()) };
    pool
}

/// Builds the kernel's own page tables: image by rights, pool.
fn map_kernel(features: &CpuFeatures, pool: PhysRange) -> Option<()> {
    paging::init_kernel(features.page1g)?;
    for (at, size, rights) in image::segments() {
        paging::map_kernel(at, layout::image_phys(at), size, rights)?;
    }
    let at = layout::window(pool.start());
    paging::map_kernel(at, pool.start(), pool.size(), KernelRights::ReadWrite)
}

/// Makes the data of CPU `index`.
fn make_cpu(index: u32, apic: ApicId) -> Option<Ref<Cpu>> {
    let tables = mem::alloc_adjoining(size_of::<GdtTss>().div_ceil(PAGE as usize))?;
    let stack = mem::alloc_adjoining(STACK_PAGES)?;
    let page = mem::alloc_adjoining(cpu::PAGES)?;
    // Here, not when that CPU runs: the boot CPU counts what is left for the root's quota then.
    let virt_pages = match super::virtualization() {
        Virtualization::None => None,
        _ => Some([mem::alloc()?, mem::alloc()?]),
    };
    let stack_top = stack.virt.0 + STACK_PAGES as u64 * PAGE;
    // SAFETY: fresh pages that are never freed; all zeros is a valid value of the tables.
    let tables: &'static GdtTss = unsafe { &*(tables.virt.0 as *const GdtTss) };
    tables.init(HostVirt(stack_top));
    let arch = CpuArch {
        this: CpuCell::new(page.virt.0),
        scratch: CpuCell::new(0),
        stack_top,
        apic,
        idle_here: index as u64 | (State::Idle as u64) << 32,
        tables,
        ports_enabled: CpuCell::new(false),
        general_switch: CpuCell::new(false),
        more_to_do: CpuCell::new(false),
        guest_stays: CpuCell::new(false),
        general_exit: CpuCell::new(true),
        measures: CpuCell::new(Measures::empty()),
        predictors: CpuCell::new(None),
        space: CpuCell::new(None),
        ports: CpuCell::new(None),
        virt: CpuCell::from_value(virt::CpuVirt::default()),
        virt_pages,
        guest: CpuCell::new(None),
        guest_tags: CpuCell::new(tags::GuestTags::new(virt::features().tags)),
    };
    let cpu = Cpu::new(arch, index, clock::ticks(TIME_SLICE * 1000));
    // SAFETY: the pages are fresh, and as many as `PAGES`.
    Some(unsafe { cpu::install(page, cpu) })
}

/// Makes this CPU one of the kernel's, with `cpu` as its data. `false` if it cannot be one: guests run on each or on none.
fn enter_cpu(cpu: Ref<Cpu>, features: &CpuFeatures) -> bool {
    let identity = speculation::Identity::read();
    let measures = Measures::choose(&identity, features.mitigate, cpu.index == 0);
    if cpu.index != 0 && measures != cpu::by_index(0).arch.measures.get() {
        log::warning!(
            "CPU {}: other measures against speculation: {}",
            Dec(cpu.index.into()),
            Hex(measures.bits().into())
        );
    }
    cpu.arch.set_measures(measures);
    // SAFETY: the kernel's tables map everything in use; the descriptor tables and the stack are this CPU's
    // alone, and CPU data never ends.
    unsafe {
        hw::set_cr3(paging::kernel_root().0);
        cpu.arch.tables.load();
        measures.set_registers();
        entry::init_this_cpu(&*(cpu.address() as *const Cpu));
    }
    apic::start_timer(features, traps::TIMER);
    let Some(pages) = cpu.arch.virt_pages else {
        return true;
    };
    // SAFETY: fresh pages, kept for ever; this CPU's state is as the kernel will always have it.
    let result = cpu.arch.virt.with_mut(|virt| unsafe {
        virt::init_cpu(virt, pages, measures, cpu.arch.tables.task_base(), exits::ways_out())
    });
    if let Err(why) = result {
        let index = Dec(cpu.index.into());
        log::report("error: ", format_args!("CPU {index}: no virtualisation: {why}"));
        if cpu.index != 0 {
            return false;
        }
        super::VIRTUALIZATION.store(Virtualization::None as u32, Ordering::Relaxed);
    }
    true
}

fn start_others(platform: &Platform) {
    let me = apic::id();
    let mut index = 1;
    for &id in platform.cpus().iter().filter(|&&id| id != me) {
        if index as usize >= abi::boot::MAX_CPUS {
            break;
        }
        let Some(cpu) = make_cpu(index, id) else {
            log::warning!(
                "no memory for the CPU with APIC {} and those after it",
                Dec(id.0.into())
            );
            break;
        };
        if smp::start(cpu) {
            index += 1;
        } else {
            log::warning!("the CPU with APIC {} did not start", Dec(id.0.into()));
            cpu::unregister(index);
        }
    }
    log::info!("{} CPUs", Dec(cpu::count().into()));
}

fn boot_info(params: &BootParams, pool: PhysRange) -> BootInfo {
    let reserved = |range: PhysRange| {
        // Low reserved memory is the BIOS's, with tables of its; above it is device memory.
        if range.end() <= HostPhys(1 << 20) { MemoryKind::Firmware } else { MemoryKind::Device }
    };
    let end = HostPhys(virt::physical_end());
    let mut info = root::boot_info(params, pool, end, reserved);
    for cpu in cpu::all() {
        info.cpu_ids[cpu.index as usize] = cpu.arch.apic.0;
    }
    info.counter_hz = clock::tsc_hz();
    info.interrupts = ioapic::lines().min(crate::interrupt::MAX_LINES as u32);
    info.virtualization = super::virtualization() as u32;
    info.rsdp = params.rsdp.map_or(0, |at| at.0);
    info.xcr0_mask = virt::features().xcr0;
    info.uart_port = if super::uart::is_present() { super::uart::PORT as u64 } else { 0 };
    info.kernel_bytes = pool.size() + boot::image_range().size();
    info
}

/// Leaves the boot stack for this CPU's own and runs.
fn run() -> ! {
    extern "C" fn go() -> ! {
        // SAFETY: GS holds this CPU's data, which never ends.
        crate::run::run(unsafe { &*(super::current_cpu() as *const Cpu) })
    }
    // SAFETY: the stack is this CPU's; nothing on the old one is needed.
    unsafe {
        asm!("mov rsp, {}", "call {}", "ud2", in(reg) super::current_cpu().arch.stack_top, sym go,
             options(noreturn))
    }
}
