//! Finds out how the machine is powered off: the FADT and the `\_S5` object (ACPI 6.5, sections 5.2.5 to
//! 5.2.9, 7.4.2 and 20.2).
//!
//! The tables are the firmware's: every address, length and checksum in them is checked, and what is wrong
//! means that there is no such way.
use alloc::vec::Vec;

/// Read access to physical memory.
pub trait Physical {
    /// Copies bytes from `address` on; false if they are not all accessible.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;
}

/// What powers the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOff {
    /// PM1a control port.
    pub pm1a: u16,
    /// PM1b control port, if there is one.
    pub pm1b: Option<u16>,
    /// Sleep type of soft-off for PM1a, and for PM1b.
    pub sleep_type: (u8, u8),
    /// Port and value that switch ACPI mode on, if the firmware has such a switch.
    pub enable: Option<(u16, u8)>,
}

/// Largest table that is read.
const LARGEST: u32 = 1 << 20;
/// Bytes of a table's header.
const HEADER: usize = 36;

fn bytes<const N: usize>(table: &[u8], at: usize) -> Option<[u8; N]> {
    table.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(table: &[u8], at: usize) -> Option<u16> {
    bytes(table, at).map(u16::from_le_bytes)
}

fn u32_at(table: &[u8], at: usize) -> Option<u32> {
    bytes(table, at).map(u32::from_le_bytes)
}

fn u64_at(table: &[u8], at: usize) -> Option<u64> {
    bytes(table, at).map(u64::from_le_bytes)
}

fn sums_to_zero(table: &[u8]) -> bool {
    table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn read_table(
    memory: &impl Physical,
    address: u64,
    signature: Option<&[u8; 4]>,
) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    if address == 0 || !memory.read(address, &mut header) {
        return None;
    }
    let length = u32_at(&header, 4)?;
    let known = signature.is_none_or(|signature| header.starts_with(signature));
    if !known || length < HEADER as u32 || length > LARGEST {
        return None;
    }
    let mut table = alloc::vec![0; length as usize];
    (memory.read(address, &mut table) && sums_to_zero(&table)).then_some(table)
}

/// Addresses of the tables that the RSDP leads to.
fn tables(memory: &impl Physical, rsdp: u64) -> Option<Vec<u64>> {
    let mut root = [0; 36];
    if rsdp == 0 || !memory.read(rsdp, &mut root[..20]) {
        return None;
    }
    if !root.starts_with(b"RSD PTR ") || !sums_to_zero(&root[..20]) {
        return None;
    }
    // From revision 2 on there is an XSDT. It is preferred, if it can be used.
    if root[15] >= 2
        && memory.read(rsdp, &mut root)
        && sums_to_zero(&root)
        && let Some(xsdt) = read_table(memory, u64_at(&root, 24)?, Some(b"XSDT"))
    {
        let entries = xsdt[HEADER..].chunks_exact(8);
        return entries.map(|entry| u64_at(entry, 0)).collect();
    }
    let rsdt = read_table(memory, u32_at(&root, 16)?.into(), Some(b"RSDT"))?;
    let entries = rsdt[HEADER..].chunks_exact(4);
    entries.map(|entry| u32_at(entry, 0).map(u64::from)).collect()
}

/// The way to power off that the tables at `rsdp` describe.
pub fn find(memory: &impl Physical, rsdp: u64) -> Option<PowerOff> {
    let tables = tables(memory, rsdp)?;
    let fadt = tables.iter().find_map(|&at| read_table(memory, at, Some(b"FACP")))?;
    let pm1a = port(&fadt, 64, 172)?;
    let sleep_type = definition_blocks(memory, &fadt, &tables).find_map(|aml| soft_off(&aml))?;
    let smi_port = u32_at(&fadt, 48).and_then(|port| u16::try_from(port).ok());
    let enable =
        smi_port.zip(fadt.get(52).copied()).filter(|&(port, value)| port != 0 && value != 0);
    Some(PowerOff { pm1a, pm1b: port(&fadt, 68, 184), sleep_type, enable })
}

/// A control port of the FADT: at `old` its number, at `new` a generic address, which may be absent.
fn port(fadt: &[u8], old: usize, new: usize) -> Option<u16> {
    const SYSTEM_IO: u8 = 1;
    let extended = (fadt.get(new) == Some(&SYSTEM_IO))
        .then(|| u64_at(fadt, new + 4))
        .flatten()
        .filter(|&address| address != 0);
    let number = extended.or_else(|| u32_at(fadt, old).map(u64::from))?;
    u16::try_from(number).ok().filter(|&port| port != 0)
}

/// The DSDT, and then the SSDTs.
fn definition_blocks<'a, P: Physical>(
    memory: &'a P,
    fadt: &[u8],
    tables: &'a [u64],
) -> impl Iterator<Item = Vec<u8>> + 'a {
    let extended = u64_at(fadt, 140).filter(|&address| address != 0);
    let dsdt = extended.or_else(|| u32_at(fadt, 40).map(u64::from)).unwrap_or(0);
    let dsdt = core::iter::once_with(move || read_table(memory, dsdt, Some(b"DSDT")));
    let rest = tables.iter().map(|&at| read_table(memory, at, Some(b"SSDT")));
    dsdt.chain(rest).flatten()
}

/// The values of `Name (\_S5, Package () { a, b, … })` in a definition block.
fn soft_off(aml: &[u8]) -> Option<(u8, u8)> {
    const NAME: u8 = 0x08;
    const ROOT: u8 = b'\\';
    const PACKAGE: u8 = 0x12;
    let places = aml.windows(4).enumerate().filter(|(_, name)| name == b"_S5_");
    places.map(|(at, _)| at).find_map(|at| {
        let before = aml.get(..at)?;
        if !before.ends_with(&[NAME]) && !before.ends_with(&[NAME, ROOT]) {
            return None;
        }
        let package = aml.get(at + 4..)?;
        if package.first() != Some(&PACKAGE) {
            return None;
        }
        // The package length takes one byte and as many more as its two high bits say; then comes
        // the number of elements.
        let elements = 2 + usize::from(package.get(1)? >> 6);
        let count = *package.get(elements)?;
        let (first, rest) = small_integer(package.get(elements + 1..)?)?;
        let second = if count > 1 { small_integer(rest).map(|(value, _)| value) } else { None };
        Some((first, second.unwrap_or(first)))
    })
}

/// An integer constant that fits into a sleep type, and what follows it.
fn small_integer(aml: &[u8]) -> Option<(u8, &[u8])> {
    const ZERO: u8 = 0x00;
    const ONE: u8 = 0x01;
    const BYTE: u8 = 0x0a;
    const WORD: u8 = 0x0b;
    const DWORD: u8 = 0x0c;
    let (value, length) = match *aml.first()? {
        ZERO => (0, 1),
        ONE => (1, 1),
        BYTE => (u32::from(*aml.get(1)?), 2),
        WORD => (u32::from(u16_at(aml, 1)?), 3),
        DWORD => (u32_at(aml, 1)?, 5),
        _ => return None,
    };
    // PM1_CNT has three bits for it.
    (value < 8).then(|| (value as u8, &aml[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Memory(Vec<u8>);

    const BASE: u64 = 0xe_0000;

    impl Physical for Memory {
        fn read(&self, address: u64, into: &mut [u8]) -> bool {
            let start = address.checked_sub(BASE).map(|start| start as usize);
            let source = start.and_then(|start| self.0.get(start..start.checked_add(into.len())?));
            source.map(|source| into.copy_from_slice(source)).is_some()
        }
    }

    fn seal(table: &mut [u8], at: usize) {
        table[at] = 0;
        table[at] = table.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    }

    fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
        let mut table = vec![0; HEADER];
        table[..4].copy_from_slice(signature);
        table.extend_from_slice(body);
        let length = table.len() as u32;
        table[4..8].copy_from_slice(&length.to_le_bytes());
        seal(&mut table, 9);
        table
    }

    /// RSDP, RSDT, FADT and DSDT as QEMU's q35 has them.
    fn q35() -> Memory {
        let mut rsdp = b"RSD PTR \0BOCHS \0".to_vec();
        rsdp.extend((BASE as u32 + 0x100).to_le_bytes());
        seal(&mut rsdp, 8);
        let rsdt = table(b"RSDT", &(BASE as u32 + 0x200).to_le_bytes());
        let mut fadt = vec![0; 116 - HEADER];
        fadt[40 - HEADER..][..4].copy_from_slice(&(BASE as u32 + 0x300).to_le_bytes());
        fadt[48 - HEADER..][..4].copy_from_slice(&0xb2u32.to_le_bytes());
        fadt[52 - HEADER] = 2;
        fadt[64 - HEADER..][..4].copy_from_slice(&0x604u32.to_le_bytes());
        let aml = b"\x5b_S5_\x10\x08_S5_\x12\x06\x04\x0a\x05\x00\x00\x00rest";
        let parts = [rsdp, rsdt, table(b"FACP", &fadt), table(b"DSDT", aml)];
        let mut bytes = vec![0; 0x400];
        for (part, at) in parts.iter().zip([0, 0x100, 0x200, 0x300]) {
            bytes[at..at + part.len()].copy_from_slice(part);
        }
        Memory(bytes)
    }

    #[test]
    fn finds_the_way_of_a_pc() {
        let expected =
            PowerOff { pm1a: 0x604, pm1b: None, sleep_type: (5, 0), enable: Some((0xb2, 2)) };
        assert_eq!(find(&q35(), BASE), Some(expected));
        assert_eq!(find(&q35(), 0), None);
        for damaged in [0x8, 0x109, 0x230, 0x309] {
            let mut memory = q35();
            memory.0[damaged] ^= 0xff;
            assert_eq!(find(&memory, BASE), None, "{damaged:#x}");
        }
    }

    proptest! {
        #[test]
        fn damaged_tables_do_no_harm(
            changes in prop::collection::vec((0usize..0x400, any::<u8>()), 1..12),
            aml in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut memory = q35();
            let name = [&b"\x08_S5_"[..], &aml].concat();
            let _ = soft_off(&name);
            for (at, value) in changes {
                memory.0[at] = value;
            }
            for (start, end, sum) in [(0, 20, 8), (0x100, 0x128, 9), (0x200, 0x274, 9)] {
                seal(&mut memory.0[start..end], sum);
            }
            let _ = find(&memory, BASE);
        }
    }
}
