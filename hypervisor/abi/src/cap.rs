//! Capabilities: selectors, kinds, rights.

use crate::codes::{codes, flags};

/// Index into the capability table of the calling thread's protection domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Selector(pub u32);

impl Selector {
    /// Never names a capability.
    pub const NULL: Selector = Selector(0);

    /// The selector `n` places further.
    pub const fn offset(self, n: u32) -> Selector {
        Selector(self.0.wrapping_add(n))
    }
}

/// What a capability to a notification signals: the bits that [`crate::Op::Signal`] sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Badge(pub u64);

codes! {
    /// Kind of the object that a capability names.
    pub enum Kind: u8 {
        /// Empty slot.
        Null = 0,
        /// Protection domain: capability table and kernel-memory quota.
        Domain = 1,
        /// Address space: host, guest or device.
        Space = 2,
        /// Thread.
        Thread = 3,
        /// vCPU.
        Vcpu = 4,
        /// Scheduling context.
        Sched = 5,
        /// Portal.
        Portal = 6,
        /// Notification.
        Notification = 7,
        /// A physical range: RAM, device memory or I/O ports.
        Memory = 8,
        /// A mapping of a memory capability into a space. Deleting it unmaps.
        Mapping = 9,
        /// An interrupt line.
        Interrupt = 10,
        /// The kernel's log.
        Log = 11,
        /// The machine's power.
        Platform = 12,
        /// Time of some CPUs, up to some priority.
        Time = 13,
    }
}

flags! {
    /// Rights of a capability. What a bit allows depends on the kind of the object; a
    /// delegation can only remove rights.
    pub struct Rights: u16 {
        /// Memory: map readable. Log: read. Notification: wait.
        const READ = 1 << 0;
        /// Memory: map writable. Log: write. Notification: signal.
        const WRITE = 1 << 1;
        /// Memory: map executable.
        const EXEC = 1 << 2;
        /// Portal: call it.
        const CALL = 1 << 3;
        /// Domain: create objects that its quota pays for; give and take back quota. Time: create scheduling contexts.
        const CREATE = 1 << 4;
        /// Domain: put capabilities into its table and take them out. Space: map into it.
        const INSTALL = 1 << 5;
        /// Thread, vCPU, scheduling context, interrupt: bind, start, acknowledge. Platform: switch off. Domain:
        /// query its quota. Thread: create portals that it handles. Time: set the cyclic schedule.
        const CONTROL = 1 << 6;
        /// Any: delegate the capability further.
        const DELEGATE = 1 << 7;
    }
}

impl Rights {
    /// The rights to wait for a notification.
    pub const WAIT: Rights = Rights::READ;
    /// The right to signal a notification.
    pub const SIGNAL: Rights = Rights::WRITE;
    /// Read and write.
    pub const RW: Rights = Rights::READ.union(Rights::WRITE);
    /// Read and execute.
    pub const RX: Rights = Rights::READ.union(Rights::EXEC);
}

/// What a capability to time allows on its CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeLimit {
    /// The highest priority, below [`crate::PRIORITIES`].
    pub priority: u8,
    /// The partition of the cyclic schedule that what is made with it belongs to, below [`crate::PARTITIONS`]. From 0, and
    /// from no other, capabilities of other partitions can be derived.
    pub partition: u8,
}

impl TimeLimit {
    /// All priorities and partitions.
    pub const ALL: TimeLimit = TimeLimit { priority: crate::PRIORITIES as u8 - 1, partition: 0 };

    /// As an argument of [`crate::Op::Delegate`]: the priority in bits 0–7, the partition in bits 8–15.
    pub const fn pack(self) -> u64 {
        self.priority as u64 | (self.partition as u64) << 8
    }

    /// What [`TimeLimit::pack`] made, unless it is out of range.
    pub const fn unpack(word: u64) -> Option<TimeLimit> {
        let limit = TimeLimit { priority: word as u8, partition: (word >> 8) as u8 };
        let inside = (limit.priority as usize) < crate::PRIORITIES
            && (limit.partition as usize) < crate::PARTITIONS;
        if inside && word >> 16 == 0 { Some(limit) } else { None }
    }

    /// Whether `narrower` allows no more.
    pub const fn includes(self, narrower: TimeLimit) -> bool {
        narrower.priority <= self.priority
            && (self.partition == 0 || narrower.partition == self.partition)
    }
}

codes! {
    /// Kind of a memory capability's range.
    pub enum MemoryKind: u8 {
        /// RAM; mapped write-back, unless [`crate::syscall::Caching`] says otherwise.
        Ram = 0,
        /// Device memory; mapped uncached or write-combining, never executable.
        Device = 1,
        /// RAM that firmware wrote (ACPI tables); mapped write-back, read-only.
        Firmware = 2,
        /// x86 I/O ports: "addresses" 0 to 0xffff, one byte each.
        Ports = 3,
    }
}
