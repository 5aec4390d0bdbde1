//! Tells the user what is going on: a line that changes where there is a terminal, else only what takes long.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::say;

/// A step that is going on. Its line goes away when it ends.
#[derive(Debug)]
pub struct Step(ProgressBar);

/// Starts a step that is usually short: shown on terminals only.
pub fn step(what: &str) -> Step {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
        bar.set_style(style);
    }
    bar.set_message(format!("{what} ..."));
    bar.enable_steady_tick(Duration::from_millis(150));
    Step(bar)
}

/// Starts a step that takes a while or changes the machine: said everywhere.
pub fn long_step(what: &str) -> Step {
    if !std::io::stderr().is_terminal() {
        say::message(&format!("bulkhead: {what} ..."));
    }
    step(what)
}

impl Step {
    /// Adds what the step is doing at the moment.
    pub fn detail(&self, what: &str, detail: &str) {
        self.0.set_message(format!("{what}: {detail}"));
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
