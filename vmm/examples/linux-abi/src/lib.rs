//! A personality: runs a static Linux program as a foreign thread and answers its system calls.
//!
//! The program runs in a domain and a space of its own, and its thread can reach nothing but this server: each of its system
//! calls and exceptions is a message here. The server holds the memory that the program uses and sees it through a mapping of
//! its own, so that an address that the program names is looked up among what it was given and never believed.
//!
//! Answered are `write` to the standard output and error, which go to the log line by line, `mmap` of anonymous private
//! memory, `exit` and `exit_group`; every other call gets `ENOSYS`. Memory that is writable and executable is refused.
//! `ci/samples` shows how such a server is set up, and runs `linux-hello` under it.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(not(test), forbid(unsafe_code))]

pub mod arch;
pub mod calls;
pub mod loader;
pub mod output;
pub mod process;
pub mod server;

pub use process::{Backing, Process};
pub use server::{End, Resources, Server};
