//! A bootable ISO with GRUB, for Bochs and PCs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Image;
use crate::{child, progress};

/// GRUB's configuration: no menu, the kernel by multiboot2, the bundle as its only module.
fn grub_config(options: &str) -> String {
    format!(
        "set timeout=0\nset default=0\nterminal_output console\n\
         menuentry bulkhead {{\n\
         \tmultiboot2 /boot/bulkhead {options}\n\
         \tmodule2 --nounzip /boot/bundle bundle\n\
         \tboot\n}}\n"
    )
}

/// Writes the ISO of an image, with these options of the hypervisor, to `iso`.
pub fn make(image: &Image, options: &str, iso: &Path) -> Result<()> {
    let what = "Making the ISO";
    let step = progress::step(what);
    let dir = super::scratch()?;
    let boot = dir.path().join("boot");
    std::fs::create_dir_all(boot.join("grub"))?;
    std::fs::write(boot.join("grub/grub.cfg"), grub_config(options))?;
    for (from, to) in [(&image.kernel, "bulkhead"), (&image.bundle, "bundle")] {
        // A link saves the copy where both are on one file system.
        let to = boot.join(to);
        if std::fs::hard_link(from, &to).is_err() {
            std::fs::copy(from, &to)
                .with_context(|| format!("{} cannot be copied", from.display()))?;
        }
    }
    let mut command = Command::new("grub-mkrescue");
    command.args([
        "-d",
        "/usr/lib/grub/i386-pc",
        "--locales=",
        "--fonts=",
        "--themes=",
    ]);
    command.arg("--install-modules=normal iso9660 multiboot2 biosdisk part_msdos boot echo");
    command.arg("-o").arg(iso).arg(dir.path());
    child::run(&mut command, Some((&step, what)))
        .context("the ISO cannot be made")
        .map(drop)
}
