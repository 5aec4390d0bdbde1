//! A bootable ISO with GRUB, for Bochs and PCs.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Image;
use crate::{child, progress};

/// How GRUB boots a kernel: the commands, and the module with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Multiboot2, the bundle as its only module.
    Multiboot2,
    /// Linux's own, the bundle as its initial RAM disk.
    Linux,
}

impl Protocol {
    /// That of a kernel. Linux has a mark in its header (Documentation/arch/x86/boot.rst), by which QEMU tells it too.
    fn of(kernel: &Path) -> Result<Protocol> {
        const PLACE: u64 = 0x202;
        let mut mark = [0; 4];
        File::open(kernel)
            .and_then(|file| file.read_exact_at(&mut mark, PLACE))
            .with_context(|| format!("{} cannot be read", kernel.display()))?;
        Ok(match &mark {
            b"HdrS" => Protocol::Linux,
            _ => Protocol::Multiboot2,
        })
    }

    /// GRUB's configuration: no menu.
    fn grub_config(self, options: &str) -> String {
        let (kernel, bundle) = match self {
            Protocol::Multiboot2 => ("multiboot2", "module2 --nounzip /boot/bundle bundle"),
            Protocol::Linux => ("linux", "initrd /boot/bundle"),
        };
        format!(
            "set timeout=0\nset default=0\nterminal_output console\n\
             menuentry bulkhead {{\n\
             \t{kernel} /boot/bulkhead {options}\n\
             \t{bundle}\n\
             \tboot\n}}\n"
        )
    }

    /// The module with these commands.
    fn grub_module(self) -> &'static str {
        match self {
            Protocol::Multiboot2 => "multiboot2",
            Protocol::Linux => "linux",
        }
    }
}

/// Writes the ISO of an image, with these options of the hypervisor, to `iso`.
pub fn make(image: &Image, options: &str, iso: &Path) -> Result<()> {
    let what = "Making the ISO";
    let step = progress::step(what);
    let dir = super::scratch()?;
    let boot = dir.path().join("boot");
    std::fs::create_dir_all(boot.join("grub"))?;
    let protocol = Protocol::of(&image.kernel)?;
    std::fs::write(boot.join("grub/grub.cfg"), protocol.grub_config(options))?;
    for (from, to) in [(&image.kernel, "bulkhead"), (&image.bundle, "bundle")] {
        // A link saves the copy where both are on one file system.
        let to = boot.join(to);
        if std::fs::hard_link(from, &to).is_err() {
            std::fs::copy(from, &to)
                .with_context(|| format!("{} cannot be copied", from.display()))?;
        }
    }
    let mut command = Command::new("grub-mkrescue");
    command.args(["-d", "/usr/lib/grub/i386-pc", "--locales=", "--fonts=", "--themes="]);
    command.arg(format!(
        "--install-modules=normal iso9660 {} biosdisk part_msdos boot echo",
        protocol.grub_module()
    ));
    command.arg("-o").arg(iso).arg(dir.path());
    child::run(&mut command, Some((&step, what))).context("the ISO cannot be made").map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_told_from_other_kernels() {
        let dir = tempfile::tempdir().unwrap();
        let protocol = |mark: &[u8]| {
            let mut bytes = vec![0; 0x400];
            bytes[0x202..][..mark.len()].copy_from_slice(mark);
            let file = dir.path().join("kernel");
            std::fs::write(&file, bytes).unwrap();
            Protocol::of(&file).unwrap()
        };
        assert_eq!(protocol(b"HdrS"), Protocol::Linux);
        assert_eq!(protocol(b"Hdr2"), Protocol::Multiboot2);
        let config = Protocol::Linux.grub_config("quiet");
        assert!(config.contains("\tlinux /boot/bulkhead quiet\n"), "{config}");
    }
}
