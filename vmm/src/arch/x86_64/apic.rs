//! Interrupt controllers of the guest: a local APIC for each vCPU ([`local`]), with what others tell it ([`mailbox`]),
//! and an I/O APIC ([`io`]).

pub mod io;
pub mod local;
pub mod mailbox;
pub mod message;
mod timer;
mod vectors;

pub use timer::Timer;
pub use vectors::VectorSet;

#[cfg(test)]
mod model;
