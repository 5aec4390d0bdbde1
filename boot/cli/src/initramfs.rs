//! Packs initial RAM disks, of which the default one has busybox and the files of `guest-linux-shim`.
//!
//! They are not compressed: unpacking would take the guest longer than reading. The same input gives the
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

/// An initial RAM disk that is being made. Folders have to be added before what is in them.
#[derive(Debug, Default)]
pub struct Archive {
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

    /// Adds a folder.
    pub fn folder(&mut self, path: &str) -> Result<()> {
        self.add(path, FOLDER, &[], None)
    }

    /// Adds a file that can be executed.
    pub fn program(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.add(path, PROGRAM, content, None)
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.add(path, FILE, content, None)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, LINK, target.as_bytes(), None)
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        self.add(path, DEVICE, &[], Some((major, minor)))
    }

    /// All of it.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(trailer(self.bytes)?)
    }
}

/// Packs the default initial RAM disk around this busybox.
pub fn pack(busybox: &[u8]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for (path, entry) in ENTRIES {
        match *entry {
            Entry::Folder => archive.folder(path)?,
            Entry::Text(text, true) => archive.program(path, text.as_bytes())?,
            Entry::Text(text, false) => archive.file(path, text.as_bytes())?,
            Entry::Link(target) => archive.link(path, target)?,
            Entry::Device(major, minor) => archive.device(path, major, minor)?,
        }
    }
    archive.program(BUSYBOX, busybox)?;
    for applet in APPLETS.split_ascii_whitespace() {
        archive.link(&format!("bin/{applet}"), "busybox")?;
    }
    archive.finish()
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
