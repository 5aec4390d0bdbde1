//! Places kernel, RAM disk and device tree in guest RAM.
use super::header::{ALIGNMENT, KernelError, KernelHeader};
use crate::arch::aarch64::device_tree::{self, Machine, Tree};
use crate::arch::aarch64::layout;
use crate::load;
use crate::memory::{GuestPhys, GuestRam, NotRam};
use core::fmt;
use core::ops::Range;

/// Most bytes of a device tree, and the space that is kept for it.
const TREE_SIZE: u64 = 2 << 20;
/// Longest command line without its end (Linux: `COMMAND_LINE_SIZE` of arm64).
const CMDLINE_MAX: usize = 2047;
/// A kernel finds its RAM disk in the same window of this size.
const WINDOW: u64 = 32 << 30;

/// How the first vCPU starts: EL1h, MMU off, interrupts masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Program counter.
    pub entry: u64,
    /// Address of the device tree, for `x0`.
    pub device_tree: u64,
    /// Size of the device tree in bytes.
    pub device_tree_size: u64,
    /// Where the RAM disk is; empty without one.
    pub initrd: (u64, u64),
    /// Bytes of the kernel file.
    pub kernel_size: u64,
}

impl Start {
    /// Address and size of what was written to the guest's RAM.
    pub fn written(&self) -> [(u64, u64); 3] {
        [(self.entry, self.kernel_size), (self.device_tree, self.device_tree_size), self.initrd]
    }
}

/// Why a guest cannot be loaded.
pub type LoadError = load::LoadError<KernelError, Obstacle>;

/// What else keeps a guest from being loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// No place for the device tree and this many bytes of RAM disk.
    NoRoomForInitrd(u64),
    /// The command line has a zero in it.
    BrokenCmdline,
    /// RAM where devices are or where no RAM can be.
    MisplacedRam(u64),
    /// The device tree takes more bytes than there is place for, or cannot be made.
    DeviceTree,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NoRoomForInitrd(size) => write!(
                f,
                "the VM's RAM is too small: behind the kernel there are no {} MiB left for the device tree and the initial RAM disk",
                size.div_ceil(1 << 20) + (TREE_SIZE >> 20)
            ),
            Obstacle::BrokenCmdline => f.write_str("the command line has a zero byte in it"),
            Obstacle::MisplacedRam(at) => write!(
                f,
                "the VM has RAM at {at:#x}; it belongs between {:#x} and {:#x}",
                layout::RAM.start,
                layout::RAM.end
            ),
            Obstacle::DeviceTree => f.write_str("the device tree cannot be made"),
        }
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
    for range in ram.ranges() {
        if range.start < layout::RAM.start || range.end > layout::RAM.end {
            return Err(LoadError::Other(Obstacle::MisplacedRam(range.start)));
        }
    }
    if cmdline.len() > CMDLINE_MAX {
        return Err(LoadError::LongCmdline(cmdline.len(), CMDLINE_MAX));
    }
    if cmdline.contains('\0') {
        return Err(LoadError::Other(Obstacle::BrokenCmdline));
    }
    let header = KernelHeader::parse(kernel).map_err(LoadError::Kernel)?;
    let place = place(ram, &header, initrd.len() as u64)?;
    let tree = device_tree::build(Tree {
        machine,
        ram: ram.ranges(),
        cmdline,
        initrd: place.initrd.clone(),
    })
    .map_err(|_| LoadError::Other(Obstacle::DeviceTree))?;
    if tree.len() as u64 > TREE_SIZE {
        return Err(LoadError::Other(Obstacle::DeviceTree));
    }
    let no_room = |NotRam| LoadError::NoRoomForKernel(header.image_size);
    ram.write(GuestPhys(place.kernel), kernel).map_err(no_room)?;
    ram.write(GuestPhys(place.tree), &tree).map_err(no_room)?;
    ram.write(GuestPhys(place.initrd.start), initrd).map_err(no_room)?;
    Ok(Start {
        entry: place.kernel,
        device_tree: place.tree,
        device_tree_size: tree.len() as u64,
        initrd: (place.initrd.start, initrd.len() as u64),
        kernel_size: kernel.len() as u64,
    })
}

#[derive(Debug)]
struct Place {
    kernel: u64,
    tree: u64,
    initrd: Range<u64>,
}

/// Kernel as low as it may be, then the device tree, then the RAM disk: all in one range, which the kernel maps
/// whole.
fn place(ram: &GuestRam, header: &KernelHeader, initrd: u64) -> Result<Place, LoadError> {
    let mut error = LoadError::NoRoomForKernel(header.image_size);
    for range in ram.ranges() {
        // RAM ends below 2^39 and the sizes are below 2^40, or are those of files: no sum overflows.
        let kernel = range.start.next_multiple_of(ALIGNMENT) + header.text_offset;
        let kernel_end = kernel + header.image_size;
        if kernel_end > range.end {
            continue;
        }
        let tree = kernel_end.next_multiple_of(ALIGNMENT);
        let start = tree + TREE_SIZE;
        let end = start.saturating_add(initrd);
        let window = kernel & !((1 << 30) - 1);
        if end <= range.end && end - window <= WINDOW {
            return Ok(Place { kernel, tree, initrd: start..end });
        }
        error = LoadError::Other(Obstacle::NoRoomForInitrd(initrd));
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::super::header::testing::image;
    use super::*;
    use crate::arch::aarch64::gic::Version;
    use crate::memory::testing::ram;

    const MIB: usize = 1 << 20;
    const MACHINE: Machine = Machine { vcpus: 1, gic: Version::V3, serial: None };

    #[test]
    fn a_guest_is_where_its_start_says() {
        let ram = ram(&[(0x4000_0000, MIB), (0x5000_0000, 16 * MIB)]);
        let mut kernel = image(0x2000);
        kernel[0x1000] = 0x90;
        let start = load(&ram, &kernel, b"disk", "quiet", &MACHINE).unwrap();
        assert_eq!((start.entry, start.device_tree), (0x5000_0000, 0x5020_0000));
        assert_eq!(ram.read_u32(GuestPhys(start.entry + 0x1000)), Ok(0x90));
        assert_eq!(ram.read_u32(GuestPhys(start.device_tree)), Ok(0xd00d_feedu32.swap_bytes()));
        assert_eq!(ram.read_u32(GuestPhys(start.initrd.0)), Ok(u32::from_le_bytes(*b"disk")));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let small = ram(&[(0x4000_0000, 5 * MIB)]);
        let kernel = image(0x2000);
        let try_load = |kernel: &[u8], initrd: &[u8], cmdline: &str| {
            load(&small, kernel, initrd, cmdline, &MACHINE).map(|start| start.initrd)
        };
        let disk = vec![1; MIB + 1];
        assert_eq!(try_load(&kernel, &disk[1..], ""), Ok((0x4040_0000, MIB as u64)));
        assert_eq!(
            try_load(&kernel, &disk, ""),
            Err(LoadError::Other(Obstacle::NoRoomForInitrd(disk.len() as u64)))
        );
        let mut large = kernel.clone();
        large[16..24].copy_from_slice(&(6 * MIB as u64).to_le_bytes());
        assert_eq!(try_load(&large, &[], ""), Err(LoadError::NoRoomForKernel(6 * MIB as u64)));
        let long = "x".repeat(2048);
        assert_eq!(try_load(&kernel, &[], &long), Err(LoadError::LongCmdline(2048, 2047)));
        assert_eq!(try_load(&kernel, &[], "a\0b"), Err(LoadError::Other(Obstacle::BrokenCmdline)));
        assert_eq!(
            load(&ram(&[(0, 16 * MIB)]), &kernel, &[], "", &MACHINE),
            Err(LoadError::Other(Obstacle::MisplacedRam(0)))
        );
    }
}
