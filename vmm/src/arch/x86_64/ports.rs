//! I/O ports of the guest: which device answers where.

/// Sleep control register of the FADT.
pub const SLEEP_CONTROL: u16 = 0x600;
/// Sleep status register of the FADT.
pub const SLEEP_STATUS: u16 = 0x601;
/// Sleep type of S5 in `\_S5`.
pub const SLEEP_TYPE_S5: u8 = 5;
/// Reset register of the FADT, also the reset control register of PC chipsets.
pub const RESET: u16 = 0xcf9;
/// Value that resets: full reset.
pub const RESET_VALUE: u8 = 0x06;

/// Sleep control: enter the sleep type in bits 2–4.
const SLEEP_ENABLE: u8 = 1 << 5;
/// Reset control: a rising edge resets the processor.
const RESET_CPU: u8 = 1 << 2;
/// Command of the keyboard controller that pulses the processor's reset line.
const KEYBOARD_RESET: u8 = 0xfe;

/// What is at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortDevice {
    /// Register of the serial port.
    Serial(u8),
    /// Sleep control.
    SleepControl,
    /// Sleep status: wake status is never set.
    SleepStatus,
    /// Reset control.
    ResetControl,
    /// Command port of the keyboard controller: there is none, but resets are obeyed.
    KeyboardCommand,
    /// A device that PCs have and this machine has not: not worth a line in the log.
    Absent,
    /// Nobody knows.
    Unknown,
}

/// Devices of PCs that kernels probe and that are not there. First and last port.
const ABSENT: &[(u16, u16)] = &[
    (0x00, 0x1f),   // DMA controller
    (0x20, 0x21),   // interrupt controller
    (0x2e, 0x2f),   // configuration of super I/O chips
    (0x40, 0x43),   // timer
    (0x4e, 0x4f),   // configuration of super I/O chips
    (0x60, 0x63),   // keyboard controller's data, speaker
    (0x70, 0x77),   // CMOS and clock
    (0x80, 0x8f),   // POST code, DMA pages
    (0xa0, 0xa1),   // interrupt controller
    (0xc0, 0xdf),   // DMA controller
    (0xed, 0xed),   // delay
    (0x2e8, 0x2ef), // serial ports
    (0x2f8, 0x2ff),
    (0x3b0, 0x3df), // VGA
    (0x3e8, 0x3ef),
    (0x3f8, 0x3ff),
    (0x4d0, 0x4d1), // trigger modes
    (0xcf8, 0xcff), // PCI configuration
];

/// The device at `port`; `serial` is the first port of the guest's 16550.
#[inline]
pub fn device(port: u16, serial: Option<u16>) -> PortDevice {
    if let Some(register) = serial.and_then(|base| port.checked_sub(base)).filter(|&r| r < 8) {
        return PortDevice::Serial(register as u8);
    }
    match port {
        SLEEP_CONTROL => PortDevice::SleepControl,
        SLEEP_STATUS => PortDevice::SleepStatus,
        RESET => PortDevice::ResetControl,
        0x64 => PortDevice::KeyboardCommand,
        _ if ABSENT.iter().any(|&(first, last)| (first..=last).contains(&port)) => {
            PortDevice::Absent
        }
        _ => PortDevice::Unknown,
    }
}

/// What a guest asked of its machine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Power off.
    Off,
    /// Start again.
    Reset,
}

/// What a byte written to a device of this module asks for.
pub fn power_request(device: PortDevice, value: u8) -> Option<PowerRequest> {
    match device {
        PortDevice::SleepControl
            if value & SLEEP_ENABLE != 0 && value >> 2 & 7 == SLEEP_TYPE_S5 =>
        {
            Some(PowerRequest::Off)
        }
        PortDevice::ResetControl if value & RESET_CPU != 0 => Some(PowerRequest::Reset),
        PortDevice::KeyboardCommand if value == KEYBOARD_RESET => Some(PowerRequest::Reset),
        _ => None,
    }
}

/// All ones, as a bus reads where nothing answers.
pub const fn absent(size: u8) -> u32 {
    match size {
        1 => 0xff,
        2 => 0xffff,
        _ => 0xffff_ffff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers() {
        let serial = Some(0x3f8);
        assert_eq!(device(0x3f8, serial), PortDevice::Serial(0));
        assert_eq!(device(0x3ff, serial), PortDevice::Serial(7));
        assert_eq!(device(0x3f8, None), PortDevice::Absent);
        assert_eq!(device(0x400, serial), PortDevice::Unknown);
        assert_eq!(device(0xcf8, serial), PortDevice::Absent);
        assert_eq!(device(RESET, serial), PortDevice::ResetControl);
        for port in 0..=u16::MAX {
            device(port, Some(0xfffc));
        }
    }

    #[test]
    fn who_ends_the_machine() {
        use PortDevice::*;
        assert_eq!(power_request(SleepControl, 0x34), Some(PowerRequest::Off));
        assert_eq!(power_request(SleepControl, 0x14), None);
        assert_eq!(power_request(ResetControl, RESET_VALUE), Some(PowerRequest::Reset));
        assert_eq!(power_request(ResetControl, 2), None);
        assert_eq!(power_request(KeyboardCommand, 0xfe), Some(PowerRequest::Reset));
        assert_eq!(power_request(KeyboardCommand, 0xff), None);
    }
}
