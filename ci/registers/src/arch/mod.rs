//! The registers of each architecture.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::run;

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::run;

/// What went wrong.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// A system call.
    Status(abi::Status),
    /// A guest found another value: its number, and that of the register in the list.
    Changed {
        /// The guest.
        guest: u64,
        /// The register.
        register: u64,
        /// What it should hold.
        expected: u64,
        /// What it holds.
        found: u64,
    },
    /// The monitor found its own state changed.
    Monitor(&'static str),
    /// A guest did something else: number, kind of exit, qualification.
    Exit(u64, u64, u64),
}

impl From<abi::Status> for Failure {
    fn from(status: abi::Status) -> Failure {
        Failure::Status(status)
    }
}
