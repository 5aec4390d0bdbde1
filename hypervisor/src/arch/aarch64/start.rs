//! From the boot code to the root task.

use super::firmware::device_tree::Gic;
use super::firmware::smccc;
use super::paging;
use super::sysreg::write;
use super::{CpuArch, boot, clock, entry, features, interrupts as gic, layout, smp, uart};
use crate::addr::{HostPhys, HostVirt};
use crate::boot::memory_map::{PhysRange, RegionKind};
use crate::boot::{BootParams, handover, image};
use crate::cell::Ref;
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

/// Pages of a CPU's kernel stack.
const STACK_PAGES: usize = 4;
/// Milliseconds of a time slice without a budget.
const TIME_SLICE: u64 = 10;

unsafe extern "C" {
    static __boot_text_end: u8;
    static __text_start: u8;
}

/// Called by the boot code, on its stack and tables.
pub fn kernel_main(params: &mut BootParams) -> ! {
    log::info!(concat!("Bulkhead ", env!("CARGO_PKG_VERSION")));
    if let Err(why) = features::check() {
        refuse(format_args!("panic: {}", Text(why)));
    }
    features::choose();
    if clock::counter_hz() == 0 {
        refuse(format_args!("panic: firmware has not set the counter's frequency"));
    }
    let bundle = need(params.bundle, "no boot bundle: the loader passed no initial RAM disk");
    // SAFETY: the boot code has checked that the bundle is RAM, mapped and claimed it; nothing writes to it before
    // the root task runs.
    let head = match unsafe { handover::read_bundle(bundle) } {
        Ok(head) => head,
        Err(why) => refuse(format_args!("panic: {why}")),
    };
    let interrupts = need(
        boot::machine().gic,
        "no interrupt controller that can host VMs: GICv2 or GICv3 is needed",
    );
    let pool = need(make_pool(params), "too little free memory for the kernel");
    let first = map_kernel(pool, interrupts).and_then(|()| make_cpu(0, smp::affinity()));
    let first = need(first, "the kernel pool is too small");
    smccc::init(boot::machine().has_firmware, params.command_line.mitigates());
    // SAFETY: the kernel's tables map everything in use.
    unsafe { load_kernel_tables() };
    gic::init(interrupts);
    enter_cpu(first);
    let target = gic::init_this_cpu();
    first.arch.target.set(need(target, "this CPU has no interface to the interrupt controller"));
    log::info!("guests: EL2, GICv{}", Dec(gic::version().into()));
    start_others();

    for range in gic::ranges(interrupts) {
        if let Err(why) = params.memory_map.add(range.start().0, range.size(), RegionKind::Kernel) {
            refuse(format_args!("panic: {why}"));
        }
    }
    let info = boot_info(params, pool);
    if let Err(status) = root::start(&first, info, &head) {
        refuse(format_args!("panic: cannot start the root task: {}", Text(status.name())));
    }
    run()
}

/// Called by the boot code of the other CPUs, on their stacks and the kernel's tables.
pub fn ap_main(index: usize) -> ! {
    enter_cpu(cpu::by_index(index as u32));
    cpu::current().note_inbox();
    run()
}

/// What was found; without it the kernel cannot run.
fn need<T>(found: Option<T>, otherwise: &str) -> T {
    found.unwrap_or_else(|| refuse(format_args!("panic: {}", Text(otherwise))))
}

fn make_pool(params: &mut BootParams) -> Option<PhysRange> {
    let all = PhysRange::new(HostPhys(PAGE), paging::physical_end() - PAGE)?;
    let pool = handover::claim_pool(params, all)?;
    boot::map(pool, KernelRights::ReadWrite)?;
    // SAFETY: free RAM, claimed, and mapped in the window just now.
    unsafe { mem::init(pool.start(), pool.size()) };
    Some(pool)
}

/// Builds the kernel's own tables: image by rights, start-up code where it is, pool, device registers.
fn map_kernel(pool: PhysRange, interrupts: Gic) -> Option<()> {
    paging::init_kernel()?;
    for (at, size, rights) in image::segments() {
        paging::map_kernel(at, layout::image_phys(at), size, rights)?;
    }
    let start = HostVirt((&raw const __text_start).addr() as u64);
    // To the end of its last page, where other code follows.
    let size = ((&raw const __boot_text_end).addr() as u64 - start.0).next_multiple_of(PAGE);
    let phys = layout::image_phys(start);
    paging::map_kernel(layout::window(phys), phys, size, KernelRights::ReadExecute)?;
    let at = layout::window(pool.start());
    paging::map_kernel(at, pool.start(), pool.size(), KernelRights::ReadWrite)?;
    let uart = uart::base().and_then(|base| PhysRange::new(base, PAGE));
    for range in gic::ranges(interrupts).chain(uart) {
        let range = range.outward();
        let at = layout::window(range.start());
        paging::map_kernel(at, range.start(), range.size(), KernelRights::Device)?;
    }
    Some(())
}

/// Loads the kernel's own tables.
///
/// # Safety
/// They map everything in use.
unsafe fn load_kernel_tables() {
    write!("ttbr0_el2", paging::kernel_root().0);
    // SAFETY: drops translations of the boot tables; what is in use is translated the same by both.
    unsafe { asm!("isb", "tlbi alle2", "dsb nsh", "isb", options(nostack)) };
}

/// Makes the data of CPU `index`.
fn make_cpu(index: u32, affinity: u64) -> Option<Ref<Cpu>> {
    let stack = mem::alloc_adjoining(STACK_PAGES)?;
    let page = mem::alloc_adjoining(cpu::PAGES)?;
    let stack_top = stack.virt.0 + STACK_PAGES as u64 * PAGE;
    let arch = CpuArch::new(index, stack_top, affinity);
    let cpu = Cpu::new(arch, index, clock::ticks(TIME_SLICE * 1000));
    // SAFETY: the pages are fresh, and as many as `PAGES`.
    Some(unsafe { cpu::install(page, cpu) })
}

/// Makes this CPU one of the kernel's, with `cpu` as its data. It may have interrupts by then, or not.
fn enter_cpu(cpu: Ref<Cpu>) {
    write!("tpidr_el2", cpu.address());
    entry::init_vectors();
    features::enable_on_this_cpu();
    smccc::enable_on_this_cpu();
}

fn start_others() {
    let me = smp::affinity();
    let mut index = 1;
    for &id in boot::machine().cpus.iter().flatten().filter(|&&id| id != me) {
        if index as usize >= abi::boot::MAX_CPUS {
            break;
        }
        let Some(cpu) = make_cpu(index, id) else {
            log::warning!("no memory for CPU {} and those after it", Hex(id));
            break;
        };
        let stack = HostVirt(cpu.arch.stack_top);
        // SAFETY: the kernel's tables map image, start-up code and stack, which was made for this CPU.
        if unsafe { smp::start(id, index as usize, stack, paging::kernel_root()) } {
            index += 1;
        } else {
            log::warning!("CPU {} did not start", Hex(id));
            cpu::unregister(index);
        }
    }
    log::info!("{} CPUs", Dec(cpu::count().into()));
}

fn boot_info(params: &BootParams, pool: PhysRange) -> BootInfo {
    let end = HostPhys(paging::physical_end());
    let mut info = root::boot_info(params, pool, end, |_| MemoryKind::Device);
    for cpu in cpu::all() {
        info.cpu_ids[cpu.index as usize] = cpu.arch.affinity as u32;
    }
    let uart = boot::machine().uart.filter(|_| uart::base().is_some());
    info.counter_hz = clock::counter_hz();
    info.interrupts = gic::lines().min(crate::interrupt::MAX_LINES as u32);
    info.virtualization = Virtualization::El2 as u32;
    info.kernel_bytes = pool.size() + boot::image_range().size();
    info.device_tree = params.device_tree.map_or(0, |at| at.0);
    info.uart_memory = uart.map_or(0, |uart| uart.range.start().0);
    info.uart_interrupt = uart.and_then(|uart| uart.interrupt).unwrap_or(u32::MAX);
    info.gic_version = gic::version();
    info.gic_vcpu_interface = gic::virtual_interface::guest_pages();
    info.list_registers = gic::virtual_interface::list_registers() as u32;
    info.workarounds = smccc::workarounds();
    info.id_registers = features::id_registers();
    info
}

/// Leaves the boot stack for this CPU's own and runs.
fn run() -> ! {
    extern "C" fn go() -> ! {
        crate::run::run(super::current_cpu())
    }
    // SAFETY: the stack is this CPU's; nothing on the old one is needed.
    unsafe {
        asm!("mov sp, {}", "mov x29, xzr", "mov x30, xzr", "b {}",
             in(reg) super::current_cpu().arch.stack_top, sym go, options(noreturn))
    }
}
