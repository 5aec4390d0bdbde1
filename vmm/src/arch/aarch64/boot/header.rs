//! The header of a Linux kernel image (arm64 `Image`).
use core::fmt;

/// Bytes of the header.
pub const SIZE: usize = 64;
/// The header's signature, at 56.
const MAGIC: [u8; 4] = *b"ARM\x64";
/// `flags`: the kernel is big-endian.
const BIG_ENDIAN: u64 = 1 << 0;
/// Bases of kernels are multiples of this.
pub const ALIGNMENT: u64 = 2 << 20;

/// What is needed of a kernel image's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHeader {
    /// Distance of the image from a base that is a multiple of [`ALIGNMENT`].
    pub text_offset: u64,
    /// Bytes that the kernel needs from its first one on; at least those of the file.
    pub image_size: u64,
}

/// Why a file is no kernel that can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelError {
    /// Fewer bytes than a header.
    Short(usize),
    /// The file is compressed.
    Compressed(&'static str),
    /// The header's signature is not there.
    NotLinux,
    /// Older than Linux 3.17: the header does not say how much memory it needs.
    Old,
    /// It is big-endian.
    BigEndian,
    /// A field of the header contradicts itself or the rest.
    Invalid(&'static str),
}

impl fmt::Display for KernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KernelError::Short(size) => {
                write!(
                    f,
                    "the kernel file has {size} bytes, too few for a Linux kernel"
                )
            }
            KernelError::Compressed(how) => write!(
                f,
                "the kernel file is compressed ({how}): unpack it, the uncompressed arm64 Image is needed"
            ),
            KernelError::NotLinux => f.write_str(
                "the kernel file is no Linux kernel image for arm64 (Image): it lacks the signature ARMd",
            ),
            KernelError::Old => {
                f.write_str("the kernel does not say its size; Linux 3.17 or newer is needed")
            }
            KernelError::BigEndian => f.write_str("the kernel is big-endian"),
            KernelError::Invalid(what) => write!(f, "the kernel's header is invalid: {what}"),
        }
    }
}

impl KernelHeader {
    /// Reads and checks the header of an image.
    pub fn parse(file: &[u8]) -> Result<KernelHeader, KernelError> {
        if file.starts_with(&[0x1f, 0x8b]) {
            return Err(KernelError::Compressed("gzip"));
        }
        let header = file.first_chunk::<SIZE>().ok_or(KernelError::Short(file.len()))?;
        if header[4..8] == *b"zimg" {
            return Err(KernelError::Compressed("EFI zboot"));
        }
        if header[56..60] != MAGIC {
            return Err(KernelError::NotLinux);
        }
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        let (text_offset, image_size, flags) = (number(8), number(16), number(24));
        if image_size == 0 {
            return Err(KernelError::Old);
        }
        if flags & BIG_ENDIAN != 0 {
            return Err(KernelError::BigEndian);
        }
        if text_offset >= ALIGNMENT || text_offset % abi::PAGE_SIZE as u64 != 0 {
            return Err(KernelError::Invalid(
                "its text offset is no multiple of a page below 2 MiB",
            ));
        }
        if image_size < file.len() as u64 {
            return Err(KernelError::Invalid("it needs less memory than it has bytes"));
        }
        if image_size > 1 << 40 {
            return Err(KernelError::Invalid("it needs more than 1 TiB of memory"));
        }
        Ok(KernelHeader { text_offset, image_size })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// An image of `size` bytes that claims to be a kernel.
    pub fn image(size: usize) -> Vec<u8> {
        let mut file = vec![0u8; size.max(SIZE)];
        file[16..24].copy_from_slice(&(size as u64 + 0x1000).to_le_bytes());
        file[24] = 0b1010;
        file[56..60].copy_from_slice(&MAGIC);
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_kernel_and_says_what_is_wrong_with_others() {
        let file = testing::image(0x1000);
        assert_eq!(
            KernelHeader::parse(&file),
            Ok(KernelHeader { text_offset: 0, image_size: 0x2000 })
        );
        let parse = |at: usize, bytes: &[u8]| {
            let mut file = file.clone();
            file[at..at + bytes.len()].copy_from_slice(bytes);
            KernelHeader::parse(&file).unwrap_err()
        };
        assert_eq!(parse(56, b"ELF!"), KernelError::NotLinux);
        assert_eq!(parse(0, &[0x1f, 0x8b]), KernelError::Compressed("gzip"));
        assert_eq!(parse(4, b"zimg"), KernelError::Compressed("EFI zboot"));
        assert_eq!(parse(16, &[0; 8]), KernelError::Old);
        assert_eq!(parse(24, &[1]), KernelError::BigEndian);
        assert!(matches!(parse(8, &[1]), KernelError::Invalid(_)));
        assert!(matches!(parse(16, &[255; 8]), KernelError::Invalid(_)));
        assert!(matches!(parse(16, &0xfffu64.to_le_bytes()), KernelError::Invalid(_)));
        for size in 0..SIZE {
            assert!(KernelHeader::parse(&file[..size]).is_err(), "{size}");
        }
    }
}
