//! The boot information of the Multiboot2 protocol (specification 2.0, 3.6).
#![forbid(unsafe_code)]

use super::{Fields, LoaderMemory, MAP_ENTRY, read_map};
use crate::addr::HostPhys;
use crate::boot::loader::LoaderError;
use crate::boot::{BootParams, PhysRange};

/// What the loader enters the kernel with.
pub const MAGIC: u32 = 0x36d7_6289;

/// Far more than any loader passes: bounds what a damaged size can make the kernel read.
const MAX_SIZE: u32 = 1 << 20;
/// Bytes in front of the tags, and at the start of each: its type and size.
const HEADER: usize = 8;
/// Bytes in front of a memory map's entries.
const MAP_HEADER: usize = 16;

/// Types of tags.
const COMMAND_LINE: u32 = 1;
const MODULE: u32 = 3;
const MEMORY_MAP: u32 = 6;
const RSDP_V1: u32 = 14;
const RSDP_V2: u32 = 15;

/// Copies what the boot information at `info` says.
pub fn read(
    memory: &impl LoaderMemory,
    info: HostPhys,
    params: &mut BootParams,
) -> Result<(), LoaderError> {
    let damaged = LoaderError::Damaged("boot information");
    let out_of_reach = LoaderError::OutOfReach("the boot information", info);
    let head = memory.bytes(info, HEADER as u64).ok_or(out_of_reach)?;
    let size = Fields(head).u32(0);
    if size > MAX_SIZE {
        return Err(damaged);
    }
    let all = memory.bytes(info, size.into()).ok_or(out_of_reach)?;

    let mut at = HEADER;
    while let Some(rest) = all.get(at..).filter(|rest| !rest.is_empty()) {
        let kind = Fields(rest).u32(0);
        let size = Fields(rest).u32(4) as usize;
        let tag = rest.get(..size).filter(|_| size >= HEADER).ok_or(damaged)?;
        match kind {
            COMMAND_LINE => params.command_line.set(&tag[HEADER..]),
            MODULE if params.bundle.is_none() => {
                let (start, end) = (Fields(tag).u32(8), Fields(tag).u32(12));
                let size = end.checked_sub(start).ok_or(damaged)?;
                params.bundle = PhysRange::new(HostPhys(start.into()), size.into());
            }
            MEMORY_MAP => {
                let step = Fields(tag).u32(8) as usize;
                if step < MAP_ENTRY {
                    return Err(damaged);
                }
                let entries = tag.get(MAP_HEADER..).ok_or(damaged)?;
                read_map(entries, step, &mut params.memory_map)?;
            }
            // The tag holds a copy of the RSDP, not its address. The newer one counts.
            RSDP_V1 if params.rsdp.is_some() => {}
            RSDP_V1 | RSDP_V2 => params.rsdp = info.checked_add((at + HEADER) as u64),
            _ => {}
        }
        at += size.next_multiple_of(8);
    }
    if params.memory_map.regions().is_empty() {
        return Err(LoaderError::NoMemoryMap);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, Ram, parameters};
    use super::*;
    use crate::boot::RegionKind;

    fn read(ram: &Ram) -> Result<BootParams, LoaderError> {
        parameters(ram, super::read)
    }

    fn tag(kind: u32, content: &[u8]) -> Vec<u8> {
        let size = (HEADER + content.len()) as u32;
        let mut tag = [kind.to_le_bytes(), size.to_le_bytes()].concat();
        tag.extend_from_slice(content);
        tag.resize(tag.len().next_multiple_of(8), 0);
        tag
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Boot information at BASE, as GRUB's: the RSDP of ACPI 1.0 behind the newer one.
    fn machine() -> Ram {
        let map = [&[24, 0][..], &[0, 0, 64 << 20, 0, 1, 0], &[0xfff0_0000, 0, 1 << 20, 0, 2, 0]];
        let tags = [
            tag(COMMAND_LINE, b"a=b\0"),
            tag(MODULE, &words(&[32 << 20, (32 << 20) + 12345, 0])),
            tag(MODULE, &words(&[48 << 20, 49 << 20, 0])),
            tag(MEMORY_MAP, &words(&map.concat())),
            tag(RSDP_V2, &[2; 36]),
            tag(RSDP_V1, &[1; 20]),
            tag(0, &[]),
        ];
        let tags = tags.concat();
        let mut ram = words(&[(HEADER + tags.len()) as u32, 0]);
        ram.extend(tags);
        Ram(ram)
    }

    #[test]
    fn reads_everything() {
        let ram = machine();
        let params = read(&ram).unwrap();
        // The first module.
        assert_eq!(params.bundle, PhysRange::new(HostPhys(32 << 20), 12345));
        assert_eq!(params.command_line.text(), b"a=b");
        assert_eq!(params.memory_map.regions().len(), 2);
        assert_eq!(params.memory_map.total(RegionKind::Usable), 64 << 20);
        let rsdp = params.rsdp.unwrap();
        assert_eq!(ram.bytes(rsdp, 36), Some(&[2; 36][..]));
    }

    #[test]
    fn refuses_what_cannot_be() {
        let read = |ram: Vec<u8>| read(&Ram(ram)).err();
        let damaged = Some(LoaderError::Damaged("boot information"));
        let out_of_reach = LoaderError::OutOfReach("the boot information", HostPhys(BASE));
        assert_eq!(read(words(&[MAX_SIZE + 1, 0])), damaged);
        assert_eq!(read(words(&[24, 0])), Some(out_of_reach));
        assert_eq!(read(words(&[8, 0])), Some(LoaderError::NoMemoryMap));
        // A tag without an end, one of no size, a memory map of entries without size, a module that ends before
        // it starts.
        assert_eq!(read(words(&[16, 0, COMMAND_LINE, 9])), damaged);
        assert_eq!(read(words(&[16, 0, COMMAND_LINE, 0])), damaged);
        let map = tag(MEMORY_MAP, &words(&[0, 0]));
        assert_eq!(read([words(&[24, 0]), map].concat()), damaged);
        let module = tag(MODULE, &words(&[2, 1]));
        assert_eq!(read([words(&[24, 0]), module].concat()), damaged);
    }

    /// No change of a byte makes reading panic.
    #[test]
    fn damaged_information() {
        let ram = machine();
        for at in 0..ram.0.len() {
            for value in [0, 1, 7, 0x7f, 0x80, 0xff] {
                let mut damaged = ram.0.clone();
                damaged[at] = value;
                let _ = read(&Ram(damaged));
            }
        }
    }
}
