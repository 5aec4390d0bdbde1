//! `bench --peer kvm`: boots a Debian kernel with KVM in place of the hypervisor, in the same emulator with the same
//! settings, and measures KVM's VM exits there.

mod modules;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use configs::Architecture;

use crate::artifacts::{Artifacts, BENCHMARK_GUEST, PEER};
use crate::bench::{Report, Way};
use crate::dialogue::Dialogue;
use crate::initramfs::Archive;
use crate::machine::{self, Image, Kind, Settings};
use crate::{bundle, guest, progress, trial, workspace};

/// The kernel's options: nothing but warnings and the driver's lines on the console; an end instead of a halt when it panics;
/// nothing against speculation; no time for others than the driver's threads while these want to run.
const OPTIONS: &str = "quiet panic=-1 mitigations=off sysctl.kernel.sched_rt_runtime_us=-1";

/// Boot and measurement; emulators on a busy machine are slow.
fn limit(kind: Kind) -> Duration {
    Duration::from_secs(match kind {
        Kind::QemuX86 | Kind::QemuArm64 => 300,
        Kind::Bochs => 1200,
    })
}

/// The modules with KVM for all CPUs of an architecture; none where it is part of the kernel.
fn modules(architecture: Architecture) -> &'static [&'static str] {
    match architecture {
        Architecture::X86_64 => &["kvm_amd", "kvm_intel"],
        Architecture::Arm64 => &[],
    }
}

/// The device of the machine's serial port.
fn console(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "ttyS0",
        Architecture::Arm64 => "ttyAMA0",
    }
}

/// The initial RAM disk: the driver as its first program, the guest's image, and the modules, numbered in the order in which
/// the driver loads them.
fn initrd(driver: &[u8], guest: &[u8], modules: &[PathBuf]) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.folder("dev")?;
    archive.device("dev/console", 5, 1)?;
    archive.device("dev/kvm", 10, 232)?;
    archive.folder("modules")?;
    for (number, module) in modules.iter().enumerate() {
        archive.file(&format!("modules/{number:02}"), &read(module)?)?;
    }
    archive.file("guest", guest)?;
    archive.program("init", driver)?;
    archive.finish()
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))
}

/// Makes what a machine boots.
fn image(architecture: Architecture) -> Result<Image> {
    let artifacts = Artifacts::trials(architecture)?;
    let driver = read(&artifacts.program(PEER)?)?;
    let guest = trial::guest(&artifacts, BENCHMARK_GUEST)?;
    let modules =
        modules::with_dependencies(&guest::kernel_package(architecture)?, modules(architecture))?;
    let dir = workspace::output().join("images");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{PEER}-{architecture}.initrd"));
    bundle::write(&path, &initrd(&driver, &guest, &modules)?)?;
    Ok(Image {
        kernel: guest::kernel(architecture)?,
        bundle: path,
        options: format!("console={} {OPTIONS}", console(architecture)),
    })
}

/// What is measured: KVM, and the name of the kernel that it is in.
pub fn system(architecture: Architecture) -> Result<String> {
    let kernel = guest::kernel(architecture)?;
    let name = kernel.file_name().unwrap_or_default().to_string_lossy();
    let version = name.trim_start_matches("vmlinuz-");
    Ok(format!("KVM of Linux {version}"))
}

/// Measures KVM in the machine with one CPU that the hypervisor is measured in, without measures against speculation.
pub fn measure(way: &Way) -> Result<Report> {
    machine::prepare(way.kind)?;
    let image = image(way.kind.architecture())?;
    let limit = limit(way.kind);
    let settings = Settings {
        // Its first line is that of the driver.
        silence: limit,
        ..way.settings(1)
    };
    let _step = progress::long_step("Measuring KVM in Debian's kernel");
    let mut dialogue = Dialogue::new(machine::start(way.kind, &image, &settings)?);
    let end = dialogue.expect("(?m)^bench: end", limit);
    let transcript = dialogue.transcript();
    end.with_context(|| format!("KVM was not measured; the machine printed:\n{transcript}"))?;
    Report::parse(&transcript)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_finds_what_it_looks_for() {
        let dir = tempfile::tempdir().unwrap();
        let module = |name: &str| {
            let file = dir.path().join(name);
            std::fs::write(&file, name).unwrap();
            file
        };
        let modules = [module("irqbypass.ko"), module("kvm.ko")];
        let bytes = initrd(b"driver", b"image", &modules).unwrap();
        let mut rest = bytes.as_slice();
        let mut files = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut content = String::new();
            std::io::Read::read_to_string(&mut reader, &mut content).unwrap();
            files.push((reader.entry().name().to_owned(), content));
            rest = reader.finish().unwrap();
        }
        let content = |name: &str| {
            let file = files.iter().find(|(n, _)| n == name);
            file.map(|(_, content)| content.as_str())
        };
        assert_eq!(content("init"), Some("driver"));
        assert_eq!(content("guest"), Some("image"));
        assert_eq!(content("modules/00"), Some("irqbypass.ko"));
        assert_eq!(content("modules/01"), Some("kvm.ko"));
        assert_eq!(content("modules/02"), None);
        assert!(content("dev/kvm").is_some());
    }
}
