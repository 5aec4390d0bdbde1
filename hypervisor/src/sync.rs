//! Atomics and locks of the portable core. `ci/schedules` compiles the core with others in their place, which let its
//! checker switch between CPUs wherever one of them is used.

pub use core::sync::atomic;
pub use spin::mutex::{TicketMutex, TicketMutexGuard};
