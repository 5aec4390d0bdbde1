//! What a vCPU needs of the world outside of the monitor.
use abi::vcpu::ExitKind;
use core::sync::atomic::{AtomicBool, Ordering};
use rt::protocol::supervisor::StopReason;

/// The world, as one vCPU reaches it.
pub trait Platform {
    /// The machine's counter.
    fn counter(&self) -> u64;
    /// Reads a register of the guest's serial port, which a console server emulates.
    fn serial_read(&mut self, register: u32) -> u32;
    /// Writes a register of the guest's serial port.
    fn serial_write(&mut self, register: u32, value: u32);
    /// Has exits of a kind save their wide or their usual set of groups from now on
    /// (`exits` of the architecture).
    fn widen(&mut self, kind: ExitKind, wide: bool);
    /// The vCPU waits for another one by spinning: whoever else wants this CPU goes first.
    fn give_way(&mut self);
    /// Ends guest mode or the halt of the VM's vCPU `vcpu`: it takes an exit [`ExitKind::Kick`].
    fn kick(&mut self, vcpu: u32);
    /// The VM has come to its end.
    fn stopped(&mut self, reason: StopReason);
}

/// Bit of a vCPU's kick notification that the VM's vCPUs signal each other with. The lower ones are
/// interrupt lines.
pub const KICK_VCPU: u64 = 1 << 63;

/// Ends a VM of `vcpus` vCPUs by its vCPU `id`; the others are parked when they hear of it. `stopped` says to all
/// whether it has ended.
#[cold]
pub fn end(
    platform: &mut impl Platform,
    stopped: &AtomicBool,
    id: u32,
    vcpus: u32,
    reason: StopReason,
) {
    // The first reason counts.
    if !stopped.swap(true, Ordering::Relaxed) {
        platform.stopped(reason);
        for vcpu in (0..vcpus).filter(|vcpu| *vcpu != id) {
            platform.kick(vcpu);
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    /// What vCPUs did to the world.
    #[derive(Clone, Default)]
    pub struct World {
        /// The machine's counter.
        pub counter: Rc<Cell<u64>>,
        /// Registers of the serial port that were written, with the values.
        pub serial: Rc<RefCell<Vec<(u32, u32)>>>,
        /// Kinds of exits that became wide or usual.
        pub widened: Rc<RefCell<Vec<(ExitKind, bool)>>>,
        /// How often a vCPU gave way.
        pub gave_way: Rc<Cell<u32>>,
        /// vCPUs that were kicked.
        pub kicked: Rc<RefCell<Vec<u32>>>,
        /// Why the VM has ended.
        pub stopped: Rc<Cell<Option<StopReason>>>,
    }

    impl Platform for World {
        fn counter(&self) -> u64 {
            self.counter.get()
        }

        fn serial_read(&mut self, register: u32) -> u32 {
            0x1000 + register
        }

        fn serial_write(&mut self, register: u32, value: u32) {
            self.serial.borrow_mut().push((register, value));
        }

        fn widen(&mut self, kind: ExitKind, wide: bool) {
            self.widened.borrow_mut().push((kind, wide));
        }

        fn give_way(&mut self) {
            self.gave_way.set(self.gave_way.get() + 1);
        }

        fn kick(&mut self, vcpu: u32) {
            self.kicked.borrow_mut().push(vcpu);
        }

        fn stopped(&mut self, reason: StopReason) {
            assert_eq!(self.stopped.replace(Some(reason)), None);
        }
    }
}
