//! Places kernel, RAM disk and tables in guest RAM.
use super::header::{KernelError, KernelHeader};
use super::zero_page::{self, Placement};
use crate::arch::x86_64::acpi::{self, Machine};
use crate::load;
use crate::memory::{GuestPhys, GuestRam, NotRam};
use core::fmt;
use core::ops::Range;

/// Addresses in the first megabyte, all chosen here.
mod place {
    use super::Range;
    pub const GDT: u64 = 0x6000;
    pub const ZERO_PAGE: u64 = 0x7000;
    pub const PAGE_TABLES: Range<u64> = 0x8000..0xe000;
    pub const CMDLINE: Range<u64> = 0x2_0000..0x3_0000;
    pub const TABLES: Range<u64> = 0xe_0000..0xf_0000;
    pub const RESET_VECTOR: u64 = 0xf_fff0;
}

/// All that there is of a BIOS: 16-bit code at its entry point that writes to the reset register. Linux on
/// a hardware-reduced machine tries EFI's reset first and then jumps here.
const RESET_CODE: [u8; 9] = [
    0xb0,
    crate::arch::x86_64::ports::RESET_VALUE, // mov al, RESET_VALUE
    0xba,
    crate::arch::x86_64::ports::RESET as u8,
    (crate::arch::x86_64::ports::RESET >> 8) as u8, // mov dx, RESET
    0xee,                                           // out dx, al
    0xf4,                                           // hlt
    0xeb,
    0xfd, // jmp to the hlt
];

/// Lowest address for kernel and RAM disk.
const HIGH: u64 = 0x10_0000;
/// The page tables map addresses below this one to themselves.
const MAPPED: u64 = 4 << 30;
/// Offset of the 64-bit entry point in the protected-mode code.
const ENTRY_64: u64 = 0x200;

/// The GDT that the protocol wants: code at 0x10, data at 0x18, flat.
const GDT: [u64; 4] = [0, 0, 0x00af_9a00_0000_ffff, 0x00cf_9200_0000_ffff];
/// Selector of the code segment.
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the data segments.
pub const DATA_SELECTOR: u16 = 0x18;

/// How the first vCPU starts: 64-bit mode with paging, flat segments, interrupts off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Instruction pointer.
    pub entry: u64,
    /// Address of the zero page, for `rsi`.
    pub zero_page: u64,
    /// Root of the page tables.
    pub cr3: u64,
    /// Address of the GDT.
    pub gdt: u64,
    /// Limit of the GDT.
    pub gdt_limit: u64,
}

/// Why a guest cannot be loaded.
pub type LoadError = load::LoadError<KernelError, Obstacle>;

/// What else keeps a guest from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No place for this many bytes of RAM disk.
    NoRoomForInitrd(u64),
    /// The VM has no RAM where the tables belong, below 1 MiB.
    NoLowRam,
    /// The tables take more bytes than there is place for.
    LargeTables(usize),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoRoomForInitrd(size) => write!(
                f,
                "the VM's RAM is too small: there are no {} MiB left for the initial RAM disk",
                size.div_ceil(1 << 20)
            ),
            Obstacle::NoLowRam => f.write_str("the VM has no RAM below 1 MiB"),
            Obstacle::LargeTables(size) => write!(f, "{size} bytes of ACPI tables are too many"),
        }
    }
}

impl From<NotRam> for LoadError {
    fn from(_: NotRam) -> LoadError {
        LoadError::Other(Obstacle::NoLowRam)
    }
}

/// Loads a guest: after this its first vCPU can start. Writes every byte that the guest is promised, so that
/// it works again for a reset.
pub fn load(
    ram: &GuestRam,
    kernel: &[u8],
    initrd: &[u8],
    cmdline: &str,
    machine: &Machine,
) -> Result<Start, LoadError> {
    let header = KernelHeader::parse(kernel).map_err(LoadError::Kernel)?;
    let most = header.cmdline_max.min((place::CMDLINE.end - place::CMDLINE.start) as usize - 1);
    if cmdline.len() > most {
        return Err(LoadError::LongCmdline(cmdline.len(), most));
    }
    let kernel_at = kernel_address(ram, &header)?;
    let kernel_range = kernel_at..kernel_at + header.init_size;
    let initrd_range = initrd_address(ram, &header, &kernel_range, initrd.len() as u64)?;

    ram.write(GuestPhys(kernel_at), &kernel[header.code_offset..])?;
    ram.write(GuestPhys(initrd_range.start), initrd)?;
    ram.write(GuestPhys(place::CMDLINE.start), cmdline.as_bytes())?;
    ram.write(GuestPhys(place::CMDLINE.start + cmdline.len() as u64), &[0])?;

    let tables = acpi::build(machine, place::TABLES.start);
    if tables.bytes.len() as u64 > place::TABLES.end - place::TABLES.start {
        return Err(LoadError::Other(Obstacle::LargeTables(tables.bytes.len())));
    }
    ram.write(GuestPhys(place::TABLES.start), &tables.bytes)?;

    let placement = Placement {
        kernel: GuestPhys(kernel_at),
        initrd: initrd_range,
        cmdline: GuestPhys(place::CMDLINE.start),
        rsdp: GuestPhys(tables.rsdp),
    };
    let map = zero_page::memory_map(ram.ranges(), place::TABLES);
    ram.write(GuestPhys(place::ZERO_PAGE), &zero_page::build(&header, &placement, &map))?;
    for (i, descriptor) in GDT.iter().enumerate() {
        ram.write(GuestPhys(place::GDT + i as u64 * 8), &descriptor.to_le_bytes())?;
    }
    ram.write(GuestPhys(place::RESET_VECTOR), &RESET_CODE)?;
    page_tables(ram)?;
    Ok(Start {
        entry: kernel_at + ENTRY_64,
        zero_page: place::ZERO_PAGE,
        cr3: place::PAGE_TABLES.start,
        gdt: place::GDT,
        gdt_limit: GDT.len() as u64 * 8 - 1,
    })
}

/// Identity map of the first 4 GiB by pages of 2 MiB: root, one directory pointer table, four directories.
fn page_tables(ram: &GuestRam) -> Result<(), NotRam> {
    const FLAGS: u64 = 0x03;
    const LARGE: u64 = 0x83;
    let table = |i: u64| place::PAGE_TABLES.start + i * 0x1000;
    let put = |at: u64, entry: u64| ram.write(GuestPhys(at), &entry.to_le_bytes());
    for at in place::PAGE_TABLES.step_by(8) {
        put(at, 0)?;
    }
    put(table(0), table(1) | FLAGS)?;
    for i in 0..4 {
        put(table(1) + i * 8, table(2 + i) | FLAGS)?;
        for j in 0..512 {
            put(table(2 + i) + j * 8, (i * 512 + j) << 21 | LARGE)?;
        }
    }
    Ok(())
}

/// RAM that kernel and RAM disk may use: above the first megabyte, below what the page tables map.
fn usable(ram: &GuestRam) -> impl Iterator<Item = Range<u64>> + '_ {
    ram.ranges()
        .map(|range| range.start.max(HIGH)..range.end.min(MAPPED))
        .filter(|range| range.start < range.end)
}

fn fits(range: &Range<u64>, start: u64, size: u64) -> bool {
    start >= range.start && start.checked_add(size).is_some_and(|end| end <= range.end)
}

fn kernel_address(ram: &GuestRam, header: &KernelHeader) -> Result<u64, LoadError> {
    let preferred = header.preferred_address;
    if usable(ram).any(|range| fits(&range, preferred, header.init_size)) {
        return Ok(preferred);
    }
    if header.relocatable {
        for range in usable(ram) {
            let start = range.start.next_multiple_of(header.alignment);
            if fits(&range, start, header.init_size) {
                return Ok(start);
            }
        }
    }
    Err(LoadError::NoRoomForKernel(header.init_size))
}

/// The highest place for the RAM disk, so that it is out of the kernel's way.
fn initrd_address(
    ram: &GuestRam,
    header: &KernelHeader,
    kernel: &Range<u64>,
    size: u64,
) -> Result<Range<u64>, LoadError> {
    if size == 0 {
        return Ok(0..0);
    }
    let mut best = None;
    for range in usable(ram) {
        let end = range.end.min(header.initrd_max.saturating_add(1));
        // Above the kernel if it is in this range, else below it.
        for part in [kernel.end.max(range.start)..end, range.start..end.min(kernel.start)] {
            let Some(start) = part.end.checked_sub(size) else {
                continue;
            };
            let start = start & !(abi::PAGE_SIZE as u64 - 1);
            if fits(&part, start, size) {
                best = best.max(Some(start));
            }
        }
    }
    let start = best.ok_or(LoadError::Other(Obstacle::NoRoomForInitrd(size)))?;
    Ok(start..start + size)
}

#[cfg(test)]
mod tests {
    use super::super::header::testing::image;
    use super::*;
    use crate::arch::x86_64::paging::{Access, CR0_PE, CR0_PG, CR4_PAE, EFER_LMA, Paging};
    use crate::memory::testing::ram;

    const MIB: usize = 1 << 20;

    #[test]
    fn a_guest_is_where_its_zero_page_says() {
        let ram = ram(&[(0, 32 * MIB)]);
        let mut kernel = image(0x2000);
        kernel[0x600] = 0x90;
        let machine = Machine { vcpus: 1, serial: None };
        let start = load(&ram, &kernel, b"disk", "quiet", &machine).unwrap();
        assert_eq!(start.entry, 0x100_0200);
        assert_eq!(ram.read_u32(GuestPhys(start.entry)), Ok(0x90));
        let field = |at: u64| ram.read_u32(GuestPhys(start.zero_page + at)).unwrap();
        assert_eq!(field(0x202), u32::from_le_bytes(*b"HdrS"));
        assert_eq!((field(0x218), field(0x21c)), (0x1ff_f000, 4));
        assert_eq!(ram.read_u32(GuestPhys(0x1ff_f000)), Ok(u32::from_le_bytes(*b"disk")));
        let cmdline = GuestPhys(field(0x228).into());
        assert_eq!(ram.read_u64(cmdline), Ok(u64::from_le_bytes(*b"quiet\0\0\0")));
        assert_eq!(
            ram.read_u64(GuestPhys(field(0x70).into())),
            Ok(u64::from_le_bytes(*b"RSD PTR "))
        );
        let paging = Paging { cr0: CR0_PE | CR0_PG, cr3: start.cr3, cr4: CR4_PAE, efer: EFER_LMA };
        for linear in [0, start.entry, 0xfee0_0000, 0xffff_ffff] {
            assert_eq!(paging.translate(&ram, linear, Access::default()), Ok(GuestPhys(linear)));
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let small = ram(&[(0, 2 * MIB)]);
        let machine = Machine { vcpus: 1, serial: None };
        let mut kernel = image(0x2000);
        let try_load = |kernel: &[u8], initrd: &[u8], cmdline: &str| {
            load(&small, kernel, initrd, cmdline, &machine).unwrap_err()
        };
        // 2 MiB alignment leaves no place.
        assert_eq!(try_load(&kernel, &[], ""), LoadError::NoRoomForKernel(0x3000));
        kernel[0x230..0x234].copy_from_slice(&0x1000u32.to_le_bytes());
        let start = load(&small, &kernel, &vec![1; MIB - 0x3000], "", &machine).unwrap();
        assert_eq!(start.entry, 0x10_0200);
        let disk = vec![1; MIB - 0x2fff];
        assert_eq!(
            try_load(&kernel, &disk, ""),
            LoadError::Other(Obstacle::NoRoomForInitrd(disk.len() as u64))
        );
        let long = "x".repeat(2048);
        assert_eq!(try_load(&kernel, &[], &long), LoadError::LongCmdline(2048, 2047));
        let holes = ram(&[(0x10_0000, 32 * MIB)]);
        assert_eq!(
            load(&holes, &kernel, &[], "", &machine),
            Err(LoadError::Other(Obstacle::NoLowRam))
        );
    }
}
