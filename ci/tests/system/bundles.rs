//! Damaged bundles are refused by the hypervisor or the root task, with a clear message.

use bulkhead::machine::{Image, Kind, Settings};
use ci::{BOOT, changed, with_machine};
use image::bundle::Bundle;

/// Boots a bundle changed by `damage`; the machine has to say `says`.
fn refused(name: &str, says: &str, damage: fn(&mut Vec<u8>)) {
    let config = changed("damaged", "linux.toml", &[]).unwrap();
    let image = bulkhead::run::image(&config).unwrap_or_else(|e| panic!("{e:#}"));
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let mut bytes = std::fs::read(&image.bundle).unwrap();
    damage(&mut bytes);
    std::fs::write(&bundle, bytes).unwrap();
    let image = Image { bundle, ..image };
    with_machine(
        name,
        Kind::QemuX86,
        &image,
        &Settings::new(config.machine),
        |machine| {
            match machine.expect(says, BOOT) {
                // The hypervisor refuses with a panic, which ends the wait.
                Err(_) if machine.transcript().contains(says) => Ok(()),
                other => other.map(drop),
            }
        },
    );
}

#[test]
fn no_bundle() {
    refused("no-bundle", "no Bulkhead bundle", |bytes| bytes[0] ^= 0xff);
}

#[test]
fn truncated() {
    refused("truncated", "truncated", |bytes| {
        bytes.truncate(bytes.len() / 2)
    });
}

#[test]
fn damaged_root_task() {
    refused("damaged-root", "checksum is wrong", |bytes| {
        let offset = Bundle::open(bytes).unwrap().head().segments()[0].offset;
        bytes[offset as usize] ^= 1;
    });
}

#[test]
fn damaged_kernel() {
    refused("damaged-kernel", "`kernel` is damaged", |bytes| {
        let file = Bundle::open(bytes)
            .unwrap()
            .file("kernel")
            .unwrap()
            .0
            .clone();
        bytes[(file.offset + file.size / 2) as usize] ^= 1;
    });
}
