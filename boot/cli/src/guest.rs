//! Guest files: Debian's cloud kernel and busybox, unpacked from their packages without being installed.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use configs::Architecture;

use crate::apt::Archive;
use crate::{apt, initramfs, workspace};

/// One unpacking at a time: several would fetch the same lists.
static UNPACKING: Mutex<()> = Mutex::new(());

/// Where the default guest of an architecture comes from.
struct Origin {
    /// Debian's name of the architecture.
    debian: &'static str,
    /// Package that stands for Debian's current cloud kernel.
    kernel: &'static str,
    /// The same for the real-time kernel.
    real_time: &'static str,
    /// What the names of its folders end with.
    suffix: &'static str,
}

fn origin(architecture: Architecture) -> Origin {
    match architecture {
        Architecture::X86_64 => Origin {
            debian: "amd64",
            kernel: "linux-image-cloud-amd64",
            real_time: "linux-image-rt-amd64",
            suffix: "",
        },
        Architecture::Arm64 => Origin {
            debian: "arm64",
            kernel: "linux-image-cloud-arm64",
            real_time: "linux-image-rt-arm64",
            suffix: "-arm64",
        },
    }
}

/// The folder with the content of a package; downloaded if it is not there yet.
fn unpacked(
    origin: &Origin,
    folder: &str,
    package: impl FnOnce(&Archive) -> Result<String>,
) -> Result<PathBuf> {
    let guest = workspace::output().join("guest");
    let dir = guest.join(format!("{folder}{}", origin.suffix));
    let _one = UNPACKING.lock().unwrap_or_else(|e| e.into_inner());
    if dir.exists() {
        return Ok(dir);
    }
    if !apt::exists() {
        bail!(
            "the default guest comes from Debian packages, and this machine has no apt to get them. Name files \
             of your own: --kernel FILE --initrd FILE"
        );
    }
    std::fs::create_dir_all(&guest)?;
    let unpack = || {
        let archive = Archive::of(origin.debian)?;
        let package = package(&archive)?;
        archive
            .unpack(&package, &dir)
            .with_context(|| format!("the Debian package {package} cannot be had"))
    };
    unpack().with_context(|| {
        format!(
            "the default guest for {} is not here yet; name files of your own: --kernel FILE --initrd FILE",
            origin.debian
        )
    })?;
    Ok(dir)
}

/// The default kernel.
pub fn kernel(architecture: Architecture) -> Result<PathBuf> {
    kernel_in(&kernel_package(architecture)?)
}

/// The folder with the content of the default kernel's package: the kernel and its modules.
pub fn kernel_package(architecture: Architecture) -> Result<PathBuf> {
    let origin = origin(architecture);
    package_of(&origin, "linux", origin.kernel)
}

/// Debian's real-time kernel.
pub fn real_time_kernel(architecture: Architecture) -> Result<PathBuf> {
    let origin = origin(architecture);
    kernel_in(&package_of(&origin, "linux-rt", origin.real_time)?)
}

/// The kernel's package that `package` stands for, unpacked in `folder`.
fn package_of(origin: &Origin, folder: &str, package: &str) -> Result<PathBuf> {
    unpacked(origin, folder, |archive| archive.resolve(package, "linux-image-"))
}

/// The kernel in the folder with the content of its package.
fn kernel_in(dir: &Path) -> Result<PathBuf> {
    let boot = dir.join("boot");
    let kernel = std::fs::read_dir(&boot).ok().and_then(|files| {
        let is_kernel = |path: &PathBuf| {
            path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("vmlinuz"))
        };
        files.filter_map(Result::ok).map(|entry| entry.path()).find(is_kernel)
    });
    kernel.with_context(|| damaged(dir))
}

/// The default initial RAM disk.
pub fn initrd(architecture: Architecture) -> Result<Vec<u8>> {
    let dir = unpacked(&origin(architecture), "busybox", |_| Ok("busybox-static".into()))?;
    let candidates = ["bin/busybox", "usr/bin/busybox"].map(|path| dir.join(path));
    let busybox = candidates
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .with_context(|| damaged(&dir))?;
    initramfs::pack(&busybox)
}

fn damaged(dir: &Path) -> String {
    format!("{} is damaged; remove it, and it will be downloaded again", dir.display())
}
