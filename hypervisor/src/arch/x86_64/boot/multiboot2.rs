//! The boot information of the Multiboot2 protocol (specification 2.0, 3.6).

use multiboot2::{BootInformation, BootInformationHeader, RsdpV1Tag, RsdpV2Tag};

use crate::addr::HostPhys;
use crate::arch::layout::{WINDOW, window};
use crate::boot::memory_map::{MemoryMap, PhysRange, RegionKind};
use crate::boot::pvh::{LoaderError, LoaderMemory};
use crate::boot::{BootParams, CommandLine, Loader};

/// Far more than any loader passes: bounds what a damaged size can make the kernel read.
const MAX_SIZE: u32 = 1 << 20;
/// Bytes of a tag in front of the RSDP that it holds.
const TAG_HEADER: u64 = 8;

/// Copies what the boot information at `info` says.
pub fn read(memory: &impl LoaderMemory, info: HostPhys) -> Result<BootParams, LoaderError> {
    let damaged = LoaderError::Damaged("boot information");
    let out_of_reach = LoaderError::OutOfReach("the boot information", info);
    let size = memory
        .bytes(info, 8)
        .and_then(|head| head.first_chunk())
        .ok_or(out_of_reach)?;
    let size = u32::from_le_bytes(*size);
    if size > MAX_SIZE || !info.is_aligned(8) {
        return Err(damaged);
    }
    memory.bytes(info, size.into()).ok_or(out_of_reach)?;
    // SAFETY: the whole of it, as its head says its size, was found readable, is not written to, and
    // its alignment was checked.
    let info = unsafe { BootInformation::load(window(info).0 as *const BootInformationHeader) };
    let info = info.map_err(|_| damaged)?;

    let mut memory_map = MemoryMap::new();
    let map = info.memory_map_tag().ok_or(LoaderError::NoMemoryMap)?;
    for area in map.memory_areas() {
        let kind = RegionKind::from_e820(area.typ().into());
        memory_map.add(area.start_address(), area.size(), kind)?;
    }

    let bundle = info.module_tags().next().and_then(|module| {
        let (start, end) = (module.start_address(), module.end_address());
        PhysRange::new(HostPhys(start.into()), end.checked_sub(start)?.into())
    });
    let command_line = info
        .command_line_tag()
        .and_then(|tag| tag.cmdline().ok())
        .map_or(CommandLine::EMPTY, |text| CommandLine::new(text.as_bytes()));

    // The tag holds a copy of the RSDP, not its address.
    let rsdp = info
        .rsdp_v2_tag()
        .map(|tag: &RsdpV2Tag| (&raw const *tag).addr())
        .or_else(|| {
            info.rsdp_v1_tag()
                .map(|tag: &RsdpV1Tag| (&raw const *tag).addr())
        })
        .map(|tag| HostPhys(tag as u64 - WINDOW + TAG_HEADER));

    Ok(BootParams {
        loader: Loader::Multiboot2,
        memory_map,
        bundle,
        command_line,
        rsdp,
        device_tree: None,
        boot_counter: 0,
    })
}
