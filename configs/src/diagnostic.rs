//! Errors of a description: where, what, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// What an error is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A whole file.
    File(PathBuf),
    /// A line of a file, from 1.
    Line(PathBuf, usize),
    /// An option of the command.
    Option(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "{}", path.display()),
            Place::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Place::Option(name) => f.write_str(name),
        }
    }
}

/// An error with its place and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What it is about.
    pub place: Place,
    /// The cause.
    pub message: String,
    /// The remedy.
    pub help: String,
}

impl Diagnostic {
    /// An error.
    pub fn new(place: Place, message: impl Into<String>, help: impl Into<String>) -> Diagnostic {
        Diagnostic { place, message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  help: {}", self.place, self.message, self.help)
    }
}

/// All errors found; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl From<Diagnostic> for Diagnostics {
    fn from(one: Diagnostic) -> Diagnostics {
        Diagnostics(vec![one])
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The line, from 1, that holds byte `at` of `text`.
pub(crate) fn line(path: &Path, text: &str, at: usize) -> Place {
    let before = &text.as_bytes()[..at.min(text.len())];
    Place::Line(path.into(), 1 + before.iter().filter(|b| **b == b'\n').count())
}
