//! What a machine prints, on its way to standard output.
//!
//! It is written on a thread of its own: a reader who stops reading holds up the machine, but neither time limits nor the
//! user's request to stop.

use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::say::UNWRITABLE;

/// Portions of output that may be on their way.
const AHEAD: usize = 16;
/// How often it is looked whether the writer goes on.
const PAUSE: Duration = Duration::from_millis(10);

/// Standard output, while a machine's console is shown there.
#[derive(Debug)]
pub struct Screen {
    sender: SyncSender<Vec<u8>>,
    writer: JoinHandle<io::Result<()>>,
    /// What the writer has not taken yet.
    left: Option<Vec<u8>>,
}

impl Screen {
    /// Starts the writer.
    pub fn start() -> Screen {
        let (sender, portions) = mpsc::sync_channel::<Vec<u8>>(AHEAD);
        let writer = std::thread::spawn(move || {
            let mut stdout = io::stdout();
            let write = |bytes: Vec<u8>| stdout.write_all(&bytes).and_then(|()| stdout.flush());
            portions.iter().try_for_each(write)
        });
        Screen { sender, writer, left: None }
    }

    /// Shows `bytes` as they are, once all before them has gone.
    pub fn show(&mut self, bytes: Vec<u8>) {
        self.left.get_or_insert_default().extend(bytes);
    }

    /// Whether all has gone on its way; if not, after a pause. Fails when standard output takes nothing more.
    pub fn is_free(&mut self) -> Result<bool> {
        let Some(bytes) = self.left.take() else {
            return Ok(true);
        };
        match self.sender.try_send(bytes) {
            Ok(()) => Ok(true),
            Err(TrySendError::Full(bytes)) => {
                self.left = Some(bytes);
                std::thread::sleep(PAUSE);
                Ok(false)
            }
            Err(TrySendError::Disconnected(_)) => bail!(UNWRITABLE),
        }
    }

    /// Waits until all is written, as long as `patience` lasts.
    pub fn finish(mut self, patience: impl Fn() -> bool) -> Result<()> {
        while !self.is_free()? {
            if !patience() {
                return Ok(());
            }
        }
        drop(self.sender);
        while !self.writer.is_finished() {
            if !patience() {
                return Ok(());
            }
            std::thread::sleep(PAUSE);
        }
        self.writer.join().map_or(Ok(()), |written| written.context(UNWRITABLE))
    }
}
