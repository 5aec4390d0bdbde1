//! CPUs and interrupt controllers, from ACPI's Multiple APIC Description Table (ACPI 6.4, 5.2.12).
//!
//! The table comes from firmware: every length is checked, and what does not fit is an error or is
//! left out, never trusted.
#![forbid(unsafe_code)]

use abi::boot::MAX_CPUS;

use super::Fields;
use crate::addr::HostPhys;

/// Hardware number of a CPU's local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApicId(pub u32);

/// Number of an interrupt line, over all I/O APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gsi(pub u32);

/// An interrupt line and how its device drives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line.
    pub gsi: Gsi,
    /// It signals as long as it is active, not as it becomes so.
    pub is_level: bool,
    /// It is active low, not high.
    pub is_active_low: bool,
}

impl Line {
    /// A line as they are usual on ISA: edge-triggered, active high (ACPI 6.4, 5.2.12.5).
    pub const fn isa(gsi: Gsi) -> Line {
        Line { gsi, is_level: false, is_active_low: false }
    }

    /// A line as PCI's INTx are: level-triggered, active low (PCI 3.0, 2.2.6).
    pub const fn pci(gsi: Gsi) -> Line {
        Line { gsi, is_level: true, is_active_low: true }
    }
}

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: HostPhys,
    /// The line at its first pin.
    pub first: Gsi,
    /// How many pins it has; 0 until it was found where firmware says.
    pub pins: u32,
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
    io_apics: [IoApic; MAX_IO_APICS],
    io_apic_count: usize,
    isa: [Line; ISA_LINES],
}

/// Bytes in front of the entries: the header that all ACPI tables have, local APIC address, flags.
const FIXED_PART: usize = 44;
/// Flag of a CPU's entry: it can be used. (Another flag marks places for CPUs to be plugged in.)
const CPU_ENABLED: u32 = 1;

impl Platform {
    /// A machine without ACPI: the CPU that runs, and no I/O APIC.
    pub fn single(boot_cpu: ApicId) -> Platform {
        Platform {
            cpus: [boot_cpu; MAX_CPUS],
            cpu_count: 1,
            io_apics: [IoApic { address: HostPhys(0), first: Gsi(0), pins: 0 }; MAX_IO_APICS],
            io_apic_count: 0,
            isa: core::array::from_fn(|line| Line::isa(Gsi(line as u32))),
        }
    }

    /// Adds what the MADT `table` says, header included. The CPU that runs stays CPU 0 whatever the table says. An error
    /// is the offset of what is damaged.
    pub fn read_madt(&mut self, table: &[u8]) -> Result<(), usize> {
        let mut rest = table.get(FIXED_PART..).ok_or(table.len())?;
        while !rest.is_empty() {
            let bad = table.len() - rest.len();
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
                    slot.address = HostPhys(entry.u32(4).into());
                    slot.first = Gsi(entry.u32(8));
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
                    line.gsi = Gsi(entry.u32(4));
                    line.is_active_low = flags & 0b11 == 0b11;
                    line.is_level = flags >> 2 & 0b11 == 0b11;
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
    pub fn io_apics(&self) -> &[IoApic] {
        &self.io_apics[..self.io_apic_count]
    }

    /// The same, to be completed.
    pub fn io_apics_mut(&mut self) -> &mut [IoApic] {
        &mut self.io_apics[..self.io_apic_count]
    }

    /// How `gsi` is driven: as an override says, else as usual on ISA (0 to 15) or PCI.
    pub fn line(&self, gsi: Gsi) -> Line {
        let usual = if (gsi.0 as usize) < ISA_LINES { Line::isa } else { Line::pci };
        self.isa.into_iter().find(|line| line.gsi == gsi).unwrap_or(usual(gsi))
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

    fn read(table: &[u8], boot_cpu: u32) -> Result<Platform, usize> {
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
            [IoApic { address: HostPhys(0xfec0_0000), first: Gsi(0), pins: 0 }]
        );
        let sci = Line { gsi: Gsi(9), is_level: true, is_active_low: false };
        assert_eq!(platform.line(Gsi(9)), sci);
        // ISA's line 0 arrives at GSI 2, and is driven as usual on ISA.
        assert_eq!(platform.line(Gsi(2)), Line::isa(Gsi(2)));
        assert_eq!(platform.line(Gsi(4)), Line::isa(Gsi(4)));
        assert_eq!(platform.line(Gsi(16)), Line::pci(Gsi(16)));
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
        assert_eq!(error, Some(FIXED_PART));
    }
}
