//! What a vCPU needs of the world outside of the monitor.
use abi::vcpu::ExitKind;
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
