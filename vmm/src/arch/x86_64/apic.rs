//! Interrupt controllers of the guest: a local APIC for each vCPU ([`local`]) and an I/O APIC ([`io`]).

pub mod io;
pub mod local;
pub mod message;
mod timer;
mod vectors;

pub use timer::Timer;
pub use vectors::VectorSet;

#[cfg(test)]
mod model;
