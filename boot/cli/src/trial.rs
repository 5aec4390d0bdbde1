//! Boot images of the programs that measure and try the hypervisor. Each is a root task of its own.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use configs::Architecture;
use image::bundle::{FileKind, checksum};
use image::pack::{FlatProgram, Packer};
use image::system::System;

use crate::artifacts::{Artifacts, BENCHMARK_GUEST};
use crate::machine::Image;
use crate::{bundle, workspace};

/// RAM of the machines that they run on.
pub const MEMORY: u64 = 512 << 20;

/// The files for the benchmark.
pub const BENCHMARK_FILES: &[Extra<'static>] = &[Extra::Guest(BENCHMARK_GUEST)];

/// A file for a trial.
#[derive(Clone, Copy, Debug)]
pub enum Extra<'a> {
    /// The program of this name.
    Program(&'a str),
    /// The guest of this name: what its memory holds when it starts.
    Guest(&'a str),
    /// A text, with its name.
    Text(&'a str, &'a str),
}

/// Builds the hypervisor and `program`, and makes a boot image of nothing else but `extras` for it.
pub fn image(architecture: Architecture, program: &str, extras: &[Extra<'_>]) -> Result<Image> {
    let artifacts = Artifacts::trials(architecture)?;
    Ok(Image {
        bundle: pack(&artifacts, program, extras)?,
        kernel: artifacts.kernel,
        options: String::new(),
    })
}

fn read(artifacts: &Artifacts, program: &str) -> Result<Vec<u8>> {
    let path = artifacts.program(program)?;
    std::fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))
}

/// What the memory of a guest holds when it starts, from its lowest address on.
pub fn guest(artifacts: &Artifacts, name: &str) -> Result<Vec<u8>> {
    let flat = FlatProgram::from_elf(&read(artifacts, name)?)
        .with_context(|| format!("{name} is no guest"))?;
    Ok(flat.memory())
}

fn pack(artifacts: &Artifacts, program: &str, extras: &[Extra<'_>]) -> Result<PathBuf> {
    let read = |program: &str| read(artifacts, program);
    let unpacked = || format!("{program} cannot be packed");
    let flat = FlatProgram::from_elf(&read(program)?).with_context(unpacked)?;
    let system = System {
        name: program.to_string().try_into().map_err(|e| anyhow!("{e:?}"))?,
        servers: Vec::new(),
        vms: Vec::new(),
        natives: Vec::new(),
    };
    let mut packer = Packer::new(&flat)?;
    for extra in extras {
        match *extra {
            Extra::Program(name) => packer.file(name, FileKind::Program, &read(name)?),
            Extra::Guest(name) => packer.file(name, FileKind::Kernel, &guest(artifacts, name)?),
            Extra::Text(name, text) => packer.file(name, FileKind::Text, text.as_bytes()),
        }
    }
    let bytes = packer.finish(system).with_context(unpacked)?;
    let dir = workspace::output().join("images");
    std::fs::create_dir_all(&dir)?;
    // Images for different texts are used side by side.
    let texts = extras.iter().filter_map(|extra| match extra {
        Extra::Text(_, text) => Some(*text),
        Extra::Program(_) | Extra::Guest(_) => None,
    });
    let settings: String =
        texts.map(|text| format!("-{:08x}", checksum(text.as_bytes()))).collect();
    let path = dir.join(format!("{program}-{}{settings}.bundle", artifacts.architecture));
    bundle::write(&path, &bytes)?;
    Ok(path)
}
