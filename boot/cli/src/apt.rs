//! Debian packages: asks apt for what is missing, where it may.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;

use crate::progress::{self, Step};
use crate::workspace::put;
use crate::{child, interrupt, workspace};

/// How to become root without a question.
fn root_prefix() -> Option<Vec<PathBuf>> {
    if geteuid().is_root() {
        return Some(Vec::new());
    }
    let sudo = child::find("sudo")?;
    let allowed = child::run(Command::new(&sudo).args(["-n", "true"]), None).is_ok();
    allowed.then(|| vec![sudo, "-n".into()])
}

/// Whether this machine has apt.
pub fn exists() -> bool {
    child::find("apt-get").is_some() && child::find("dpkg-deb").is_some()
}

/// The version that apt would install; `None` if it knows none.
pub fn candidate(package: &str) -> Option<String> {
    Archive::system().candidate(package)
}

/// Fetches the lists of packages anew.
pub fn update() -> Result<()> {
    let archive = Archive::system();
    let what = archive.fetching();
    let step = progress::long_step(&what);
    archive.update((&step, &what))
}

fn apt(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// Runs apt-get as root.
fn apt_get_as_root(prefix: &[PathBuf], args: &[&str], step: Option<(&Step, &str)>) -> Result<()> {
    let mut words = prefix.iter().map(|word| word.as_os_str());
    let mut command = match words.next() {
        Some(sudo) => {
            let mut command = Command::new(sudo);
            command.args(words).args(["LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            command
        }
        None => apt("apt-get"),
    };
    // Another apt may be at work for a moment.
    command.args(["-o", "DPkg::Lock::Timeout=120"]).args(args);
    // A package that is installed half-way stands in the way of all others.
    child::run_gently(&mut command, step).map(drop)
}

/// Installs `packages`, which are needed `for_what`.
pub fn install(packages: &[&str], for_what: &str) -> Result<()> {
    let list = packages.join(" ");
    let by_hand = || {
        format!(
            "{for_what} needs the Debian packages {list}; install them with: sudo apt-get install {list}"
        )
    };
    if !exists() {
        bail!(
            "{for_what} needs programs that are missing, and this is no Debian system where they could be \
             installed. Install what your system has in place of the Debian packages: {list}"
        );
    }
    let Some(prefix) = root_prefix() else {
        bail!("{}\n(neither root nor `sudo -n` is available to do it now)", by_hand());
    };
    let what = format!("Installing {list}");
    Archive::system().ensure_lists(packages).with_context(by_hand)?;
    let step = progress::long_step(&what);
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(packages);
    if let Err(first) = apt_get_as_root(&prefix, &args, Some((&step, &what))) {
        interrupt::check()?;
        // Old lists name versions that the archive no longer has.
        apt_get_as_root(&prefix, &["update", "-q"], Some((&step, &what)))
            .and_then(|()| apt_get_as_root(&prefix, &args, Some((&step, &what))))
            .map_err(|_| first)
            .with_context(by_hand)?;
    }
    Ok(())
}

/// The packages of one architecture, as apt sees them.
#[derive(Debug)]
pub struct Archive {
    /// Debian's name of an architecture that is not the system's. Its lists are the command's own, so that
    /// neither the system's change nor root is needed.
    foreign: Option<(&'static str, PathBuf)>,
}

impl Archive {
    /// That of the system's architecture.
    pub fn system() -> Archive {
        Archive { foreign: None }
    }

    /// That of `architecture`, as Debian names it.
    pub fn of(architecture: &'static str) -> Result<Archive> {
        let own = child::run(Command::new("dpkg").arg("--print-architecture"), None)?;
        if own.trim() == architecture {
            return Ok(Archive::system());
        }
        let dir = workspace::output().join(format!("apt-{architecture}"));
        for part in ["lists/partial", "archives/partial"] {
            std::fs::create_dir_all(dir.join(part))?;
        }
        // No package of that architecture is installed.
        std::fs::write(dir.join("status"), "")?;
        Ok(Archive { foreign: Some((architecture, dir)) })
    }

    fn apt(&self, tool: &str) -> Command {
        let mut command = apt(tool);
        if let Some((architecture, dir)) = &self.foreign {
            let dir = dir.display();
            for option in [
                format!("Dir::State={dir}"),
                format!("Dir::State::lists={dir}/lists"),
                format!("Dir::State::status={dir}/status"),
                format!("Dir::Cache={dir}"),
                format!("APT::Architecture={architecture}"),
                format!("APT::Architectures={architecture}"),
                "Acquire::Languages=none".into(),
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            ] {
                command.arg("-o").arg(option);
            }
        }
        command
    }

    fn candidate(&self, package: &str) -> Option<String> {
        let policy = child::run(self.apt("apt-cache").args(["policy", package]), None).ok()?;
        let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
        (line != "(none)").then(|| line.to_string())
    }

    /// What fetching the lists of packages is called.
    fn fetching(&self) -> String {
        let what = "Fetching the lists of Debian packages";
        match &self.foreign {
            Some((architecture, _)) => format!("{what} for {architecture}"),
            None => what.into(),
        }
    }

    /// Fetches the lists of packages anew.
    fn update(&self, step: (&Step, &str)) -> Result<()> {
        if self.foreign.is_some() {
            return child::run(self.apt("apt-get").args(["update", "-q"]), Some(step)).map(drop);
        }
        let Some(prefix) = root_prefix() else {
            bail!("the lists of packages are old or missing; run: sudo apt-get update")
        };
        apt_get_as_root(&prefix, &["update", "-q"], Some(step))
    }

    /// Fetches the lists of packages if apt does not know all of `packages`.
    fn ensure_lists(&self, packages: &[&str]) -> Result<()> {
        let known = || packages.iter().all(|p| self.candidate(p).is_some());
        if known() {
            return Ok(());
        }
        let what = self.fetching();
        let step = progress::long_step(&what);
        match self.update((&step, &what)) {
            // One of several archives may be out of reach, or have nothing for the architecture.
            Err(_) if known() => Ok(()),
            other => other,
        }
    }

    /// The package that `package`, which has no content of its own, stands for: its first dependency whose
    /// name starts with `prefix`.
    pub fn resolve(&self, package: &str, prefix: &str) -> Result<String> {
        self.ensure_lists(&[package])?;
        let depends =
            child::run(self.apt("apt-cache").args(["depends", "--no-recommends", package]), None)?;
        let real = depends.lines().find_map(|line| {
            line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with(prefix))
        });
        real.map(String::from)
            .with_context(|| format!("the Debian package {package} depends on no {prefix}*"))
    }

    /// Downloads a package and unpacks it into `into`, without installing it.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        self.ensure_lists(&[package])?;
        let what = format!("Downloading the Debian package {package}");
        let step = progress::long_step(&what);
        let dir = tempfile::Builder::new()
            .prefix("download-")
            .tempdir_in(into.parent().unwrap_or(into))?;
        let download = |step: &Step| {
            let mut command = self.apt("apt-get");
            command.args(["download", "-q", package]).current_dir(dir.path());
            child::run(&mut command, Some((step, &what)))
        };
        if let Err(first) = download(&step) {
            interrupt::check()?;
            // Old lists name versions that the archive no longer has.
            if self.update((&step, &what)).is_err() {
                interrupt::check()?;
                return Err(first);
            }
            download(&step)?;
        }
        let deb = std::fs::read_dir(dir.path())?
            .filter_map(Result::ok)
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "deb"));
        let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
        // Unpacked aside and renamed when whole, so that an interruption leaves nothing that looks complete.
        let aside = dir.path().join("content");
        child::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&aside), None)?;
        put(&aside, into)
    }
}
