//! The hypervisor as an arm64 boot `Image`: what QEMU, U-Boot and UEFI loaders put into memory as it is
//! (Linux's Documentation/arch/arm64/booting.rst).

use elf::abi::{EM_AARCH64, PT_LOAD};

use super::program::{MAX_SIZE, ProgramError, executable};

/// Size of the header that the linker script puts first.
const HEADER: usize = 64;
/// Offset of the header's size of the image in memory.
const IMAGE_SIZE: usize = 16;
/// Offset of the header's magic number, and the number.
const MAGIC: (usize, &[u8; 4]) = (56, b"ARM\x64");

/// Why an ELF file makes no `Image`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// It is no executable.
    Program(ProgramError),
    /// It is for another architecture.
    Architecture,
    /// It has nothing to load.
    Empty,
    /// The segment at this physical address overlaps the one before it, or is too far from it or too large.
    Segment(u64),
    /// Its first segment does not start with the header.
    NoHeader,
    /// The header gives the image this size in memory, which takes more: the second.
    Size(u64, u64),
}

impl core::fmt::Display for ImageError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            ImageError::Program(e) => e.fmt(f),
            ImageError::Architecture => f.write_str("it is not for arm64"),
            ImageError::Empty => f.write_str("it has no segment to load"),
            ImageError::Segment(at) => write!(
                f,
                "the segment at physical address {at:#x} overlaps another, is too far from it or too large"
            ),
            ImageError::NoHeader => f.write_str("it does not start with an arm64 Image header"),
            ImageError::Size(says, takes) => {
                write!(f, "its header says {says:#x} bytes of memory and it takes {takes:#x}")
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// Flattens a linked kernel by physical address. What lies between segments is zero; zero-initialised data at
/// the end is not in the file, for the header says how much memory the image takes.
pub fn arm64_image(bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let (file, headers) = executable(bytes).map_err(ImageError::Program)?;
    if file.ehdr.e_machine != EM_AARCH64 {
        return Err(ImageError::Architecture);
    }
    let mut segments: Vec<_> =
        headers.iter().filter(|header| header.p_type == PT_LOAD && header.p_memsz != 0).collect();
    segments.sort_by_key(|header| header.p_paddr);
    let start = segments.first().ok_or(ImageError::Empty)?.p_paddr;
    let (mut image, mut taken) = (Vec::new(), 0);
    for header in segments {
        let bad = ImageError::Segment(header.p_paddr);
        let at = header.p_paddr - start;
        let end = at.checked_add(header.p_memsz).filter(|end| *end <= MAX_SIZE);
        let Some(end) = end.filter(|_| at >= taken && header.p_filesz <= header.p_memsz) else {
            return Err(bad);
        };
        let data = file
            .segment_data(&header)
            .map_err(|e| ImageError::Program(ProgramError::NotElf(e.to_string())))?;
        if !data.is_empty() {
            image.resize(at as usize, 0);
            image.extend_from_slice(data);
        }
        taken = end;
    }
    if image.len() < HEADER || &image[MAGIC.0..][..4] != MAGIC.1 {
        return Err(ImageError::NoHeader);
    }
    let mut says = [0; 8];
    says.copy_from_slice(&image[IMAGE_SIZE..][..8]);
    let says = u64::from_le_bytes(says);
    // A loader may put the bundle right behind it.
    if says < taken {
        return Err(ImageError::Size(says, taken));
    }
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Physical address, contents, size in memory.
    type Piece<'a> = (u64, &'a [u8], u64);

    const BASE: u64 = 0x4020_0000;

    fn elf(machine: u16, pieces: &[Piece<'_>]) -> Vec<u8> {
        let table = 64 + 56 * pieces.len();
        let mut out = b"\x7fELF\x02\x01\x01".to_vec();
        out.resize(16, 0);
        out.extend([2u16, machine].map(u16::to_le_bytes).concat());
        out.extend(1u32.to_le_bytes());
        out.extend([BASE, 64, 0].map(u64::to_le_bytes).concat());
        out.extend(0u32.to_le_bytes());
        let counts = [64, 56, pieces.len() as u16, 64, 0, 0];
        out.extend(counts.map(u16::to_le_bytes).concat());
        let mut offset = table as u64;
        for (address, data, size) in pieces {
            let data = data.len() as u64;
            out.extend([PT_LOAD, 5].map(u32::to_le_bytes).concat());
            // Virtual addresses descend: they must not matter.
            let words = [offset, !address & !0xfff, *address, data, *size, 4096];
            out.extend(words.map(u64::to_le_bytes).concat());
            offset += data;
        }
        assert_eq!(out.len(), table);
        pieces.iter().for_each(|(_, data, _)| out.extend_from_slice(data));
        out
    }

    fn header(size: u64) -> Vec<u8> {
        let mut header = vec![0x11; HEADER];
        header[IMAGE_SIZE..][..8].copy_from_slice(&size.to_le_bytes());
        header[MAGIC.0..][..4].copy_from_slice(MAGIC.1);
        header
    }

    #[test]
    fn segments_lie_where_their_physical_addresses_say() {
        let head = header(0x4000);
        // Out of order, with a hole, and zero-initialised data in two places.
        let pieces: &[Piece<'_>] = &[
            (BASE + 0x2000, &[3; 5], 0x2000),
            (BASE, &head, 64),
            (BASE + 0x1000, &[2; 16], 0x20),
            (BASE + 0x1800, &[], 0x10),
        ];
        let image = arm64_image(&elf(EM_AARCH64, pieces)).unwrap();
        let mut expected = head.clone();
        expected.resize(0x1000, 0);
        expected.extend([2; 16]);
        expected.resize(0x2000, 0);
        expected.extend([3; 5]);
        assert_eq!(image, expected);
    }

    #[test]
    fn what_makes_no_image_is_refused() {
        let head = header(0x1000);
        let why = |pieces: &[Piece<'_>]| arm64_image(&elf(EM_AARCH64, pieces)).unwrap_err();
        let first: Piece<'_> = (BASE, &head, 64);
        assert_eq!(why(&[first, (BASE + 32, &[1], 1)]), ImageError::Segment(BASE + 32));
        assert_eq!(why(&[first, (BASE + 0x100, &[1; 9], 8)]), ImageError::Segment(BASE + 0x100));
        let far = BASE + MAX_SIZE;
        assert_eq!(why(&[first, (far, &[1], 1)]), ImageError::Segment(far));
        assert_eq!(why(&[first, (u64::MAX, &[], u64::MAX)]), ImageError::Segment(u64::MAX));
        assert_eq!(why(&[first, (BASE + 0x1000, &[], 1)]), ImageError::Size(0x1000, 0x1001));
        assert_eq!(why(&[(BASE, &[0; 64], 64)]), ImageError::NoHeader);
        assert_eq!(why(&[(BASE, &head[..63], 64)]), ImageError::NoHeader);
        assert_eq!(why(&[]), ImageError::Empty);
        let other = arm64_image(&elf(elf::abi::EM_X86_64, &[first]));
        assert_eq!(other, Err(ImageError::Architecture));
        let cut = elf(EM_AARCH64, &[first]);
        let cut = arm64_image(&cut[..cut.len() - 1]);
        assert!(matches!(cut, Err(ImageError::Program(ProgramError::NotElf(_)))), "{cut:?}");
    }
}
