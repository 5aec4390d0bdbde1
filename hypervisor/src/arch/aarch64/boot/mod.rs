//! From the loader to the kernel's core.

mod entry;

pub use entry::ap_entry;

use super::firmware::device_tree::Machine;
use super::firmware::fdt::Tree;
use super::layout::{self, IMAGE, window};
use super::paging;
use super::uart;
use crate::addr::{HostPhys, HostVirt};
use crate::boot::BootParams;
use crate::boot::loader::LoaderError;
use crate::boot::memory_map::{MemoryMap, PhysRange, RegionKind};
use crate::cell::Given;
use crate::mem::{KernelPage, PAGE};
use crate::panic::refuse;
use crate::tables::KernelRights;
use core::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    static __image_end: u8;
}

static MACHINE: Given<Machine> = Given::new();

/// Largest page of boot mappings.
const BLOCK: u64 = 2 << 20;

/// What the device tree says.
pub fn machine() -> &'static Machine {
    MACHINE.get().expect("the boot code reads it first")
}

/// The kernel's image, zero-initialised data included.
pub fn image_range() -> PhysRange {
    let end = (&raw const __image_end).addr() as u64 - IMAGE;
    let start = layout::image_phys(HostVirt(IMAGE));
    // The linker script puts the end behind the start.
    PhysRange::new(start, end).expect("image is empty")
}

/// Maps memory or a device in the window of the boot tables; what is mapped already stays so.
pub fn map(range: PhysRange, rights: KernelRights) -> Option<()> {
    static USED: AtomicUsize = AtomicUsize::new(0);
    let alloc = || {
        let index = USED.fetch_add(1, Ordering::Relaxed);
        (index < entry::MORE).then(|| {
            let virt = HostVirt(entry::more(index));
            KernelPage::from_phys(layout::image_phys(virt))
        })
    };
    let root = layout::image_phys(HostVirt(entry::tables()));
    let unit = if rights == KernelRights::Device { PAGE } else { BLOCK };
    let mut at = range.start().0 & !(unit - 1);
    while at < range.end().0 {
        let phys = HostPhys(at);
        let mapped = paging::map_at(root, window(phys), phys, unit, rights, alloc);
        // Unless a table was missing, it was mapped before.
        if mapped.is_none() && USED.load(Ordering::Relaxed) > entry::MORE {
            return None;
        }
        at += unit;
    }
    Some(())
}

/// Bytes of a range that was mapped.
///
/// # Safety
/// The range is mapped in the window, and nobody writes to it while the bytes are in use.
unsafe fn bytes(range: PhysRange) -> &'static [u8] {
    let start = window(range.start()).0 as *const u8;
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, range.size() as usize) }
}

/// First Rust code: called by the entry code on the boot stack and the boot tables, interrupts masked. Until a UART
/// is found there is nothing to report an error with.
pub(super) extern "C" fn start(tree: u64, loaded_at: u64, counter: u64) -> ! {
    layout::set_image_phys(HostPhys(loaded_at));
    super::entry::init_vectors();
    let Some(tree) = read_tree(HostPhys(tree)) else {
        super::halt();
    };
    let machine = machine();
    if let Some(found) = machine.uart
        && map(found.range, KernelRights::Device).is_some()
    {
        uart::set_base(found.range.start());
        uart::init();
    }
    super::kernel_main(&mut parameters(machine, tree, counter))
}

/// What the kernel starts with on the machine that the device tree in `tree` describes. Not a part of [`start`], so that
/// its variables leave the boot stack.
#[inline(never)]
fn parameters(machine: &Machine, tree: PhysRange, counter: u64) -> BootParams {
    let mut memory_map = MemoryMap::empty();
    if let Err(error) = settle(&mut memory_map, machine, tree) {
        refuse(format_args!("cannot start: {error}"));
    }
    if let Some(bundle) = machine.bundle
        && map(bundle, KernelRights::ReadWrite).is_none()
    {
        refuse(format_args!("cannot start: the boot bundle is too large"));
    }
    BootParams {
        memory_map,
        bundle: machine.bundle,
        command_line: machine.command_line.clone(),
        rsdp: None,
        device_tree: Some(tree.start()),
        boot_counter: counter,
    }
}

/// Maps the tree at `at` and reads it; returns where it is. As [`parameters`], it leaves the boot stack.
#[inline(never)]
fn read_tree(at: HostPhys) -> Option<PhysRange> {
    if !at.is_aligned(8) {
        return None;
    }
    let head = PhysRange::new(at, 40)?;
    map(head, KernelRights::ReadWrite)?;
    // SAFETY: mapped just now; the loader has left it to the kernel.
    let size = Tree::claimed_size(unsafe { bytes(head) })?;
    let range = PhysRange::new(at, size as u64)?;
    map(range, KernelRights::ReadWrite)?;
    // SAFETY: as above.
    let machine = Machine::read(unsafe { bytes(range) })?;
    MACHINE.give(|| machine);
    Some(range.outward())
}

/// Fills the memory map: what is RAM, less what is in use.
fn settle(map: &mut MemoryMap, machine: &Machine, tree: PhysRange) -> Result<(), LoaderError> {
    for range in machine.memory.iter().flatten() {
        map.add(range.start().0, range.size(), RegionKind::Usable)?;
    }
    map.claim(image_range(), RegionKind::Kernel)?;
    if let Some(bundle) = machine.bundle {
        map.claim(bundle, RegionKind::Bundle)?;
    }
    map.claim(tree, RegionKind::Firmware)?;
    // Firmware's: nobody may have it. Loaders reserve what they hand over, too; that is accounted for.
    let own = [Some(image_range()), machine.bundle, Some(tree)].map(|r| r.map(PhysRange::outward));
    for range in machine.reserved.iter().flatten() {
        let (mut at, end) = (range.start().0, range.end().0);
        while at < end {
            let inside = own.iter().flatten().find(|r| (r.start().0..r.end().0).contains(&at));
            let next = own.iter().flatten().map(|r| r.start().0);
            let stop = match inside {
                Some(own) => own.end().0,
                None => next.filter(|&start| start > at).min().unwrap_or(end),
            };
            if inside.is_none() {
                map.add(at, stop.min(end) - at, RegionKind::Defective)?;
            }
            at = stop;
        }
    }
    Ok(())
}
