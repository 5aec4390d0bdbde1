//! Breaks the kernel's portable core, a line at a time, in a copy of the tree, and runs its host tests: each mutation
//! must be noticed.
//!
//! `cargo run -p mutate [WORD ...]`: all mutations, or those whose names contain one of the words. The exit status is 0 if
//! all were caught. It takes about a minute for each; the copy and its builds are in `target/mutate`.

use anyhow::{Context, Result, bail};
use mutations::{MUTATIONS, Mutation};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Packages whose tests are run, in this order.
const PACKAGES: [&str; 2] = ["hypervisor", "schedules"];
/// A test that says nothing for so long does not end: that is noticed too.
const PATIENCE: Duration = Duration::from_secs(600);

/// A copy of the tree, with a folder for its builds.
struct Copy {
    tree: PathBuf,
    build: PathBuf,
}

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let chosen = |m: &&Mutation| words.is_empty() || words.iter().any(|w| m.name.contains(w));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let copy = Copy::new(&root)?;
    if let Some(test) = copy.failing_test()? {
        bail!("without any mutation, the tests fail: {test}");
    }
    let (mut caught, mut missed) = (0, 0);
    for mutation in MUTATIONS.iter().filter(chosen) {
        match copy.with(mutation, || copy.failing_test()) {
            Ok(Some(test)) => {
                caught += 1;
                println!("caught  {} ({}): {test}", mutation.name, mutation.file);
            }
            Ok(None) => {
                missed += 1;
                println!("MISSED  {} ({})", mutation.name, mutation.file);
            }
            Err(error) => {
                missed += 1;
                println!("UNTRIED {} ({}): {error:#}", mutation.name, mutation.file);
            }
        }
    }
    println!("{caught} caught, {missed} missed");
    Ok(ExitCode::from(u8::from(missed != 0)))
}

impl Copy {
    fn new(root: &Path) -> Result<Copy> {
        let place = root.join("target/mutate");
        let tree = place.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        copy_folder(root, &tree)?;
        Ok(Copy { tree: tree.canonicalize()?, build: place.join("build") })
    }

    /// Does `work` while the mutation is in the tree.
    fn with<T>(&self, mutation: &Mutation, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let path = self.tree.join("hypervisor/src").join(mutation.file);
        let text = fs::read_to_string(&path)?;
        let broken = mutation.apply(&text).context("its line is not there once");
        fs::write(&path, broken?)?;
        let result = work();
        fs::write(&path, text)?;
        result
    }

    /// The first test that fails, if one does.
    fn failing_test(&self) -> Result<Option<String>> {
        for package in PACKAGES {
            let program = self.build_tests(package)?;
            let mut tests = Command::new(program)
                .current_dir(self.tree.join("hypervisor"))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()?;
            let failing = first_failure(&mut tests)?;
            if failing.is_some() {
                tests.kill()?;
            }
            let status = tests.wait()?;
            if failing.is_some() {
                return Ok(failing);
            }
            if !status.success() {
                return Ok(Some(format!("tests of {package}: {status}")));
            }
        }
        Ok(None)
    }

    /// The program that has the tests of `package`.
    fn build_tests(&self, package: &str) -> Result<PathBuf> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.build)
            .env_remove("RUSTFLAGS")
            .args(["test", "--locked", "--lib", "--no-run", "-p", package])
            .output()?;
        let messages = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            bail!("it does not compile:\n{messages}");
        }
        // "  Executable unittests src/lib.rs (PATH)"
        let path = messages
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Executable "))
            .find_map(|line| line.rsplit_once('(')?.1.strip_suffix(')'))
            .context("cargo names no program")?;
        Ok(self.tree.join(path))
    }
}

/// The first test that the program says has failed, or that it does not end.
fn first_failure(tests: &mut Child) -> Result<Option<String>> {
    let output = tests.stdout.take().context("no output")?;
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    loop {
        match lines.recv_timeout(PATIENCE) {
            Ok(line) => {
                let failed = line.strip_suffix(" ... FAILED");
                if let Some(test) = failed.and_then(|line| line.strip_prefix("test ")) {
                    return Ok(Some(test.to_owned()));
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => return Ok(Some("they do not end".to_owned())),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}

/// Copies what git would, near enough: neither builds nor history.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "target" || entry.file_name() == ".git" {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_folder(&source, &target)?;
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
