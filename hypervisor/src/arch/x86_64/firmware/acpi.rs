//! What ACPI says about CPUs, interrupt controllers and the timer.
//!
//! The crate `acpi` finds and checks the tables. It trusts lengths inside the MADT, which firmware
//! gets wrong at times: the entries are read by [`Platform::from_madt`].

use core::ptr::NonNull;

use acpi::fadt::Fadt;
use acpi::madt::Madt;
use acpi::rsdp::Rsdp;
use acpi::sdt::SdtHeader;
use acpi::{AcpiError, AcpiHandler, AcpiTables, PhysicalMapping};

use crate::addr::HostPhys;
use crate::boot::madt::{ApicId, Platform};

use super::super::boot::BOOT_MEMORY_END;
use super::super::layout::window;

/// Longest table that is read. Interrupt tables have some hundred bytes.
const MAX_TABLE: usize = 1 << 20;

/// What a table out of reach reads as: it has no signature, so it is passed over.
static NOTHING: [u64; 64] = [0; 64];

/// Maps nothing, as the boot page tables map the first 4 GiB already.
#[derive(Clone, Debug)]
struct BootHandler;

/// Where `size` bytes at `at` appear, if the boot page tables map them.
fn mapped(at: usize, size: usize) -> Option<*const u8> {
    let end = HostPhys(at as u64).checked_add(size as u64)?;
    (at != 0 && size <= MAX_TABLE && end <= BOOT_MEMORY_END)
        .then_some(window(HostPhys(at as u64)).0 as *const u8)
}

impl AcpiHandler for BootHandler {
    unsafe fn map_physical_region<T>(&self, at: usize, size: usize) -> PhysicalMapping<Self, T> {
        const { assert!(size_of::<T>() <= size_of_val(&NOTHING)) };
        let (start, length) = match mapped(at, size.max(size_of::<T>())) {
            Some(start) => (start, size),
            None => {
                log::warn!("ACPI table at {at:#x} passed over: out of reach");
                ((&raw const NOTHING).cast(), size_of::<T>())
            }
        };
        let start = NonNull::new(start.cast_mut().cast()).expect("the window is not at 0");
        // SAFETY: the region is mapped and at least as long as T; the crate only reads it.
        unsafe { PhysicalMapping::new(at, start, length, length, BootHandler) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}

/// What the kernel takes from ACPI.
pub struct AcpiInfo {
    /// CPUs and interrupt controllers.
    pub platform: Platform,
    /// I/O port of the power-management timer, if it has one.
    pub pm_timer: Option<u16>,
}

/// Reads the tables behind the root pointer `rsdp`, on the boot page tables. `boot_cpu` is the CPU that
/// runs. Without usable tables the machine has this CPU and no I/O APIC, which is logged.
pub fn read(rsdp: Option<HostPhys>, boot_cpu: ApicId) -> AcpiInfo {
    let mut info = AcpiInfo {
        platform: Platform::single(boot_cpu),
        pm_timer: None,
    };
    let Some(rsdp) = rsdp else {
        log::warn!("no ACPI: one CPU, no device interrupts");
        return info;
    };
    let tables = match tables(rsdp) {
        Ok(tables) => tables,
        Err(error) => {
            log::warn!("ACPI tables {}: one CPU, no device interrupts", flaw(error));
            return info;
        }
    };
    match tables.find_table::<Madt>() {
        Ok(madt) => match Platform::from_madt(bytes(&madt), boot_cpu) {
            Ok(platform) => info.platform = platform,
            Err(error) => log::warn!("{error}: one CPU, no device interrupts"),
        },
        Err(error) => log::warn!("ACPI MADT {}: one CPU, no device interrupts", flaw(error)),
    }
    if let Ok(fadt) = tables.find_table::<Fadt>() {
        info.pm_timer = pm_timer(&fadt);
    }
    info
}

fn flaw(error: AcpiError) -> &'static str {
    match error {
        AcpiError::TableMissing(_) => "missing",
        _ => "damaged",
    }
}

fn tables(rsdp: HostPhys) -> Result<AcpiTables<BootHandler>, AcpiError> {
    // SAFETY: the handler gives memory that reads as no RSDP if there is none.
    let pointer =
        unsafe { BootHandler.map_physical_region::<Rsdp>(rsdp.0 as usize, size_of::<Rsdp>()) };
    pointer.validate()?;
    let revision = pointer.revision();
    let root = match revision {
        0 => pointer.rsdt_address() as usize,
        _ => pointer.xsdt_address() as usize,
    };
    // SAFETY: as above. The crate subtracts the header's size from the length without a look.
    let header =
        unsafe { BootHandler.map_physical_region::<SdtHeader>(root, size_of::<SdtHeader>()) };
    if (header.length as usize) < size_of::<SdtHeader>() {
        return Err(AcpiError::SdtInvalidChecksum(header.signature));
    }
    // SAFETY: as above.
    unsafe { AcpiTables::from_rsdt(BootHandler, revision, root) }
}

/// A table's bytes, header included.
fn bytes<T>(table: &PhysicalMapping<BootHandler, T>) -> &[u8] {
    // SAFETY: the handler mapped the region that starts there and has this length, and the checks of
    // `find_table` read all of it; it lives as long as the boot page tables.
    unsafe {
        core::slice::from_raw_parts(table.virtual_start().as_ptr().cast(), table.region_length())
    }
}

/// The port of the power-management timer.
fn pm_timer(fadt: &Fadt) -> Option<u16> {
    let block = fadt.pm_timer_block().ok()??;
    if block.address_space != acpi::address::AddressSpace::SystemIo {
        return None;
    }
    u16::try_from(block.address).ok().filter(|&port| port != 0)
}
