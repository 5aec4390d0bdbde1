//! Where things lie: in the spaces of the root task and of the monitor, and in the monitor's capability table.

use abi::PAGE_SIZE;
use bench_guest::place;

/// vCPUs of the guest, each with a handler thread.
pub const VCPUS: usize = 2;

/// State page of vCPU 0, in the monitor's space; that of vCPU 1 is the next.
pub const STATES: u64 = 0x5000_6000;
/// UTCB of vCPU 0's handler, in the monitor's space; that of vCPU 1's is the next.
pub const UTCBS: u64 = 0x5000_8000;
/// UTCB of the thread that wakes the guest.
pub const WAKER_UTCB: u64 = 0x5000_a000;
/// The guest's RAM, in both spaces.
pub const RAM: u64 = 0x5020_0000;
/// Its size.
pub const RAM_SIZE: u64 = place::RAM.end - place::RAM.start;
/// The page of [`place::PAGE`], at this offset of the memory that all is made of.
pub const PAGE_OFFSET: u64 = RAM_SIZE;
/// A page in which the monitor reports, in both spaces, and at this offset.
pub const REPORT_OFFSET: u64 = PAGE_OFFSET + PAGE_SIZE as u64;
/// As [`REPORT_OFFSET`].
pub const REPORT: u64 = 0x5040_0000;
/// What can be written of the monitor's program, at this offset; the root task sees it at [`COPY`].
pub const COPY_OFFSET: u64 = REPORT_OFFSET + PAGE_SIZE as u64;
/// As [`COPY_OFFSET`].
pub const COPY: u64 = 0x5050_0000;
/// Most bytes of it.
pub const COPY_SIZE: u64 = 1 << 20;
/// All the memory.
pub const MEMORY_SIZE: u64 = COPY_OFFSET + COPY_SIZE;

/// The state page of a vCPU, in the monitor's space.
pub const fn state(vcpu: usize) -> u64 {
    STATES + (vcpu * PAGE_SIZE) as u64
}

/// Selectors of the monitor.
pub mod table {
    use abi::Selector;

    /// Its domain.
    pub const DOMAIN: Selector = Selector(1);
    /// The guest's space.
    pub const GUEST: Selector = Selector(2);
    /// The memory of [`bench_guest::place::PAGE`].
    pub const PAGE: Selector = Selector(3);
    /// Its mapping, when it is there.
    pub const PAGE_MAPPING: Selector = Selector(4);
    /// Signals the thread that wakes the guest.
    pub const WAKER: Selector = Selector(5);
    /// Kicks of the vCPUs for interrupts that they send each other.
    pub const KICKS: Selector = Selector(6);
    /// Signals the root task: one for each event.
    pub const EVENTS: Selector = Selector(8);
    /// Size of the table.
    pub const SLOTS: u64 = 128;

    /// The portals of a kind of exit that are exchanged: the one that is usual, and the one that saves more.
    pub const fn exchanged(vcpu: usize) -> [Selector; 2] {
        let first = Selector(16 + 2 * vcpu as u32);
        [first, first.offset(1)]
    }

    /// The portal of an exit, by the code of its kind.
    pub const fn portal(vcpu: usize, kind: u32) -> Selector {
        Selector(32 + 32 * vcpu as u32 + kind)
    }
}

/// What the monitor tells the root task, by the bit of its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// The results are complete.
    Ended = 0,
    /// The guest has failed.
    Failed = 1,
    /// The guest wants an interrupt.
    Interrupt = 2,
    /// An exit that the monitor does not know; what it is, is in the report.
    Unknown = 3,
}

impl Event {
    /// All events.
    pub const ALL: [Event; 4] = [Event::Ended, Event::Failed, Event::Interrupt, Event::Unknown];

    /// Its bit.
    pub const fn bit(self) -> u64 {
        1 << self as u32
    }
}

/// Bit of a kick: the interrupt of a device.
pub const KICK_DEVICE: u64 = 1 << 0;
/// Bit of a kick: an interrupt of another vCPU.
pub const KICK_VCPU: u64 = 1 << 1;
