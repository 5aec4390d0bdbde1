//! A Linux program: what it asks of its system, and what it expects to hear.
//!
//! It uses the system calls `write`, `mmap` and `exit_group`, and tries some that must fail. Whoever runs it, Linux or a
//! handler of its system calls, it prints the same lines and exits with [`SUCCESS`]. With an argument beside its name it
//! ends after the first line with an instruction that does not exist.
#![no_std]

/// Exit code when everything was as expected.
pub const SUCCESS: i32 = 42;
/// Its first line.
pub const GREETING: &str = "linux-hello: hello\n";
/// Its last line.
pub const FAREWELL: &str = "linux-hello: everything is as on Linux\n";
