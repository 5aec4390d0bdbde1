//! Pagers: programs that give others their memory page by page, when it is used.
//!
//! A pager handles the exceptions of its clients' threads. The page fault of a client is a message; the pager maps memory
//! that it holds into the client's space, to which it has a capability, and has the client resumed, which executes its
//! instruction again. What a client may have is its pager's policy: [`Policy::DemandZero`] gives empty pages up to a
//! limit of the client's own, [`Policy::CopyOnWrite`] shows each client the same pages and gives it copies of those
//! that it writes to. A client that asks for more, or for something else, never runs again; others do not notice.
//! `ci/samples` shows how pagers and their clients are set up.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod policy;
pub mod server;

pub use policy::{Pager, Policy};
pub use server::{Resources, Server};

/// Pages of each client's memory that the pager gives.
pub const PAGES: usize = 16;
/// Most clients of a pager.
pub const CLIENTS: usize = 4;
