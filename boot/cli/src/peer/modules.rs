//! Modules of a Debian kernel: where they are, and which others they need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{apt, child};

/// The files of modules and of those that they need, in the order in which they have to be loaded. `package` is the folder
/// with the content of the kernel's package.
pub fn with_dependencies(package: &Path, names: &[&str]) -> Result<Vec<PathBuf>> {
    // Debian moves it from one to the other.
    let roots = ["lib/modules", "usr/lib/modules"].map(|path| package.join(path));
    let mut files = Vec::new();
    for root in roots.iter().filter(|root| root.exists()) {
        collect(root, &mut files)?;
    }
    let mut ordered = Vec::new();
    for name in names {
        add(&files, name, &mut ordered)?;
    }
    Ok(ordered)
}

/// All modules below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("{} cannot be read", folder.display());
    for entry in std::fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let path = entry.path();
        if entry.file_type().with_context(unreadable)?.is_dir() {
            collect(&path, files)?;
        } else if name(&path).is_some() {
            files.push(path);
        }
    }
    Ok(())
}

fn add(files: &[PathBuf], wanted: &str, ordered: &mut Vec<PathBuf>) -> Result<()> {
    let is_it = |file: &&PathBuf| name(file).is_some_and(|name| name == wanted.replace('-', "_"));
    let Some(file) = files.iter().find(is_it) else {
        bail!("the kernel's package has no module {wanted}");
    };
    let file = unpacked(file)?;
    if ordered.contains(&file) {
        return Ok(());
    }
    let bytes =
        std::fs::read(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    for needed in dependencies(&bytes) {
        add(files, &needed, ordered)?;
    }
    ordered.push(file);
    Ok(())
}

/// The name of the module in a file, if it is one. Names of modules have underscores where those of files may have hyphens.
fn name(file: &Path) -> Option<String> {
    let file = file.file_name()?.to_string_lossy();
    let stem = file.trim_end_matches(PACKED).strip_suffix(".ko")?;
    Some(stem.replace('-', "_"))
}

/// What names of modules end with that Debian has packed, as it does from its version 13 on.
const PACKED: &str = ".xz";

/// The file of a module that is not packed; unpacks it if it is not there yet.
fn unpacked(file: &Path) -> Result<PathBuf> {
    let text = file.to_string_lossy();
    let Some(plain) = text.strip_suffix(PACKED).map(PathBuf::from) else {
        return Ok(file.into());
    };
    if !plain.exists() {
        if child::find("xz").is_none() {
            apt::install(&["xz-utils"], "unpacking the kernel's modules")?;
        }
        let mut xz = Command::new("xz");
        child::run(xz.args(["--decompress", "--keep"]).arg(file), None)?;
    }
    Ok(plain)
}

/// The names of the modules that a module needs, as its section `.modinfo` says: strings that end with a zero, one of them
/// `depends=` with names separated by commas.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let list =
        module.split(|byte| *byte == 0).find_map(|text| text.strip_prefix(KEY)).unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package with these modules: path and what its `.modinfo` says.
    fn package(modules: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, depends) in modules {
            let file = dir.path().join("lib/modules/6.1/kernel").join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            let text = format!("\x7fELF\0license=GPL\0depends={depends}\0vermagic=6.1\0");
            std::fs::write(file, text).unwrap();
        }
        dir
    }

    fn names(package: &Path, modules: &[&str]) -> Result<Vec<String>> {
        let files = with_dependencies(package, modules)?;
        let name = |file: &PathBuf| file.file_stem().unwrap().to_string_lossy().into_owned();
        Ok(files.iter().map(name).collect())
    }

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let package = package(&[
            ("arch/x86/kvm/kvm-amd.ko", "kvm,other_one"),
            ("arch/x86/kvm/kvm-intel.ko", "kvm"),
            ("arch/x86/kvm/kvm.ko", "irqbypass"),
            ("lib/other-one.ko", "irqbypass"),
            ("virt/lib/irqbypass.ko", ""),
        ]);
        let names = |modules| names(package.path(), modules).unwrap();
        let order = ["irqbypass", "kvm", "other-one", "kvm-amd", "kvm-intel"];
        assert_eq!(names(&["kvm_amd", "kvm_intel"]), order);
        assert_eq!(names(&["irqbypass"]), ["irqbypass"]);
    }

    #[test]
    fn packed_modules_are_unpacked() {
        let package = package(&[("kvm.ko", "irq-bypass"), ("irq-bypass.ko", "")]);
        let kvm = package.path().join("lib/modules/6.1/kernel/kvm.ko");
        child::run(Command::new("xz").arg(&kvm), None).unwrap();
        for _ in 0..2 {
            assert_eq!(names(package.path(), &["kvm"]).unwrap(), ["irq-bypass", "kvm"]);
            assert!(kvm.exists());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let package = package(&[("kvm.ko", "irqbypass")]);
        for module in ["kvm", "irqbypass"] {
            let error = names(package.path(), &[module]).unwrap_err();
            assert!(error.to_string().contains("irqbypass"), "{error}");
        }
    }
}
