//! What ACPI says about CPUs, interrupt controllers and the timer (ACPI 6.4, 5.2).
//!
//! Firmware's lengths and addresses are wrong at times: a table counts if it can be reached as a whole and its bytes
//! add up to 0.
#![forbid(unsafe_code)]

use super::madt::{ApicId, Platform};
use super::{Fields, LoaderMemory};
use crate::addr::HostPhys;
use crate::log;
use abi::text::Hex;

/// Longest table that is read. Interrupt tables have some hundred bytes.
const MAX_TABLE: u32 = 1 << 20;
/// Bytes of a table's header.
const HEADER: usize = 36;
/// Bytes of the root pointer in ACPI 1.0, all of which later ones have too, and since.
const RSDP_V1: u32 = 20;
const RSDP_V2: u32 = 36;

/// Bytes of an address in the newer root table.
const ADDRESS: usize = 8;

/// What the kernel takes from ACPI.
pub struct AcpiInfo {
    /// CPUs and interrupt controllers.
    pub platform: Platform,
    /// I/O port of the power-management timer, if it has one.
    pub pm_timer: Option<u16>,
}

/// Reads the tables behind the root pointer `rsdp`. `boot_cpu` is the CPU that runs. Without usable tables the
/// machine has this CPU and no I/O APIC, which is logged.
pub fn read(memory: &impl LoaderMemory, rsdp: Option<HostPhys>, boot_cpu: ApicId) -> AcpiInfo {
    let mut info = AcpiInfo { platform: Platform::single(boot_cpu), pm_timer: None };
    let (entries, width) = rsdp.and_then(|rsdp| root(memory, rsdp)).unwrap_or((&[], ADDRESS));
    let (mut madt, mut fadt) = (None, None);
    for entry in entries.chunks_exact(width) {
        let at = match width {
            ADDRESS => Fields(entry).u64(0),
            _ => Fields(entry).u32(0).into(),
        };
        madt = madt.or_else(|| table(memory, at, b"APIC"));
        fadt = fadt.or_else(|| table(memory, at, b"FACP"));
    }
    match madt {
        Some(madt) => {
            if let Err(at) = info.platform.read_madt(madt) {
                info.platform = Platform::single(boot_cpu);
                let at = Hex(at as u64);
                log::warning!("the ACPI MADT is damaged at {at}: one CPU, no device interrupts");
            }
        }
        None => log::warning!("no usable ACPI MADT: one CPU, no device interrupts"),
    }
    info.pm_timer = fadt.and_then(pm_timer);
    info
}

/// The addresses in the root table, and the bytes of each.
fn root(memory: &impl LoaderMemory, rsdp: HostPhys) -> Option<(&[u8], usize)> {
    let head = memory.bytes(rsdp, RSDP_V1.into())?;
    let is_new = head[15] > 0;
    let size = match is_new {
        true => Fields(memory.bytes(rsdp, RSDP_V2.into())?).u32(20).max(RSDP_V2),
        false => RSDP_V1,
    };
    let rsdp = checked(memory, rsdp, size, b"RSD PTR ")?;
    let (table, width) = match is_new {
        true => (table(memory, Fields(rsdp).u64(24), b"XSDT")?, ADDRESS),
        false => (table(memory, Fields(rsdp).u32(16).into(), b"RSDT")?, 4),
    };
    Some((&table[HEADER..], width))
}

/// The table at `at` with its header, if it is one of that signature.
fn table<'a>(memory: &'a impl LoaderMemory, at: u64, signature: &[u8; 4]) -> Option<&'a [u8]> {
    let at = HostPhys(at);
    let size = Fields(memory.bytes(at, HEADER as u64)?).u32(4);
    checked(memory, at, size.max(HEADER as u32), signature)
}

/// The `size` bytes at `at`, if they start with the signature and add up to 0.
fn checked<'a>(
    memory: &'a impl LoaderMemory,
    at: HostPhys,
    size: u32,
    signature: &[u8],
) -> Option<&'a [u8]> {
    let bytes = memory.bytes(at, size.min(MAX_TABLE).into())?;
    // Byte by byte: nothing else in the kernel compares texts of unknown length.
    let is_signed = bytes.iter().zip(signature).all(|(a, b)| a == b);
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    (is_signed && sum == 0).then_some(bytes)
}

/// The port of the power-management timer, by the FADT.
fn pm_timer(fadt: &[u8]) -> Option<u16> {
    // PM_TMR_LEN says whether there is one; X_PM_TMR_BLK, if it is set, is in the I/O space.
    if *fadt.get(91)? != 4 {
        return None;
    }
    let port = match (fadt.get(208), Fields(fadt).u64(212)) {
        (None, _) | (_, 0) => Fields(fadt).u32(76).into(),
        (Some(1), port) => port,
        _ => return None,
    };
    u16::try_from(port).ok().filter(|&port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{BASE, Ram};
    use super::*;

    const ROOT: usize = 0x40;
    const MADT: usize = 0x100;
    const FADT: usize = 0x200;

    /// Makes the bytes of a range add up to 0 with its byte `at`.
    fn balance(ram: &mut [u8], start: usize, size: usize, at: usize) {
        ram[start + at] = 0;
        let sum: u32 = ram[start..start + size].iter().map(|&b| u32::from(b)).sum();
        ram[start + at] = (sum as u8).wrapping_neg();
    }

    fn put(ram: &mut [u8], at: usize, bytes: &[u8]) {
        ram[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn put_table(ram: &mut [u8], at: usize, signature: &[u8; 4], content: &[u8]) {
        let size = HEADER + content.len();
        put(ram, at, signature);
        put(ram, at + 4, &(size as u32).to_le_bytes());
        put(ram, at + HEADER, content);
        balance(ram, at, size, 9);
    }

    /// Root pointer at BASE, the root table at ROOT; two CPUs, a timer at port 608h.
    fn machine(is_new: bool, extended: Option<(u8, u64)>) -> Vec<u8> {
        let mut ram = vec![0; 0x400];
        let mut entries = Vec::new();
        for at in [FADT, MADT] {
            let at = BASE + at as u64;
            entries.extend_from_slice(&at.to_le_bytes()[..if is_new { 8 } else { 4 }]);
        }
        let madt = [
            &[0, 0, 0xe0, 0xfe, 0, 0, 0, 0][..],
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[0, 8, 1, 1, 1, 0, 0, 0],
        ];
        put_table(&mut ram, MADT, b"APIC", &madt.concat());
        let mut fadt = [0; 244 - HEADER];
        fadt[76 - HEADER..][..4].copy_from_slice(&0x608u32.to_le_bytes());
        fadt[91 - HEADER] = 4;
        if let Some((space, address)) = extended {
            fadt[208 - HEADER] = space;
            fadt[212 - HEADER..][..8].copy_from_slice(&address.to_le_bytes());
        }
        put_table(&mut ram, FADT, b"FACP", &fadt);
        let root = BASE + ROOT as u64;
        put(&mut ram, 0, b"RSD PTR ");
        if is_new {
            put_table(&mut ram, ROOT, b"XSDT", &entries);
            put(&mut ram, 15, &[2]);
            put(&mut ram, 20, &36u32.to_le_bytes());
            put(&mut ram, 24, &root.to_le_bytes());
            balance(&mut ram, 0, 36, 32);
        } else {
            put_table(&mut ram, ROOT, b"RSDT", &entries);
            put(&mut ram, 16, &(root as u32).to_le_bytes());
            balance(&mut ram, 0, 20, 8);
        }
        ram
    }

    fn read_all(ram: Vec<u8>) -> (usize, Option<u16>) {
        let info = read(&Ram(ram), Some(HostPhys(BASE)), ApicId(0));
        (info.platform.cpus().len(), info.pm_timer)
    }

    #[test]
    fn old_and_new() {
        for is_new in [false, true] {
            assert_eq!(read_all(machine(is_new, None)), (2, Some(0x608)));
        }
    }

    #[test]
    fn the_extended_address_of_the_timer_counts() {
        let port = |extended| read_all(machine(true, Some(extended))).1;
        assert_eq!(port((1, 0x408)), Some(0x408));
        assert_eq!(port((1, 0)), Some(0x608));
        // In memory, or no port.
        assert_eq!(port((0, 0x408)), None);
        assert_eq!(port((1, 1 << 16)), None);
    }

    #[test]
    fn without_tables_there_is_one_cpu() {
        let info = read(&Ram(Vec::new()), None, ApicId(7));
        assert_eq!((info.platform.cpus(), info.pm_timer), (&[ApicId(7)][..], None));
        assert_eq!(read_all(Vec::new()), (1, None));
    }

    /// No change of a byte makes reading panic, and one that the sums cover is noticed.
    #[test]
    fn damaged_tables() {
        for is_new in [false, true] {
            let ram = machine(is_new, None);
            for at in 0..ram.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut damaged = ram.clone();
                    damaged[at] = value;
                    let changed = damaged != ram;
                    let found = read_all(damaged);
                    if changed && (ROOT..ROOT + HEADER).contains(&at) {
                        assert_eq!(found, (1, None), "{at:#x}");
                    }
                }
            }
        }
    }
}
