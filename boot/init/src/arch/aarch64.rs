//! Arm: power by the kernel's firmware calls.
use crate::guest_ram::Layout;
use crate::root::Root;
use abi::boot::ROOT_PLATFORM;
use abi::syscall::PowerAction;
use rt::syscall;

/// A guest's RAM: from 1 GiB upwards. What lies below is left to devices.
pub const GUEST_RAM: Layout = Layout {
    start: 0x4000_0000,
    hole: None,
};

/// Switches the machine off, or resets it if that does not work. Returns if neither does.
pub fn power_off(_root: &mut Root) {
    for (action, what) in [
        (PowerAction::Off, "switched off"),
        (PowerAction::Reset, "reset"),
    ] {
        if let Err(status) = syscall::power(ROOT_PLATFORM, action) {
            log::error!("the machine cannot be {what}: {}", status.name());
        }
    }
}
