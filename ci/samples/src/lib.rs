//! Runs the example programs, each part in a domain of its own, and looks at what they do.
//!
//! It is a root task of its own. A Linux program runs under a server that answers its system calls; a foreign thread makes the
//! kernel's own system calls and gets none; programs get their memory from pagers, of which one never answers. When a
//! part has ended, the kernel must have got back exactly what it gave. Lines in the log: `samples: PART: WHAT CAME OF IT`,
//! and at the end `samples: done` or `samples: FAILED WHY`.
#![cfg_attr(target_os = "none", no_std)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
pub mod arch;
#[cfg(target_os = "none")]
pub mod compartment;
#[cfg(target_os = "none")]
pub mod driver;
#[cfg(target_os = "none")]
pub mod place;
#[cfg(target_os = "none")]
pub mod probe;
#[cfg(target_os = "none")]
pub mod roles;
