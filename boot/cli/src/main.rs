//! The `bulkhead` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    bulkhead::command::main()
}
