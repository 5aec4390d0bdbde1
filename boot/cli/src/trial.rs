//! Boot images of the programs that measure and try the hypervisor. Each is a root task of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use configs::Architecture;
use image::bundle::FileKind;
use image::pack::{FlatProgram, Packer};
use image::system::System;

use crate::artifacts::Artifacts;
use crate::machine::Image;
use crate::{bundle, workspace};

/// RAM of the machines that they run on.
pub const MEMORY: u64 = 512 << 20;

/// Builds the hypervisor and `program`, and makes a boot image of nothing else but other programs as `files` for it.
pub fn image(architecture: Architecture, program: &str, files: &[&str]) -> Result<Image> {
    let artifacts = Artifacts::trials(architecture)?;
    Ok(Image {
        bundle: pack(&artifacts, program, files)?,
        kernel: artifacts.kernel,
        options: String::new(),
    })
}

fn pack(artifacts: &Artifacts, program: &str, files: &[&str]) -> Result<PathBuf> {
    let read = |program: &str| {
        let path = artifacts.program(program)?;
        std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let unpacked = || format!("{program} cannot be packed");
    let flat = FlatProgram::from_elf(&read(program)?).with_context(unpacked)?;
    let system = System {
        name: program
            .to_string()
            .try_into()
            .map_err(|e| anyhow!("{e:?}"))?,
        servers: Vec::new(),
        vms: Vec::new(),
        natives: Vec::new(),
    };
    let mut packer = Packer::new(&flat)?;
    for file in files {
        packer.file(file, FileKind::Program, &read(file)?);
    }
    let bytes = packer.finish(system).with_context(unpacked)?;
    let dir = workspace::output().join("images");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{program}-{}.bundle", artifacts.architecture));
    bundle::write(&path, &bytes)?;
    Ok(path)
}
