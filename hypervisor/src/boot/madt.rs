//! CPUs and interrupt controllers, from ACPI's Multiple APIC Description Table (ACPI 6.4, 5.2.12).
//!
//! The table comes from firmware: every length is checked, and what does not fit is an error or is
//! left out, never trusted.
#![forbid(unsafe_code)]

use core::fmt;

use abi::boot::MAX_CPUS;
use abi::text::Hex;

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
    /// Physical address of the local APICs' registers.
    pub local_apic: HostPhys,
    cpus: [ApicId; MAX_CPUS],
    cpu_count: usize,
    /// Enabled CPUs beyond [`MAX_CPUS`].
    pub cpus_left_out: usize,
    io_apics: [IoApicInfo; MAX_IO_APICS],
    io_apic_count: usize,
    isa: [Line; ISA_LINES],
}

/// Where the local APIC's registers are if firmware does not say otherwise (Intel SDM 3A 11.4.1).
pub const DEFAULT_LOCAL_APIC: HostPhys = HostPhys(0xfee0_0000);

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
const LOCAL_APIC_ADDRESS: usize = 36;
/// Flag of a CPU's entry: it can be used. (Another flag marks places for CPUs to be plugged in.)
const CPU_ENABLED: u32 = 1;

/// Reads `N` bytes of an entry; `None` if it is too short.
fn field<const N: usize>(entry: &[u8], at: usize) -> Option<[u8; N]> {
    entry.get(at..)?.first_chunk().copied()
}

fn u32_at(entry: &[u8], at: usize) -> Option<u32> {
    field(entry, at).map(u32::from_le_bytes)
}

impl Platform {
    /// A machine without ACPI: the CPU that runs, and no I/O APIC.
    pub const fn single(boot_cpu: ApicId) -> Platform {
        let mut platform = Platform::empty();
        platform.cpus[0] = boot_cpu;
        platform.cpu_count = 1;
        platform
    }

    const fn empty() -> Platform {
        // ISA lines are edge-triggered, active high, and line n is GSI n (ACPI 6.4, 5.2.12.5).
        let mut isa = [Line {
            gsi: Gsi(0),
            trigger: Trigger::Edge,
            polarity: Polarity::High,
        }; ISA_LINES];
        let mut i = 0;
        while i < ISA_LINES {
            isa[i].gsi = Gsi(i as u32);
            i += 1;
        }
        Platform {
            local_apic: DEFAULT_LOCAL_APIC,
            cpus: [ApicId(0); MAX_CPUS],
            cpu_count: 0,
            cpus_left_out: 0,
            io_apics: [IoApicInfo {
                address: HostPhys(0),
                first: Gsi(0),
            }; MAX_IO_APICS],
            io_apic_count: 0,
            isa,
        }
    }

    /// Reads the MADT `table`, header included. The CPU that runs, `boot_cpu`, becomes CPU 0 whatever
    /// the table says.
    pub fn from_madt(table: &[u8], boot_cpu: ApicId) -> Result<Platform, MadtError> {
        let mut platform = Platform::single(boot_cpu);
        let address = u32_at(table, LOCAL_APIC_ADDRESS).ok_or(MadtError::TooShort)?;
        platform.local_apic = HostPhys(address.into());
        let mut rest = table.get(FIXED_PART..).ok_or(MadtError::TooShort)?;
        while !rest.is_empty() {
            let at = table.len() - rest.len();
            let bad = MadtError::BadEntry(at);
            let length = *rest.get(1).ok_or(bad)?;
            if length < 2 {
                return Err(bad);
            }
            let (entry, behind) = rest.split_at_checked(length.into()).ok_or(bad)?;
            platform.add(entry).ok_or(bad)?;
            rest = behind;
        }
        Ok(platform)
    }

    /// Takes in one entry; `None` if it is too short for its type.
    fn add(&mut self, entry: &[u8]) -> Option<()> {
        match entry[0] {
            // Processor local APIC.
            0 => {
                let [id] = field(entry, 3)?;
                self.add_cpu(ApicId(id.into()), u32_at(entry, 4)?);
            }
            // I/O APIC.
            1 => {
                let info = IoApicInfo {
                    address: HostPhys(u32_at(entry, 4)?.into()),
                    first: Gsi(u32_at(entry, 8)?),
                };
                if let Some(slot) = self.io_apics.get_mut(self.io_apic_count) {
                    *slot = info;
                    self.io_apic_count += 1;
                }
            }
            // Interrupt source override.
            2 => {
                let [bus, irq] = field(entry, 2)?;
                let gsi = Gsi(u32_at(entry, 4)?);
                let flags = u16::from_le_bytes(field(entry, 8)?);
                if let (0, Some(line)) = (bus, self.isa.get_mut(usize::from(irq))) {
                    // Bits 1:0 and 3:2; 0 means as usual on the bus, 2 is reserved.
                    let polarity = if flags & 0b11 == 0b11 {
                        Polarity::Low
                    } else {
                        Polarity::High
                    };
                    let trigger = if flags >> 2 & 0b11 == 0b11 {
                        Trigger::Level
                    } else {
                        Trigger::Edge
                    };
                    *line = Line {
                        gsi,
                        trigger,
                        polarity,
                    };
                }
            }
            // Local APIC address override.
            5 => self.local_apic = HostPhys(u64::from_le_bytes(field(entry, 4)?)),
            // Processor local x2APIC.
            9 => self.add_cpu(ApicId(u32_at(entry, 4)?), u32_at(entry, 8)?),
            // NMI sources, Itanium, Arm, future types.
            _ => {}
        }
        Some(())
    }

    fn add_cpu(&mut self, id: ApicId, flags: u32) {
        // Firmware may list a CPU twice, as APIC and as x2APIC.
        if flags & CPU_ENABLED == 0 || self.cpus().contains(&id) {
            return;
        }
        match self.cpus.get_mut(self.cpu_count) {
            Some(slot) => {
                *slot = id;
                self.cpu_count += 1;
            }
            None => self.cpus_left_out += 1,
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

    /// The line that ISA interrupt `irq` arrives at.
    pub fn isa_line(&self, irq: u8) -> Option<Line> {
        self.isa.get(usize::from(irq)).copied()
    }

    /// How `gsi` is driven: as an override says, else as usual on ISA (0 to 15) or PCI.
    pub fn line(&self, gsi: Gsi) -> Line {
        let is_isa = |line: &&Line| line.gsi == gsi;
        match self.isa.iter().find(is_isa) {
            Some(line) => *line,
            None if (gsi.0 as usize) < ISA_LINES => Line {
                gsi,
                trigger: Trigger::Edge,
                polarity: Polarity::High,
            },
            // PCI's INTx lines are level-triggered, active low (PCI 3.0, 2.2.6).
            None => Line {
                gsi,
                trigger: Trigger::Level,
                polarity: Polarity::Low,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn madt(entries: &[&[u8]]) -> Vec<u8> {
        let mut table = vec![0; FIXED_PART];
        table[LOCAL_APIC_ADDRESS..][..4].copy_from_slice(&0xfee0_0000u32.to_le_bytes());
        for entry in entries {
            table.extend_from_slice(entry);
        }
        table
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
        let platform = Platform::from_madt(&q35(), ApicId(0)).unwrap();
        assert_eq!(platform.cpus(), [ApicId(0), ApicId(1)]);
        assert_eq!(
            platform.io_apics(),
            [IoApicInfo {
                address: HostPhys(0xfec0_0000),
                first: Gsi(0)
            }]
        );
        assert_eq!(platform.isa_line(0).unwrap().gsi, Gsi(2));
        let sci = Line {
            gsi: Gsi(9),
            trigger: Trigger::Level,
            polarity: Polarity::High,
        };
        assert_eq!(platform.line(Gsi(9)), sci);
        assert_eq!(platform.line(Gsi(4)).trigger, Trigger::Edge);
        let pci = Line {
            gsi: Gsi(16),
            trigger: Trigger::Level,
            polarity: Polarity::Low,
        };
        assert_eq!(platform.line(Gsi(16)), pci);
        assert_eq!(platform.isa_line(16), None);
    }

    #[test]
    fn the_running_cpu_is_first() {
        let platform = Platform::from_madt(&q35(), ApicId(1)).unwrap();
        assert_eq!(platform.cpus(), [ApicId(1), ApicId(0)]);
    }

    #[test]
    fn no_more_cpus_than_fit() {
        let entries: Vec<[u8; 8]> = (0..=254).map(|i| [0, 8, i, i, 1, 0, 0, 0]).collect();
        let entries: Vec<&[u8]> = entries.iter().map(|e| &e[..]).collect();
        let platform = Platform::from_madt(&madt(&entries), ApicId(3)).unwrap();
        assert_eq!(platform.cpus().len(), MAX_CPUS);
        assert_eq!(platform.cpus_left_out, 255 - MAX_CPUS);
    }

    /// Cut anywhere, and with every byte of the entries replaced, parsing ends and does not panic.
    #[test]
    fn damaged_tables() {
        let table = q35();
        for len in 0..table.len() {
            let _ = Platform::from_madt(&table[..len], ApicId(0));
        }
        for at in FIXED_PART..table.len() {
            for value in 0..=255 {
                let mut damaged = table.clone();
                damaged[at] = value;
                let _ = Platform::from_madt(&damaged, ApicId(0));
            }
        }
        let endless = madt(&[&[0x7f, 0]]);
        let error = Platform::from_madt(&endless, ApicId(0)).err();
        assert_eq!(error, Some(MadtError::BadEntry(FIXED_PART)));
    }
}
