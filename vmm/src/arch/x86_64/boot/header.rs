//! The header of a Linux kernel image (bzImage).
use core::fmt;

/// Where the header starts, in the file and in the zero page.
pub const OFFSET: usize = 0x1f1;
/// Sector size of the header's counts.
const SECTOR: usize = 512;
/// Oldest protocol with `xloadflags`: 2.12, Linux 3.8.
const OLDEST: u16 = 0x020c;
/// `loadflags`: the protected-mode code belongs at 1 MiB or above.
const LOADED_HIGH: u8 = 1 << 0;
/// `xloadflags`: has the 64-bit entry point.
const KERNEL_64: u16 = 1 << 0;

/// What is needed of a kernel image's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelHeader {
    /// The header's bytes, from [`OFFSET`].
    pub raw: [u8; RAW],
    /// Length of `raw` that the image defines.
    pub raw_length: usize,
    /// Offset in the file of the protected-mode code, which reaches to the end.
    pub code_offset: usize,
    /// Where it prefers to be.
    pub preferred_address: u64,
    /// Bytes that it needs there until it has set up its memory.
    pub init_size: u64,
    /// Whether it can run elsewhere.
    pub relocatable: bool,
    /// Alignment that it needs there.
    pub alignment: u64,
    /// Last address that the RAM disk may occupy.
    pub initrd_max: u64,
    /// Longest command line without its end.
    pub cmdline_max: usize,
}

/// Most bytes of a header: it ends before 0x290, where the zero page has other things.
pub const RAW: usize = 0x290 - OFFSET;

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// Fewer bytes than a header.
    Short(usize),
    /// The header's signature is not there.
    NotLinux,
    /// An older protocol than 2.12.
    OldProtocol(u16),
    /// No 64-bit entry point.
    No64Bit,
    /// The header says that the file has this many bytes at least, but it has only so many.
    Truncated(u64, usize),
    /// A field of the header contradicts itself or the rest.
    Invalid(&'static str),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::Short(size) => {
                write!(f, "the kernel file has {size} bytes, too few for a Linux kernel")
            }
            KernelError::NotLinux => f.write_str(
                "the kernel file is no Linux kernel image (bzImage): it lacks the signature HdrS",
            ),
            KernelError::OldProtocol(version) => write!(
                f,
                "the kernel's boot protocol is {}.{}; 2.12 (Linux 3.8) or newer is needed",
                version >> 8,
                version & 0xff
            ),
            KernelError::No64Bit => {
                f.write_str("the kernel has no 64-bit entry: it is not an x86-64 kernel")
            }
            KernelError::Truncated(need, have) => write!(
                f,
                "the kernel file is truncated: its header speaks of {need} bytes, it has {have}"
            ),
            KernelError::Invalid(what) => write!(f, "the kernel's header is invalid: {what}"),
        }
    }
}

fn number<const N: usize>(file: &[u8], at: usize) -> Result<[u8; N], KernelError> {
    file.get(at..at + N)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(KernelError::Short(file.len()))
}

impl KernelHeader {
    /// Reads and checks the header of an image.
    pub fn parse(file: &[u8]) -> Result<KernelHeader, KernelError> {
        let u8_at = |at| number::<1>(file, at).map(u8::from_le_bytes);
        let u16_at = |at| number(file, at).map(u16::from_le_bytes);
        let u32_at = |at| number(file, at).map(u32::from_le_bytes);
        let u64_at = |at| number(file, at).map(u64::from_le_bytes);
        if file.len() < 0x206 {
            return Err(KernelError::Short(file.len()));
        }
        if number(file, 0x202)? != *b"HdrS" || u16_at(0x1fe)? != 0xaa55 {
            return Err(KernelError::NotLinux);
        }
        let version = u16_at(0x206)?;
        if version < OLDEST {
            return Err(KernelError::OldProtocol(version));
        }
        if u16_at(0x236)? & KERNEL_64 == 0 {
            return Err(KernelError::No64Bit);
        }
        if u8_at(0x211)? & LOADED_HIGH == 0 {
            return Err(KernelError::Invalid("its code belongs below 1 MiB"));
        }
        let sectors = match u8_at(OFFSET)? {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let code_offset = (sectors + 1) * SECTOR;
        let code_size = u64::from(u32_at(0x1f4)?) * 16;
        let need = code_offset as u64 + code_size;
        // The count is in units of 16 bytes, rounded up.
        if code_size < 0x400 || (file.len() as u64) + 15 < need {
            return Err(KernelError::Truncated(need, file.len()));
        }
        let alignment = u64::from(u32_at(0x230)?);
        if !alignment.is_power_of_two() || alignment > 1 << 30 {
            return Err(KernelError::Invalid("its alignment is no power of two up to 1 GiB"));
        }
        let (preferred_address, init_size) = (u64_at(0x258)?, u64::from(u32_at(0x260)?));
        if init_size < file.len() as u64 - code_offset as u64 {
            return Err(KernelError::Invalid("it needs less memory than it has bytes"));
        }
        // The header ends where the jump at 0x200 leads.
        let end = (0x202 + usize::from(u8_at(0x201)?)).clamp(0x264, OFFSET + RAW);
        let mut raw = [0; RAW];
        let raw_length = end - OFFSET;
        let bytes = file.get(OFFSET..end).ok_or(KernelError::Short(file.len()))?;
        raw[..raw_length].copy_from_slice(bytes);
        Ok(KernelHeader {
            raw,
            raw_length,
            code_offset,
            preferred_address,
            init_size,
            relocatable: u8_at(0x234)? != 0,
            alignment,
            initrd_max: u64::from(u32_at(0x22c)?),
            cmdline_max: u32_at(0x238)? as usize,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An image of `code` bytes that claims to be a kernel.
    pub fn image(code: usize) -> Vec<u8> {
        let mut file = vec![0u8; 0x400 + code];
        let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
        put(OFFSET, &[1]);
        put(0x1f4, &(code as u32 / 16).to_le_bytes());
        put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(0x202, b"HdrS\x0f\x02");
        put(0x211, &[LOADED_HIGH]);
        put(0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(0x230, &0x20_0000u32.to_le_bytes());
        put(0x234, &[1]);
        put(0x236, &[KERNEL_64 as u8]);
        put(0x238, &2047u32.to_le_bytes());
        put(0x258, &0x100_0000u64.to_le_bytes());
        put(0x260, &(code as u32 + 0x1000).to_le_bytes());
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_kernel_and_says_what_is_wrong_with_others() {
        let file = testing::image(0x1000);
        let header = KernelHeader::parse(&file).unwrap();
        assert_eq!(header.code_offset, 0x400);
        assert_eq!(header.raw_length, 0x26c - OFFSET);
        assert_eq!((header.preferred_address, header.init_size), (0x100_0000, 0x2000));

        let parse = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            KernelHeader::parse(&file).unwrap_err()
        };
        assert_eq!(parse(0x202, b"ELF!"), KernelError::NotLinux);
        assert_eq!(parse(0x206, &[0x0b, 2]), KernelError::OldProtocol(0x20b));
        assert_eq!(parse(0x236, &[0]), KernelError::No64Bit);
        assert_eq!(parse(OFFSET, &[64]), KernelError::Truncated(0x9200, 0x1400));
        assert!(matches!(parse(0x230, &[0; 4]), KernelError::Invalid(_)));
        assert!(matches!(parse(0x260, &[0; 4]), KernelError::Invalid(_)));
        for size in 0..0x1400 - 16 {
            assert!(KernelHeader::parse(&file[..size]).is_err(), "{size}");
        }
    }
}
