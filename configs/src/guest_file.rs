//! Guest kernels and initial RAM disks: whether a file is one that can boot in a guest of a given size.

use std::fmt;

use crate::{Architecture, size};

/// What the checks learn about a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Guest RAM in bytes, from its start, that it needs while it unpacks itself and clears its data.
    pub needs: u64,
}

/// Why a guest file is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The cause.
    pub message: String,
    /// The remedy.
    pub help: &'static str,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for FileError {}

fn error<T>(message: impl Into<String>, help: &'static str) -> Result<T, FileError> {
    Err(FileError { message: message.into(), help })
}

const USE_BZIMAGE: &str = "give a 64-bit x86 bzImage, as distributions install it: /boot/vmlinuz-*";
const USE_IMAGE: &str =
    "give an uncompressed arm64 Image, as distributions install it: /boot/vmlinuz-*";
const COMPLETE: &str = "get a complete copy of the file";
const MORE_MEMORY: &str = "give the VM more memory";

/// Oldest boot protocol with the flags that a 64-bit entry needs: 2.12.
const PROTOCOL: u16 = 0x20c;
/// `xloadflags`: there is a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1;

/// The little-endian number of `size` bytes at `offset`; what lies beyond the end is zero.
fn number(bytes: &[u8], offset: usize, size: usize) -> u64 {
    let raw = bytes.get(offset..).unwrap_or_default();
    let raw = raw.iter().take(size).rev();
    raw.fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// The magic number of an arm64 `Image`.
fn is_arm64(bytes: &[u8]) -> bool {
    bytes.get(0x38..0x3c) == Some(b"ARM\x64")
}

/// The magic number of an x86 kernel.
fn is_x86(bytes: &[u8]) -> bool {
    bytes.get(0x202..0x206) == Some(b"HdrS")
}

/// Checks that `bytes` is a complete kernel that boots on `architecture` and fits into a guest with `memory`
/// bytes of RAM.
pub fn check_kernel(
    architecture: Architecture,
    bytes: &[u8],
    memory: u64,
) -> Result<Kernel, FileError> {
    let (help, is_other, other) = match architecture {
        Architecture::X86_64 => (USE_BZIMAGE, is_arm64(bytes), Architecture::Arm64),
        Architecture::Arm64 => (USE_IMAGE, is_x86(bytes), Architecture::X86_64),
    };
    if bytes.is_empty() {
        return error("the kernel is empty", help);
    }
    if is_other {
        return error(
            format!("this is a kernel for {other}, and the machine is {architecture}"),
            help,
        );
    }
    if bytes.starts_with(b"\x7fELF") {
        return error("this is an ELF file (vmlinux?), not a bootable kernel", help);
    }
    let needs = match architecture {
        Architecture::X86_64 => bzimage_needs(bytes)?,
        Architecture::Arm64 => image_needs(bytes)?,
    };
    if needs > memory {
        return error(
            format!(
                "the kernel needs {} MiB of memory to start; the VM has {}",
                needs.div_ceil(1 << 20),
                size::show(memory)
            ),
            MORE_MEMORY,
        );
    }
    Ok(Kernel { needs })
}

/// The memory that a complete bzImage with a 64-bit entry needs (Linux's Documentation/arch/x86/boot.rst).
fn bzimage_needs(bytes: &[u8]) -> Result<u64, FileError> {
    let at = |offset, size| number(bytes, offset, size);
    if !is_x86(bytes) {
        let short = bytes.len() < 0x268;
        let why = if short {
            "too short for a kernel"
        } else {
            "no Linux kernel (no \"HdrS\" at offset 0x202)"
        };
        return error(format!("this is {why}"), USE_BZIMAGE);
    }
    if bytes.len() < 0x268 {
        return error("the kernel is truncated within its header", COMPLETE);
    }
    let protocol = at(0x206, 2) as u16;
    if protocol < PROTOCOL {
        let (major, minor) = (protocol >> 8, protocol & 0xff);
        return error(
            format!("this kernel speaks boot protocol {major}.{minor:02}; 2.12 or newer is needed"),
            "use Linux 3.8 or newer",
        );
    }
    if at(0x236, 2) as u16 & XLF_KERNEL_64 == 0 {
        return error("this is a 32-bit kernel: it has no 64-bit entry point", USE_BZIMAGE);
    }
    let setup_sectors = match at(0x1f1, 1) {
        0 => 4,
        n => n,
    };
    let size = (setup_sectors + 1) * 512 + at(0x1f4, 4) * 16;
    if (bytes.len() as u64) < size {
        return error(
            format!("the kernel is truncated: it has {} bytes of {size}", bytes.len()),
            COMPLETE,
        );
    }
    // Load address and the space from there that the kernel needs before it knows its memory map.
    let needs = at(0x258, 8).max(1 << 20).saturating_add(at(0x260, 4)).max(size);
    Ok(needs)
}

/// Where a kernel goes in the guest's RAM: a multiple of this, and the header's offset.
const ARM64_ALIGNMENT: u64 = 2 << 20;
/// A flag of the header: the kernel is big-endian.
const ARM64_BIG_ENDIAN: u64 = 1;

/// The memory that a complete arm64 `Image` needs (Linux's Documentation/arch/arm64/booting.rst).
fn image_needs(bytes: &[u8]) -> Result<u64, FileError> {
    let at = |offset, size| number(bytes, offset, size);
    let compressed = bytes.starts_with(b"\x1f\x8b") || bytes.get(4..8) == Some(b"zimg");
    if compressed {
        return error("this kernel is compressed", USE_IMAGE);
    }
    if !is_arm64(bytes) {
        let short = bytes.len() < 64;
        let why = if short {
            "too short for a kernel"
        } else {
            "no Linux kernel (no \"ARM\\x64\" at offset 0x38)"
        };
        return error(format!("this is {why}"), USE_IMAGE);
    }
    if at(24, 8) & ARM64_BIG_ENDIAN != 0 {
        return error("this is a big-endian kernel", "give a little-endian one");
    }
    let (offset, size) = (at(8, 8), at(16, 8));
    if size == 0 {
        return error(
            "the kernel does not say how much memory it needs",
            "use Linux 3.17 or newer",
        );
    }
    let file = bytes.len() as u64;
    let complete = sections_end(bytes).unwrap_or(64);
    if file < complete {
        return error(
            format!("the kernel is truncated: it has {file} bytes of {complete}"),
            COMPLETE,
        );
    }
    if file > size {
        return error(
            format!("the kernel is damaged: it has {file} bytes and says that it takes {size}"),
            COMPLETE,
        );
    }
    Ok(offset.saturating_add(size).saturating_add(ARM64_ALIGNMENT))
}

/// The end of the last section of a kernel that is a UEFI program too, as far as it goes; `None` if it is not.
/// The header for other loaders does not tell how long the file is.
fn sections_end(bytes: &[u8]) -> Option<u64> {
    let at = |offset, size| number(bytes, offset, size);
    let header = at(0x3c, 4) as usize;
    bytes.starts_with(b"MZ").then_some(())?;
    match bytes.get(header..header + 24) {
        None => return Some(header as u64 + 24),
        Some(fields) => fields.starts_with(b"PE\0\0").then_some(())?,
    }
    let count = at(header + 6, 2) as usize;
    let table = header + 24 + at(header + 20, 2) as usize;
    let sections = (0..count).map(|number| table + number * 40);
    let ends = sections.map(|section| at(section + 16, 4) + at(section + 20, 4));
    ends.chain([(table + count * 40) as u64]).max()
}

/// First bytes of the formats that Linux unpacks as an initial RAM disk.
const INITRD_MAGIC: [&[u8]; 9] = [
    b"070701",
    b"070702",
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd",
    b"\x02\x21\x4c\x18",
    b"BZh",
    b"\x5d\0\0",
    b"\x89LZO",
];

/// Checks that `bytes` is an initial RAM disk in a format that Linux knows, that it is complete as far
/// as its format tells without unpacking it, and that it fits into `memory` bytes of guest RAM beside
/// a kernel that needs `kernel`.
pub fn check_initrd(bytes: &[u8], kernel: Option<Kernel>, memory: u64) -> Result<(), FileError> {
    const HELP: &str = "give a cpio archive (newc), plain or compressed, as mkinitramfs makes it";
    if bytes.is_empty() {
        return error("the initial RAM disk is empty", HELP);
    }
    if !INITRD_MAGIC.iter().any(|magic| bytes.starts_with(magic)) {
        return error(
            "this is no initial RAM disk: neither a cpio archive nor a compressed one",
            HELP,
        );
    }
    if bytes.starts_with(b"07070") && !cpio_is_complete(bytes) {
        return error("the cpio archive is damaged or truncated", COMPLETE);
    }
    // Unpacked, it takes at least its own size once more.
    let needs = kernel.map_or(16 << 20, |k| k.needs) + bytes.len() as u64 * 2;
    if needs > memory {
        return error(
            format!(
                "kernel and initial RAM disk need at least {} MiB; the VM has {}",
                needs.div_ceil(1 << 20),
                size::show(memory)
            ),
            MORE_MEMORY,
        );
    }
    Ok(())
}

/// Whether a newc archive goes on until its trailer. What follows the trailer is another archive's.
fn cpio_is_complete(bytes: &[u8]) -> bool {
    const HEADER: usize = 110;
    let mut at = 0usize;
    loop {
        let Some(header) = bytes.get(at..at + HEADER) else {
            return false;
        };
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return false;
        }
        let field = |n: usize| {
            let text = std::str::from_utf8(&header[6 + n * 8..14 + n * 8]).ok()?;
            usize::from_str_radix(text, 16).ok()
        };
        let (Some(size), Some(name_size)) = (field(6), field(11)) else {
            return false;
        };
        let data = (at + HEADER + name_size).next_multiple_of(4);
        let end = (data + size).next_multiple_of(4);
        let Some(name) = bytes.get(at + HEADER..at + HEADER + name_size) else {
            return false;
        };
        if name == b"TRAILER!!!\0" {
            return true;
        }
        at = end;
    }
}

#[cfg(test)]
mod tests;
