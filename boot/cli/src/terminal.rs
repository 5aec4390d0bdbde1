//! The user's terminal, raw while a console is shown in it.

use std::io::{IsTerminal, Read};

use anyhow::Result;
use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcsetattr};

use crate::machine::Input;

/// The terminal in raw mode; restored when dropped.
#[derive(Debug)]
pub struct Raw(Termios);

impl Raw {
    /// Makes the terminal raw. `None` if standard input is none.
    pub fn enter() -> Result<Option<Raw>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let saved = tcgetattr(&stdin)?;
        let mut raw = saved.clone();
        raw.make_raw();
        // Lines of the hypervisor may end without a carriage return.
        raw.output_modes |= OutputModes::OPOST | OutputModes::ONLCR;
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Raw(saved)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// The key that starts a command to this program rather than to the machine: Ctrl-A.
const ESCAPE: u8 = 1;

/// Separates what the user types for the machine from commands to this program.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes typed bytes; adds those for the machine to `out`. `true` if the user asks to end: Ctrl-A x.
    pub fn take(&mut self, typed: &[u8], out: &mut Vec<u8>) -> bool {
        for key in typed {
            match (std::mem::take(&mut self.escaped), *key) {
                (true, b'x' | b'X') => return true,
                (true, ESCAPE | b'a') => out.push(ESCAPE),
                (true, other) => out.extend([ESCAPE, other]),
                (false, ESCAPE) => self.escaped = true,
                (false, other) => out.push(other),
            }
        }
        false
    }
}

/// Passes what the user types on to the machine, on a thread of its own, until the end of input or the end of
/// this program. With `escape`, Ctrl-A x calls `quit`.
pub fn pass_on(input: Input, escape: bool, quit: impl Fn() + Send + 'static) {
    std::thread::spawn(move || {
        let (mut keys, mut buffer) = (Keys::default(), [0; 4096]);
        while let Ok(count @ 1..) = std::io::stdin().lock().read(&mut buffer) {
            let mut out = Vec::new();
            if escape {
                let ends = keys.take(&buffer[..count], &mut out);
                input.send(&out);
                if ends {
                    return quit();
                }
            } else {
                input.send(&buffer[..count]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_key() {
        let typed = |parts: &[&[u8]]| {
            let (mut keys, mut out) = (Keys::default(), Vec::new());
            let end = parts.iter().any(|part| keys.take(part, &mut out));
            (out, end)
        };
        assert_eq!(typed(&[b"ls\r"]), (b"ls\r".to_vec(), false));
        assert_eq!(typed(&[b"a\x01", b"xb"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x01a\x01\x01"]), (b"\x01\x01".to_vec(), false));
        assert_eq!(typed(&[b"\x01q\x03"]), (b"\x01q\x03".to_vec(), false));
    }
}
