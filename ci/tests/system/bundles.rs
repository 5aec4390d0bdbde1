//! Damaged bundles are refused by the hypervisor or the root task, with a clear message.

use bulkhead::machine::{Image, Settings};
use ci::{Target, with_machine};
use image::bundle::Bundle;

/// Boots a bundle changed by `damage`; the machine has to say `says`.
fn refused(on: Target, name: &str, says: &str, damage: fn(&mut Vec<u8>)) {
    let config = on.linux("damaged", &[]).unwrap();
    let image = on.image(&config);
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("bundle");
    let mut bytes = std::fs::read(&image.bundle).unwrap();
    damage(&mut bytes);
    std::fs::write(&bundle, bytes).unwrap();
    let image = Image { bundle, ..image };
    let settings = Settings::new(config.machine);
    with_machine(name, on, &image, &settings, |machine| {
        match machine.expect(says, on.boot()) {
            // The hypervisor refuses with a panic, which ends the wait.
            Err(_) if machine.transcript().contains(says) => Ok(()),
            other => other.map(drop),
        }
    });
}

fn no_bundle(on: Target) {
    refused(on, "no-bundle", "no Bulkhead bundle", |bytes| bytes[0] ^= 0xff);
}

/// QEMU passes no initial RAM disk where the file is empty.
fn missing(on: Target) {
    refused(on, "missing", "no boot bundle", |bytes| bytes.clear());
}

fn truncated(on: Target) {
    refused(on, "truncated", "truncated", |bytes| bytes.truncate(bytes.len() / 2));
}

fn damaged_root_task(on: Target) {
    refused(on, "damaged-root", "checksum is wrong", |bytes| {
        let offset = Bundle::open(bytes).unwrap().head().segments()[0].offset;
        bytes[offset as usize] ^= 1;
    });
}

fn damaged_kernel(on: Target) {
    refused(on, "damaged-kernel", "`kernel` is damaged", |bytes| {
        let file = Bundle::open(bytes).unwrap().file("kernel").unwrap().0.clone();
        bytes[(file.offset + file.size / 2) as usize] ^= 1;
    });
}

tests! {
    no_bundle: x86, a53_gic2;
    missing: x86, a72_gic3;
    truncated: x86, a53_gic3_2cpus;
    damaged_root_task: x86, max_gic3_4cpus;
    damaged_kernel: x86, a72_gic2_2cpus;
}
