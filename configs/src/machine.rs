//! The machine that a system is made for.

/// A PC as the emulators make it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RAM in bytes.
    pub memory: u64,
    /// Number of CPUs.
    pub cpus: u32,
}

impl Machine {
    /// RAM that is no system's to give: firmware, hypervisor with its kernel memory, root task and
    /// the bundle with a guest kernel and an initial RAM disk of usual size.
    pub const RESERVE: u64 = 96 << 20;

    /// Least RAM of a machine.
    pub const MIN_MEMORY: u64 = 128 << 20;
    /// Most RAM of a machine.
    pub const MAX_MEMORY: u64 = 1 << 40;

    /// Where RAM lies, as start and end: a PC has a gap for devices below 4 GiB.
    pub fn ram(&self) -> Vec<(u64, u64)> {
        // As QEMU's q35: with more than 2.75 GiB, all above 2 GiB goes beyond the gap.
        let low = if self.memory > 0xb000_0000 {
            0x8000_0000
        } else {
            self.memory
        };
        let mut ranges = vec![(0, low)];
        if self.memory > low {
            ranges.push((4 << 30, (4 << 30) + self.memory - low));
        }
        ranges
    }

    /// Whether all of `start..end` is RAM.
    pub fn has_ram(&self, start: u64, end: u64) -> bool {
        self.ram()
            .iter()
            .any(|(from, to)| *from <= start && end <= *to)
    }
}
