//! The kernel's portable core, compiled from its own sources with atomics and locks that a checker controls: what two
//! CPUs do at once inside the kernel, in every order.
//!
//! The checker lets one CPU run at a time and can switch at every atomic access and lock. It goes through all
//! schedules with up to a number of switches that no CPU had to make ([`sync::Bounded`]). Accesses are
//! sequentially consistent: what weaker orders of memory would allow is not seen here.

#[path = "../../../hypervisor/src/addr.rs"]
pub mod addr;
#[path = "../../../hypervisor/src/arch/mod.rs"]
pub mod arch;
#[path = "../../../hypervisor/src/binding.rs"]
pub mod binding;
#[path = "../../../hypervisor/src/cell.rs"]
pub mod cell;
#[path = "../../../hypervisor/src/context.rs"]
pub mod context;
#[path = "../../../hypervisor/src/cpu.rs"]
pub mod cpu;
#[path = "../../../hypervisor/src/create.rs"]
pub mod create;
#[path = "../../../hypervisor/src/cyclic.rs"]
pub mod cyclic;
#[path = "../../../hypervisor/src/delegate.rs"]
pub mod delegate;
#[path = "../../../hypervisor/src/destroy.rs"]
pub mod destroy;
#[path = "../../../hypervisor/src/domain.rs"]
pub mod domain;
#[path = "../../../hypervisor/src/doorbell.rs"]
pub mod doorbell;
#[path = "../../../hypervisor/src/epoch.rs"]
pub mod epoch;
#[path = "../../../hypervisor/src/interrupt.rs"]
pub mod interrupt;
#[path = "../../../hypervisor/src/ipc.rs"]
pub mod ipc;
#[path = "../../../hypervisor/src/latency.rs"]
pub mod latency;
#[allow(unused_imports, unused_macros)]
#[path = "../../../hypervisor/src/log.rs"]
pub mod log;
#[path = "../../../hypervisor/src/logring.rs"]
pub mod logring;
#[path = "../../../hypervisor/src/lookup.rs"]
pub mod lookup;
#[path = "../../../hypervisor/src/mem.rs"]
pub mod mem;
#[path = "../../../hypervisor/src/migrate.rs"]
pub mod migrate;
#[path = "../../../hypervisor/src/notification.rs"]
pub mod notification;
#[path = "../../../hypervisor/src/object.rs"]
pub mod object;
#[path = "../../../hypervisor/src/overrun.rs"]
pub mod overrun;
#[path = "../../../hypervisor/src/portal.rs"]
pub mod portal;
#[path = "../../../hypervisor/src/ring.rs"]
pub mod ring;
#[path = "../../../hypervisor/src/sched.rs"]
pub mod sched;
#[path = "../../../hypervisor/src/slot.rs"]
pub mod slot;
#[path = "../../../hypervisor/src/space.rs"]
pub mod space;
pub mod sync;
#[path = "../../../hypervisor/src/syscall.rs"]
pub mod syscall;
#[path = "../../../hypervisor/src/tables.rs"]
pub mod tables;
#[path = "../../../hypervisor/src/thread.rs"]
pub mod thread;
#[path = "../../../hypervisor/src/time.rs"]
pub mod time;
#[path = "../../../hypervisor/src/timeout.rs"]
pub mod timeout;
#[path = "../../../hypervisor/src/vcpu.rs"]
pub mod vcpu;

#[cfg(test)]
mod tests;
#[cfg(test)]
#[allow(dead_code)]
#[path = "../../../hypervisor/src/tests/world.rs"]
mod world;
