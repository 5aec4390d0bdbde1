//! The start information of the PVH boot protocol (Xen, `public/arch-x86/hvm/start_info.h`).
#![forbid(unsafe_code)]

use crate::addr::HostPhys;

use super::{Fields, LoaderMemory, MAP_ENTRY, read_map};
use crate::boot::loader::LoaderError;
use crate::boot::{BootParams, PhysRange};

/// `"xEn3"` with the sign bit set: the first word of the start information.
pub const MAGIC: u32 = 0x336e_c578;

/// First version with a memory map.
const VERSION_WITH_MAP: u32 = 1;
/// More entries than any machine has; bounds the work that a damaged count causes.
const MAX_ENTRIES: u32 = 1024;

/// Size of the start information and of a module's entry.
const INFO_SIZE: u64 = 56;
const MODULE_SIZE: u64 = 32;

/// Copies what the start information at `info` says.
pub fn read(
    memory: &impl LoaderMemory,
    info: HostPhys,
    params: &mut BootParams,
) -> Result<(), LoaderError> {
    let bytes = |what, at, size| {
        memory
            .bytes(HostPhys(at), size)
            .map(Fields)
            .ok_or(LoaderError::OutOfReach(what, HostPhys(at)))
    };
    let info = bytes("the start information", info.0, INFO_SIZE)?;
    if info.u32(0) != MAGIC {
        return Err(LoaderError::Damaged("start information"));
    }
    let entries = info.u32(48);
    if info.u32(4) < VERSION_WITH_MAP || entries == 0 {
        return Err(LoaderError::NoMemoryMap);
    }
    if entries > MAX_ENTRIES {
        return Err(LoaderError::Damaged("memory map"));
    }
    let size = u64::from(entries) * MAP_ENTRY as u64;
    let map = bytes("the memory map", info.u64(40), size)?;
    read_map(map.0, MAP_ENTRY, &mut params.memory_map)?;

    if info.u32(12) > 0 {
        let module = bytes("the module list", info.u64(16), MODULE_SIZE)?;
        params.bundle = PhysRange::new(HostPhys(module.u64(0)), module.u64(8));
    }
    let at = HostPhys(info.u64(24));
    if at.0 != 0 {
        let text = memory.text(at);
        let text = text.ok_or(LoaderError::OutOfReach("the command line", at))?;
        params.command_line.set(text);
    }
    params.rsdp = Some(HostPhys(info.u64(32))).filter(|at| at.0 != 0);
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

    /// Start information at BASE, map at + 0x100, module at + 0x200, command line at + 0x300.
    fn machine() -> Ram {
        let mut ram = vec![0; 0x1000];
        let mut put = |at: usize, value: u64| {
            ram[at..at + 8].copy_from_slice(&value.to_le_bytes());
        };
        put(0, u64::from(MAGIC) | 1 << 32);
        put(8, 1 << 32);
        put(16, BASE + 0x200);
        put(24, BASE + 0x300);
        put(32, 0xf_5000);
        put(40, BASE + 0x100);
        put(48, 2);
        put(0x100, 0);
        put(0x108, 64 << 20);
        put(0x110, 1);
        put(0x118, 0xfff0_0000);
        put(0x120, 1 << 20);
        put(0x128, 2);
        put(0x200, 32 << 20);
        put(0x208, 12345);
        ram[0x300..0x304].copy_from_slice(b"a=b\0");
        Ram(ram)
    }

    #[test]
    fn reads_everything() {
        let params = read(&machine()).unwrap();
        assert_eq!(params.bundle, PhysRange::new(HostPhys(32 << 20), 12345));
        assert_eq!(params.command_line.text(), b"a=b");
        assert_eq!(params.rsdp, Some(HostPhys(0xf_5000)));
        assert_eq!(params.memory_map.regions().len(), 2);
        assert_eq!(params.memory_map.total(RegionKind::Usable), 64 << 20);
    }

    #[test]
    fn refuses_what_is_out_of_reach() {
        for (field, what) in
            [(16, "the module list"), (24, "the command line"), (40, "the memory map")]
        {
            for address in [BASE - 1, BASE + 0x1000, 1 << 32, u64::MAX] {
                let mut ram = machine();
                ram.0[field..field + 8].copy_from_slice(&address.to_le_bytes());
                let error = read(&ram).unwrap_err();
                assert_eq!(error, LoaderError::OutOfReach(what, HostPhys(address)));
            }
        }
        let mut ram = machine();
        ram.0[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&ram).unwrap_err(), LoaderError::Damaged("memory map"));
        ram.0[48..52].copy_from_slice(&0u32.to_le_bytes());
        assert_eq!(read(&ram).unwrap_err(), LoaderError::NoMemoryMap);
    }

    #[test]
    fn a_command_line_at_the_end_of_memory() {
        let mut ram = machine();
        ram.0[24..32].copy_from_slice(&(BASE + 0xffe).to_le_bytes());
        ram.0[0xffe..].copy_from_slice(b"xy");
        assert_eq!(read(&ram).unwrap().command_line.text(), b"xy");
    }

    /// No change of a byte makes reading panic.
    #[test]
    fn damaged_information() {
        for at in (0..56).chain(0x100..0x130).chain(0x200..0x210) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut ram = machine();
                ram.0[at] = value;
                let _ = read(&ram);
            }
        }
    }
}
