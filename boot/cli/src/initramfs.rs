//! Packs the default initial RAM disk: busybox and the files of `guest-linux-shim`.
//!
//! It is not compressed: unpacking would take the guest longer than reading. The same input gives the
//! same bytes.

use std::io::Write;

use anyhow::Result;
use cpio::newc::{Builder, trailer};
use guest_linux_shim::initramfs::{APPLETS, BUSYBOX, ENTRIES, Entry};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
const DEVICE: u32 = 0o020_600;

struct Archive {
    bytes: Vec<u8>,
    count: u32,
}

impl Archive {
    fn add(
        &mut self,
        name: &str,
        mode: u32,
        content: &[u8],
        device: Option<(u32, u32)>,
    ) -> Result<()> {
        self.count += 1;
        let (major, minor) = device.unwrap_or_default();
        let links = if mode == FOLDER { 2 } else { 1 };
        let entry = Builder::new(name)
            .ino(self.count)
            .nlink(links)
            .mode(mode)
            .rdev_major(major)
            .rdev_minor(minor);
        let mut writer = entry.write(std::mem::take(&mut self.bytes), content.len() as u32);
        writer.write_all(content)?;
        self.bytes = writer.finish()?;
        Ok(())
    }
}

/// Packs the initial RAM disk around this busybox.
pub fn pack(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive {
        bytes: Vec::new(),
        count: 0,
    };
    for (path, entry) in ENTRIES {
        match *entry {
            Entry::Folder => archive.add(path, FOLDER, &[], None)?,
            Entry::Text(text, executable) => {
                archive.add(
                    path,
                    if executable { PROGRAM } else { FILE },
                    text.as_bytes(),
                    None,
                )?;
            }
            Entry::Link(target) => archive.add(path, LINK, target.as_bytes(), None)?,
            Entry::Device(major, minor) => archive.add(path, DEVICE, &[], Some((major, minor)))?,
        }
    }
    archive.add(BUSYBOX, PROGRAM, busybox, None)?;
    for applet in APPLETS.split_ascii_whitespace() {
        archive.add(&format!("bin/{applet}"), LINK, b"busybox", None)?;
    }
    Ok(trailer(archive.bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_would_take_it() {
        let bytes = pack(&[7; 12345]).unwrap();
        configs::guest_file::check_initrd(&bytes, None, 64 << 20).unwrap();
        assert_eq!(bytes, pack(&[7; 12345]).unwrap());
        assert_eq!(bytes.len() % 4, 0);
    }
}
