//! Files for what is measured, opened before the measuring begins.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A file that can be written to. One that was not there before goes away again if nothing is.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    file: File,
    option: &'static str,
    is_new: bool,
}

impl Output {
    /// Opens the file that `option` of the command line names.
    pub fn open(option: &'static str, path: &Path) -> Result<Output> {
        let is_new = !path.exists();
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Output {
            path: path.into(),
            file: file.with_context(|| unwritable(option, path))?,
            option,
            is_new,
        })
    }

    /// Writes `text` behind what is there.
    pub fn append(mut self, text: &str) -> Result<()> {
        let written = self.file.write_all(text.as_bytes());
        written.with_context(|| unwritable(self.option, &self.path))?;
        self.is_new = false;
        Ok(())
    }

    /// Writes `text` instead of what is there.
    pub fn replace(self, text: &str) -> Result<()> {
        let is_regular = self.file.metadata().is_ok_and(|data| data.is_file());
        if is_regular {
            let emptied = self.file.set_len(0);
            emptied.with_context(|| unwritable(self.option, &self.path))?;
        }
        self.append(text)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if self.is_new {
            // Nothing is lost if that fails.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn unwritable(option: &str, path: &Path) -> String {
    format!("{option}: {} cannot be written", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_written_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        drop(Output::open("--json", &path).unwrap());
        assert!(!path.exists());
        for _ in 0..2 {
            Output::open("--json", &path).unwrap().append("a\n").unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\na\n");
        drop(Output::open("--json", &path).unwrap());
        Output::open("--html", &path).unwrap().replace("b").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "b");
        let error = Output::open("--html", dir.path()).unwrap_err();
        assert!(format!("{error:#}").starts_with("--html: "), "{error:#}");
        let full = Output::open("--json", Path::new("/dev/full")).unwrap();
        assert!(full.append("a").is_err());
    }
}
