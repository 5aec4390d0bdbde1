//! ACPI tables of a guest: a hardware-reduced machine (ACPI 6.5, 4.1).
//!
//! Reduced, because it has no 8259, PIT, PM timer or ACPI-mode switch: that is what tells Linux not to look for
//! them. Power-off is by the sleep control register, reset by the reset register ([`crate::arch::x86_64::ports`]).
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, ZERO,
};
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use alloc::vec::Vec;

use crate::arch::x86_64::apic;
use crate::arch::x86_64::ports;

const OEM: [u8; 6] = *b"BLKHD ";
const TABLE: [u8; 8] = *b"BULKHEAD";
const REVISION: u32 = 1;

/// Boot architecture flags of the FADT.
mod arch {
    /// There is no VGA to probe.
    pub const NO_VGA: u16 = 1 << 2;
    /// There is no CMOS clock.
    pub const NO_CMOS_RTC: u16 = 1 << 5;
}

/// A 16550 of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial {
    /// First port.
    pub port: u16,
    /// Interrupt line (GSI).
    pub line: u32,
}

/// What the tables describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Number of vCPUs; their APIC IDs are 0 and up. At most 255.
    pub vcpus: u32,
    /// The serial port.
    pub serial: Option<Serial>,
}

/// The tables, to be put at the address that [`build`] was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the root pointer.
    pub rsdp: u64,
}

struct Bytes(Vec<u8>);

impl AmlSink for Bytes {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }
}

fn encode(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Bytes(Vec::new());
    table.to_aml_bytes(&mut bytes);
    bytes.0
}

fn port_byte(port: u16) -> GAS {
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port.into())
}

fn dsdt(machine: &Machine) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, TABLE, REVISION);
    // Sleep type 5 for the sleep control register.
    let s5 = Package::new(alloc::vec![&ports::SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new(Path::new("_S5_"), &s5).to_aml_bytes(&mut table);
    if let Some(serial) = machine.serial {
        let io = IO::new(serial.port, serial.port, 1, 8);
        // Edge-triggered, active high, not shared.
        let interrupt = Interrupt::new(true, true, false, false, serial.line);
        let resources = ResourceTemplate::new(alloc::vec![&io, &interrupt]);
        let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
        let uid = Name::new(Path::new("_UID"), &ZERO);
        let crs = Name::new(Path::new("_CRS"), &resources);
        Device::new(Path::new("_SB_.COM1"), alloc::vec![&id, &uid, &crs]).to_aml_bytes(&mut table);
    }
    table.as_slice().to_vec()
}

fn madt(machine: &Machine) -> Vec<u8> {
    // Flags stay 0: no 8259 pair.
    let local = LocalInterruptController::Address(apic::local::BASE as u32);
    let mut table = MADT::new(OEM, TABLE, REVISION, local);
    for id in 0..machine.vcpus.min(255) as u8 {
        table.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(apic::io::ID, apic::io::BASE as u32, 0));
    encode(&table)
}

fn fadt(dsdt: u64) -> Vec<u8> {
    let mut table = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi)
        .preferred_pm_profile(PmProfile::EnterpriseServer);
    table.iapc_boot_arch = (arch::NO_VGA | arch::NO_CMOS_RTC).into();
    table.reset_reg = port_byte(ports::RESET);
    table.reset_value = ports::RESET_VALUE;
    table.sleep_control_reg = port_byte(ports::SLEEP_CONTROL);
    table.sleep_status_reg = port_byte(ports::SLEEP_STATUS);
    encode(&table.finalize())
}

/// Builds the tables for the guest-physical address `base`, which is a multiple of 16.
pub fn build(machine: &Machine, base: u64) -> Tables {
    let mut bytes = alloc::vec![0; Rsdp::len().next_multiple_of(16)];
    let mut put = |table: &[u8]| {
        let at = base + bytes.len() as u64;
        bytes.extend_from_slice(table);
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        at
    };
    let dsdt = put(&dsdt(machine));
    let fadt = put(&fadt(dsdt));
    let madt = put(&madt(machine));
    let mut xsdt = XSDT::new(OEM, TABLE, REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = put(&encode(&xsdt));
    let rsdp = encode(&Rsdp::new(OEM, xsdt));
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    Tables { bytes, rsdp: base }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let serial = Serial { port: 0x3f8, line: 4 };
        let machine = Machine { vcpus: 2, serial: Some(serial) };
        let tables = build(&machine, 0xe_0000);
        let at = |address: u64| &tables.bytes[(address - 0xe_0000) as usize..];
        let u32_at = |b: &[u8], i: usize| u32::from_le_bytes(b[i..i + 4].try_into().unwrap());
        let u64_at = |b: &[u8], i: usize| u64::from_le_bytes(b[i..i + 8].try_into().unwrap());
        let table = |address: u64| {
            let bytes = at(address);
            let bytes = &bytes[..u32_at(bytes, 4) as usize];
            assert_eq!(sum(bytes), 0, "{:?}", &bytes[..4]);
            // For `iasl -d`, where somebody wants to look.
            if let Ok(folder) = std::env::var("BULKHEAD_ACPI_DUMP") {
                let name = std::str::from_utf8(&bytes[..4]).unwrap();
                std::fs::write(format!("{folder}/{name}.aml"), bytes).unwrap();
            }
            bytes
        };
        let rsdp = at(tables.rsdp);
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp[..36])), (&b"RSD PTR "[..], 0, 0));
        let xsdt = table(u64_at(rsdp, 24));
        assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 36 + 16));
        let fadt = table(u64_at(xsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        assert_eq!(&table(u64_at(fadt, 140))[..4], b"DSDT");
        let madt = table(u64_at(xsdt, 44));
        assert_eq!((&madt[..4], madt.len()), (&b"APIC"[..], 44 + 2 * 8 + 12));
    }
}
