//! CPUs and interrupt controllers, from ACPI's Multiple APIC Description Table (ACPI 6.4, 5.2.12).
//!
//! The table comes from firmware: every length is checked, and what does not fit is an error or is
//! left out, never trusted.
#![forbid(unsafe_code)]

use core::fmt;

use abi::boot::MAX_CPUS;
use abi::text::Hex;

use super::Fields;
use crate::addr::HostPhys;

/// Hardware number of a CPU's local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicId(pub u32);

/// Number of an interrupt line, over all I/O APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(pub u32);

/// When a line signals an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// As it becomes active.
    Edge,
    /// As long as it is active.
    Level,
}

/// Which level is the active one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// Active high.
    High,
    /// Active low.
    Low,
}

/// An interrupt line and how its device drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub gsi: Gsi,
    /// When it signals.
    pub trigger: Trigger,
    /// Its active level.
    pub polarity: Polarity,
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicInfo {
    /// Physical address of its registers.
    pub address: HostPhys,
    /// The line at its first pin.
    pub first: Gsi,
}

/// Interrupt lines of the ISA bus.
pub const ISA_LINES: usize = 16;
/// Most I/O APICs that are used.
pub const MAX_IO_APICS: usize = 16;

/// CPUs and interrupt controllers of the machine.
#[derive(Clone)]
pub struct Platform {
    cpus: [ApicId; MAX_CPUS],
    cpu_count: usize,
    io_apics: [IoApicInfo; MAX_IO_APICS],
    io_apic_count: usize,
    isa: [Line; ISA_LINES],
}

/// Why a table is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MadtError {
    /// Shorter than its fixed part.
    TooShort,
    /// The entry at this offset has an impossible length.
    BadEntry(usize),
}

impl fmt::Display for MadtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MadtError::TooShort => f.write_str("the ACPI MADT is too short"),
            MadtError::BadEntry(at) => {
                write!(f, "the ACPI MADT's entry at {} is damaged", Hex(*at as u64))
            }
        }
    }
}

/// Bytes in front of the entries: the header that all ACPI tables have, local APIC address, flags.
const FIXED_PART: usize = 44;
/// Flag of a CPU's entry: it can be used. (Another flag marks places for CPUs to be plugged in.)
const CPU_ENABLED: u32 = 1;

impl Platform {
    /// A machine without ACPI: the CPU that runs, and no I/O APIC.
    pub fn single(boot_cpu: ApicId) -> Platform {
        // ISA lines are edge-triggered, active high, and line n is GSI n (ACPI 6.4, 5.2.12.5).
        let isa_line =
            |i| Line { gsi: Gsi(i as u32), trigger: Trigger::Edge, polarity: Polarity::High };
        Platform {
            cpus: [boot_cpu; MAX_CPUS],
            cpu_count: 1,
            io_apics: [IoApicInfo { address: HostPhys(0), first: Gsi(0) }; MAX_IO_APICS],
            io_apic_count: 0,
            isa: core::array::from_fn(isa_line),
        }
    }

    /// Adds what the MADT `table` says, header included. The CPU that runs stays CPU 0 whatever the table says.
    pub fn read_madt(&mut self, table: &[u8]) -> Result<(), MadtError> {
        let mut rest = table.get(FIXED_PART..).ok_or(MadtError::TooShort)?;
        while !rest.is_empty() {
            let bad = MadtError::BadEntry(table.len() - rest.len());
            let length = usize::from(*rest.get(1).ok_or(bad)?);
            // What an entry of its type has at least (ACPI 6.4, tables 5.21 to 5.33).
            let least = match rest[0] {
                0 => 8,
                1 => 12,
                2 => 10,
                9 => 16,
                _ => 2,
            };
            if length < least {
                return Err(bad);
            }
            let (entry, behind) = rest.split_at_checked(length).ok_or(bad)?;
            self.add(entry[0], Fields(entry));
            rest = behind;
        }
        Ok(())
    }

    /// Takes in one entry, which has the fields of its type.
    fn add(&mut self, kind: u8, entry: Fields<'_>) {
        match kind {
            // Processor local APIC.
            0 => self.add_cpu(ApicId(entry.u32(0) >> 24), entry.u32(4)),
            // I/O APIC.
            1 => {
                if let Some(slot) = self.io_apics.get_mut(self.io_apic_count) {
                    *slot = IoApicInfo {
                        address: HostPhys(entry.u32(4).into()),
                        first: Gsi(entry.u32(8)),
                    };
                    self.io_apic_count += 1;
                }
            }
            // Interrupt source override, of a bus and one of its lines: ISA is bus 0.
            2 => {
                let [_, _, bus, irq] = entry.u32(0).to_le_bytes();
                // At the entry's end.
                let flags = entry.u32(6) >> 16;
                if let (0, Some(line)) = (bus, self.isa.get_mut(usize::from(irq))) {
                    // Bits 1:0 and 3:2; 0 means as usual on the bus, 2 is reserved.
                    let polarity =
                        if flags & 0b11 == 0b11 { Polarity::Low } else { Polarity::High };
                    let trigger =
                        if flags >> 2 & 0b11 == 0b11 { Trigger::Level } else { Trigger::Edge };
                    *line = Line { gsi: Gsi(entry.u32(4)), trigger, polarity };
                }
            }
            // Processor local x2APIC.
            9 => self.add_cpu(ApicId(entry.u32(4)), entry.u32(8)),
            // NMI sources, Itanium, Arm, future types.
            _ => {}
        }
    }

    fn add_cpu(&mut self, id: ApicId, flags: u32) {
        // Firmware may list a CPU twice, as APIC and as x2APIC. More CPUs than the kernel runs are left out.
        if flags & CPU_ENABLED != 0
            && !self.cpus().contains(&id)
            && let Some(slot) = self.cpus.get_mut(self.cpu_count)
        {
            *slot = id;
            self.cpu_count += 1;
        }
    }

    /// The enabled CPUs; the one that booted comes first.
    pub fn cpus(&self) -> &[ApicId] {
        &self.cpus[..self.cpu_count]
    }

    /// The I/O APICs.
    pub fn io_apics(&self) -> &[IoApicInfo] {
        &self.io_apics[..self.io_apic_count]
    }

    /// How `gsi` is driven: as an override says, else as usual on ISA (0 to 15) or PCI.
    pub fn line(&self, gsi: Gsi) -> Line {
        let is_isa = |line: &&Line| line.gsi == gsi;
        match self.isa.iter().find(is_isa) {
            Some(line) => *line,
            None if (gsi.0 as usize) < ISA_LINES => {
                Line { gsi, trigger: Trigger::Edge, polarity: Polarity::High }
            }
            // PCI's INTx lines are level-triggered, active low (PCI 3.0, 2.2.6).
            None => Line { gsi, trigger: Trigger::Level, polarity: Polarity::Low },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn madt(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = vec![0; FIXED_PART];
        for entry in entries {
            table.extend_from_slice(entry);
        }
        table
    }

    fn read(table: &[u8], boot_cpu: u32) -> Result<Platform, MadtError> {
        let mut platform = Platform::single(ApicId(boot_cpu));
        platform.read_madt(table).map(|()| platform)
    }

    /// What QEMU's q35 with two CPUs says.
    fn q35() -> Vec<u8> {
        madt(&[
            &[0, 8, 0, 0, 1, 0, 0, 0],
            &[0, 8, 1, 1, 1, 0, 0, 0],
            &[0, 8, 2, 2, 0, 0, 0, 0],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
            &[2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0],
            &[4, 6, 0xff, 0, 0, 1],
        ])
    }

    #[test]
    fn reads_a_real_table() {
        let platform = read(&q35(), 0).unwrap();
        assert_eq!(platform.cpus(), [ApicId(0), ApicId(1)]);
        assert_eq!(
            platform.io_apics(),
            [IoApicInfo { address: HostPhys(0xfec0_0000), first: Gsi(0) }]
        );
        let sci = Line { gsi: Gsi(9), trigger: Trigger::Level, polarity: Polarity::High };
        assert_eq!(platform.line(Gsi(9)), sci);
        // ISA's line 0 arrives at GSI 2, and is driven as usual on ISA.
        assert_eq!(platform.line(Gsi(2)).trigger, Trigger::Edge);
        assert_eq!(platform.line(Gsi(4)).trigger, Trigger::Edge);
        let pci = Line { gsi: Gsi(16), trigger: Trigger::Level, polarity: Polarity::Low };
        assert_eq!(platform.line(Gsi(16)), pci);
    }

    #[test]
    fn the_running_cpu_is_first() {
        let platform = read(&q35(), 1).unwrap();
        assert_eq!(platform.cpus(), [ApicId(1), ApicId(0)]);
    }

    #[test]
    fn no_more_cpus_than_fit() {
        let entries: Vec<[u8; 8]> = (0..=254).map(|i| [0, 8, i, i, 1, 0, 0, 0]).collect();
        let entries: Vec<&[u8]> = entries.iter().map(|e| &e[..]).collect();
        let platform = read(&madt(&entries), 3).unwrap();
        assert_eq!(platform.cpus().len(), MAX_CPUS);
    }

    /// Cut anywhere, and with every byte of the entries replaced, parsing ends and does not panic.
    #[test]
    fn damaged_tables() {
        let table = q35();
        for len in 0..table.len() {
            let _ = read(&table[..len], 0);
        }
        for at in FIXED_PART..table.len() {
            for value in 0..=255 {
                let mut damaged = table.clone();
                damaged[at] = value;
                let _ = read(&damaged, 0);
            }
        }
        let endless = madt(&[&[0x7f, 0]]);
        let error = read(&endless, 0).err();
        assert_eq!(error, Some(MadtError::BadEntry(FIXED_PART)));
    }
}
