//! Arm: power by the kernel's firmware calls, VMs, exceptions.
use crate::guest_ram::Layout;
use crate::root::Root;
use abi::boot::ROOT_PLATFORM;
use abi::syscall::PowerAction;
use rt::syscall;

/// A guest's RAM: from 1 GiB upwards. What lies below is left to devices.
pub const GUEST_RAM: Layout = Layout { start: 0x4000_0000, hole: None };

/// Switches the machine off, or resets it if that does not work. Returns if neither does.
pub fn power_off(_root: &mut Root) {
    for (action, what) in [(PowerAction::Off, "switched off"), (PowerAction::Reset, "reset")] {
        if let Err(status) = syscall::power(ROOT_PLATFORM, action) {
            log::error!("the machine cannot be {what}: {}", status.name());
        }
    }
}

/// What an exception is called; `class` is the first word of its message (Arm ARM D19.2.37, EC).
pub fn exception_name(class: u64) -> &'static str {
    match class {
        0x00 => "undefined instruction",
        0x07 => "no vector unit",
        0x0e => "illegal execution state",
        0x18 => "forbidden system register",
        0x20 => "instruction fault",
        0x22 => "misaligned program counter",
        0x24 => "data fault",
        0x26 => "misaligned stack pointer",
        0x3c => "breakpoint",
        _ => "exception",
    }
}
