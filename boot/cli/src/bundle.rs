//! Puts the bundle of a system together; kept until something that goes into it changes.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use configs::{Config, Source};
use image::bundle::FileKind;
use image::pack::{FlatProgram, Packer};

use crate::artifacts::{Artifacts, ROOT_TASK};
use crate::{guest, progress, workspace};

/// Bundles of other runs are removed when they have not been used for this long.
const KEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// Contents of the guest files of a system, by their names in the bundle.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Gets and checks all guest files of a system, the default ones included.
pub fn guest_files(config: &Config) -> Result<Files> {
    let architecture = config.machine.architecture();
    let mut files = Files::new();
    for file in &config.files {
        let bytes = match (&file.source, file.kind) {
            (Source::Default, FileKind::Kernel) => read(&guest::kernel(architecture)?)?,
            (Source::Default, FileKind::Initrd) => guest::initrd(architecture)?,
            (Source::Default, FileKind::Program | FileKind::Text) => {
                bail!("there is no default for `{}`", file.name)
            }
            (Source::Path(path), _) => read(path)?,
        };
        files.insert(file.name.clone(), bytes);
    }
    config.check_files(&files)?;
    Ok(files)
}

/// Makes the bundle of a system; returns its file.
pub fn make(config: &Config, artifacts: &Artifacts) -> Result<PathBuf> {
    let what = "Packing the boot bundle";
    let _step = progress::step(what);
    let files = guest_files(config)?;
    let mut programs: Vec<&str> = config.system.programs().map(|name| name.as_str()).collect();
    programs.sort_unstable();
    programs.dedup();
    let mut elf_files = Vec::new();
    for name in std::iter::once(ROOT_TASK).chain(programs) {
        elf_files.push((name, read(&artifacts.program(name)?)?));
    }
    let dir = workspace::output().join("images");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!(
        "{}-{:016x}.bundle",
        config.system.name,
        key(config, &files, &elf_files)?
    ));
    if path.exists() {
        // Says that it is in use.
        let now = std::fs::File::options()
            .append(true)
            .open(&path)
            .and_then(|f| f.set_modified(SystemTime::now()));
        now.with_context(|| format!("{} cannot be used", path.display()))?;
        return Ok(path);
    }
    remove_old(&dir);
    let flat = |name: &str, bytes: &[u8]| {
        FlatProgram::from_elf(bytes)
            .with_context(|| format!("the program `{name}` cannot be packed"))
    };
    let mut elf_files = elf_files.iter();
    let (root, bytes) = elf_files.next().ok_or_else(|| anyhow!("no root task"))?;
    let mut packer = Packer::new(&flat(root, bytes)?)?;
    for (name, bytes) in elf_files {
        packer.program(name, &flat(name, bytes)?);
    }
    for file in &config.files {
        packer.file(&file.name, file.kind, &files[&file.name]);
    }
    let bytes = packer.finish(config.system.clone()).context("the boot bundle cannot be made")?;
    write(&path, &bytes)?;
    Ok(path)
}

/// A number that changes when anything in the bundle, or the packer, does.
fn key(config: &Config, files: &Files, programs: &[(&str, Vec<u8>)]) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    postcard::to_allocvec(&config.system)?.hash(&mut hasher);
    files.hash(&mut hasher);
    programs.hash(&mut hasher);
    // The packer is part of this program.
    let this = std::env::current_exe().and_then(std::fs::metadata).and_then(|m| m.modified());
    this.ok().hash(&mut hasher);
    Ok(hasher.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// Writes a file so that it is there whole or not at all.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let dir = path.parent().context("a file is in a folder")?;
    let unwritable = || format!("{} cannot be written", path.display());
    let file = tempfile::NamedTempFile::new_in(dir).with_context(unwritable)?;
    std::fs::write(file.path(), bytes).with_context(unwritable)?;
    file.persist(path).with_context(unwritable)?;
    Ok(())
}

fn remove_old(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_some_and(|age| age > KEEP) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
