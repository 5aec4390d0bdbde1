//! What the command itself says. That nobody reads it any more, as behind a closed pipe or a lost terminal, must not end
//! the command before it has cleaned up, as `println!` would.

use std::io::Write;

use anyhow::{Context, Result};

/// Writes what the user asked for to standard output.
pub fn result(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    written.context(UNWRITABLE)
}

/// What is said when standard output takes nothing more.
pub const UNWRITABLE: &str = "the output cannot be written";

/// Writes a line about what goes on to standard error. Where that cannot be written, there is nobody to tell.
pub fn message(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
