//! Lines of this program in the log.
use crate::syscall::{self, LOG_CHUNK};
use abi::Selector;
use core::fmt::{self, Write};
use log::{LevelFilter, Log, Metadata, Record};

/// Longest line; what is longer is cut.
const LINE: usize = 4 * LOG_CHUNK;

/// Formats one line and writes it when dropped.
struct Line {
    log: Selector,
    bytes: [u8; LINE],
    length: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the line end.
        for &byte in text.as_bytes() {
            if self.length == LINE - 1 {
                break;
            }
            self.bytes[self.length] = if byte == b'\n' { b' ' } else { byte };
            self.length += 1;
        }
        Ok(())
    }
}

/// Writes one line `name: text`. Allocates nothing; a failure to log has nowhere to go.
pub fn line(log: Selector, name: &str, text: fmt::Arguments<'_>) {
    let mut line = Line { log, bytes: [0; LINE], length: 0 };
    let _ = write!(line, "{name}: {text}");
    line.bytes[line.length] = b'\n';
    let _ = syscall::log_write(line.log, &line.bytes[..=line.length]);
}

struct Logger {
    log: Selector,
    name: &'static str,
}

static LOGGER: spin::Once<Logger> = spin::Once::new();

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            line(self.log, self.name, *record.args());
        }
    }

    fn flush(&self) {}
}

/// Sends the `log` crate's records of level info and above to `log`, prefixed with the program's name.
pub fn init(log: Selector, name: &'static str) {
    let logger = LOGGER.call_once(|| Logger { log, name });
    if log::set_logger(logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// The log and the name that [`init`] was given.
#[cfg_attr(not(target_os = "none"), allow(dead_code))]
pub(crate) fn current() -> Option<(Selector, &'static str)> {
    LOGGER.get().map(|logger| (logger.log, logger.name))
}
