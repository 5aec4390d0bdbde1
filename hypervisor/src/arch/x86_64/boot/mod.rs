//! From the loader to the kernel's core.

mod entry;

use entry::trampoline;

use crate::addr::HostPhys;
use crate::boot::loader::LoaderError;
use crate::boot::{BootParams, MemoryMap, PhysRange, RegionKind};
use crate::log;
use crate::panic::refuse;

use super::firmware::{LoaderMemory, multiboot2, pvh};
use super::layout::{IMAGE, IMAGE_PHYS, window};
use super::{smp, uart};

/// End of what the boot page tables map, and of where loaders put things.
pub const BOOT_MEMORY_END: HostPhys = HostPhys(4 << 30);

const PAGE: u64 = abi::PAGE_SIZE as u64;

unsafe extern "C" {
    static __image_end: u8;
}

/// The kernel's image, zero-initialised data included.
pub fn image_range() -> PhysRange {
    let end = (&raw const __image_end).addr() as u64 - IMAGE;
    // The linker script puts the end behind the start.
    PhysRange::new(HostPhys(IMAGE_PHYS), end - IMAGE_PHYS).expect("image is empty")
}

/// The first 4 GiB of physical memory except the kernel's image, through the boot page tables.
pub struct BootWindow;

impl LoaderMemory for BootWindow {
    fn bytes(&self, at: HostPhys, size: u64) -> Option<&[u8]> {
        let range = PhysRange::new(at, size)?;
        if range.end() > BOOT_MEMORY_END || range.intersection(image_range()).is_some() {
            return None;
        }
        let start = window(at).0 as *const u8;
        // SAFETY: the boot page tables map the range in the window. It is no memory of any Rust object,
        // as those are in the image, and nothing writes to it while the loader's data is being read.
        Some(unsafe { core::slice::from_raw_parts(start, size as usize) })
    }
}

/// First Rust code: called by the entry code with the registers of the loader, on the boot stack and
/// the boot page tables, interrupts off.
pub(super) extern "C" fn start(magic: u32, info: u32, counter: u64) -> ! {
    uart::init();
    let mut params = BootParams::EMPTY;
    params.boot_counter = counter;
    if let Err(error) = read(magic, HostPhys(info.into()), &mut params) {
        refuse(format_args!("cannot start: {error}"));
    }
    super::kernel_main(&mut params)
}

/// Reads what the loader has passed. Not a part of [`start`], so that its variables leave the boot stack.
#[inline(never)]
fn read(magic: u32, info: HostPhys, params: &mut BootParams) -> Result<(), LoaderError> {
    match magic {
        pvh::MAGIC => pvh::read(&BootWindow, info, params)?,
        multiboot2::MAGIC => multiboot2::read(&BootWindow, info, params)?,
        _ => refuse(format_args!("started by a loader with neither PVH nor multiboot2")),
    }
    settle(params)
}

/// Takes what is in use out of the usable memory, and puts what must last where it lasts.
fn settle(params: &mut BootParams) -> Result<(), LoaderError> {
    let map = &mut params.memory_map;
    // Page 0 holds the BIOS's data, and its address is easily taken for none.
    map.add(0, PAGE, RegionKind::Reserved)?;
    map.claim(image_range(), RegionKind::Kernel)?;
    if let Some(bundle) = params.bundle {
        if bundle.end() > BOOT_MEMORY_END || !bundle.start().is_aligned(PAGE) {
            return Err(LoaderError::OutOfReach("the boot bundle", bundle.start()));
        }
        map.claim(bundle, RegionKind::Bundle)?;
    }
    // From here on free memory can be written: the loader's data has been copied, except the RSDP.
    params.rsdp = params.rsdp.and_then(|at| settle_rsdp(map, at));
    if let Some(page) = take_page(map, START_PAGES, RegionKind::Kernel) {
        write_page(page, trampoline());
        smp::set_start_page(page.start());
    }
    Ok(())
}

/// Pages that an AP can start in (Intel SDM 3A 9.4.3), above those that some BIOSes write to.
const START_PAGES: (u64, u64) = (0x8000, 0xa_0000);
/// Size of the RSDP since ACPI 2.0.
const RSDP_SIZE: u64 = 36;

/// Copies the RSDP at `at`, which may be a loader's own copy in RAM, to where it lasts.
fn settle_rsdp(map: &mut MemoryMap, at: HostPhys) -> Option<HostPhys> {
    let Some(rsdp) = BootWindow.bytes(at, RSDP_SIZE).filter(|b| b.starts_with(b"RSD PTR ")) else {
        log::warning!("no ACPI root pointer at {at:?}, where the loader says it is");
        return None;
    };
    let copy: [u8; RSDP_SIZE as usize] = *rsdp.first_chunk()?;
    let page = take_page(map, (1 << 20, BOOT_MEMORY_END.0), RegionKind::Firmware)?;
    write_page(page, &copy);
    Some(page.start())
}

/// Claims a free page between two addresses.
fn take_page(map: &mut MemoryMap, (start, end): (u64, u64), kind: RegionKind) -> Option<PhysRange> {
    let page = map.find(PAGE, PAGE, PhysRange::new(HostPhys(start), end - start)?)?;
    map.claim(page, kind).ok()?;
    Some(page)
}

/// Fills a page that was just claimed with `bytes` and zeros.
#[inline(never)]
fn write_page(page: PhysRange, bytes: &[u8]) {
    assert!(page.size() == PAGE && bytes.len() <= PAGE as usize && page.end() <= BOOT_MEMORY_END);
    let to = window(page.start()).0 as *mut u8;
    // SAFETY: the page is RAM below 4 GiB, so mapped writable in the window, and the memory map says
    // that nobody but the caller uses it.
    unsafe {
        to.write_bytes(0, PAGE as usize);
        to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
    }
}
