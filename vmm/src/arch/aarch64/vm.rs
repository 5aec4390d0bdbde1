//! What the vCPUs of a VM share.
use super::boot::load::Start;
use super::clock::Clock;
use super::device_tree::Serial;
use super::gic::Gic;
use super::id::GuestId;
use super::psci::Powers;
use crate::memory::GuestRam;
use core::sync::atomic::AtomicBool;
use spin::Mutex;

pub use super::gic::MAX_VCPUS;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    /// Its RAM, with the guest loaded.
    pub ram: GuestRam,
    /// What ID registers answer.
    pub id: GuestId,
    /// What firmware does against speculation ([`abi::boot::Workaround::pack`]).
    pub workarounds: u32,
    /// Its clock.
    pub clock: Clock,
    /// Its serial port.
    pub serial: Option<Serial>,
    /// Its interrupt controller.
    pub gic: Mutex<Gic>,
    /// Which of its vCPUs run.
    pub powers: Mutex<Powers<MAX_VCPUS>>,
    /// It has ended.
    pub stopped: AtomicBool,
    /// Number of its vCPUs.
    pub vcpus: u32,
}

impl Vm {
    /// The power states after reset.
    pub fn powers(vcpus: u32, start: &Start) -> Mutex<Powers<MAX_VCPUS>> {
        Mutex::new(Powers::new(vcpus, start.entry, start.device_tree))
    }
}
