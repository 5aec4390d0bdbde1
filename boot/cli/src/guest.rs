//! Guest files: Debian's cloud kernel and busybox, unpacked from their packages without being installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{apt, initramfs, workspace};

/// Package that stands for Debian's current cloud kernel.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";

/// The folder with the content of `package`; downloaded if it is not there yet.
fn unpacked(folder: &str, package: impl FnOnce() -> Result<String>) -> Result<PathBuf> {
    let dir = workspace::output().join("guest").join(folder);
    if dir.exists() {
        return Ok(dir);
    }
    if !apt::exists() {
        bail!(
            "the default guest comes from Debian packages, and this machine has no apt to get them. Name files \
             of your own: --kernel FILE --initrd FILE"
        );
    }
    std::fs::create_dir_all(workspace::output().join("guest"))?;
    let package = package()?;
    apt::unpack(&package, &dir).with_context(|| {
        format!("the default guest's package {package} cannot be had; name files of your own: --kernel FILE --initrd FILE")
    })?;
    Ok(dir)
}

/// The default kernel.
pub fn kernel() -> Result<PathBuf> {
    let dir = unpacked("linux", || apt::resolve(KERNEL_PACKAGE, "linux-image-"))?;
    let boot = dir.join("boot");
    let kernel = std::fs::read_dir(&boot).ok().and_then(|files| {
        let is_kernel = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
        };
        files
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(is_kernel)
    });
    kernel.with_context(|| damaged(&dir))
}

/// The default initial RAM disk.
pub fn initrd() -> Result<Vec<u8>> {
    let dir = unpacked("busybox", || Ok("busybox-static".into()))?;
    let candidates = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join(path));
    let busybox = candidates
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .with_context(|| damaged(&dir))?;
    initramfs::pack(&busybox)
}

fn damaged(dir: &Path) -> String {
    format!(
        "{} is damaged; remove it, and it will be downloaded again",
        dir.display()
    )
}
