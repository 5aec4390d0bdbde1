//! What depends on the processor, and where threads start.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub use aarch64::*;

entry!(
    /// Where the foreign thread starts.
    foreign,
    crate::foreign::measure
);

entry!(
    /// Where the receiver of capabilities starts.
    receiver,
    crate::ipc::receiver
);

entry!(
    /// Where the pager starts.
    pager,
    crate::memory::pager
);

entry!(
    /// Where the client of a pair starts.
    client,
    crate::throughput::client
);
