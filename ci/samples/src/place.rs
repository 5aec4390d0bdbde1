//! Where things lie in a compartment's space, and in its capability table.

/// A compartment's own memory: its stack, and what it tells the driver.
pub const AREA_ADDRESS: u64 = 0x1000_0000;
/// Bytes of it.
pub const AREA: u64 = 0x8000;
/// Memory that it gives to others.
pub const POOL_ADDRESS: u64 = 0x2000_0000;
/// Bytes of that.
pub const POOL: u64 = 0x8_0000;
/// UTCB.
pub const UTCB: u64 = 0x3000_0000;
/// The Linux program's file.
pub const FILE_ADDRESS: u64 = 0x4000_0000;
/// What a pager gives to its clients.
pub const PAGED: u64 = 0x5000_0000;

/// Offset of the [`Start`] in a compartment's memory, which is also its first stack pointer.
pub const START: u64 = AREA - size_of::<Start>() as u64;
/// Words at the start of its memory that it tells the driver.
pub const REPORT: usize = 32;

/// Selectors of a compartment.
pub mod table {
    use abi::Selector;
    /// Its domain.
    pub const DOMAIN: Selector = Selector(1);
    /// Its thread.
    pub const THREAD: Selector = Selector(2);
    /// The memory that it gives to others.
    pub const POOL: Selector = Selector(3);
    /// The log.
    pub const LOG: Selector = Selector(4);
    /// Signals the driver.
    pub const DONE: Selector = Selector(5);
    /// A notification of its own.
    pub const REST: Selector = Selector(6);
    /// The portal of its exceptions.
    pub const EXCEPTIONS: Selector = Selector(7);
    /// A portal that echoes.
    pub const ECHO: Selector = Selector(8);
    /// Time of CPU 0.
    pub const TIME: Selector = Selector(9);
    /// Spaces of its clients.
    pub const SPACES: Selector = Selector(16);
    /// From here on all are free.
    pub const FREE: Selector = Selector(32);
    /// Size of the table.
    pub const SLOTS: u64 = 128;
}

/// What a compartment's thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Role {
    /// Runs the Linux program; arguments: bytes of its file, CPU, whether it is to fail.
    Linux,
    /// Sets and checks the registers of a foreign thread; argument: number of rounds.
    Probe,
    /// A pager of empty pages; arguments: limits of its clients.
    DemandZero,
    /// A pager of common pages; arguments: as above.
    CopyOnWrite,
    /// A pager that takes a message and never answers: it waits.
    Waits,
    /// The same: it uses all the time that it is given.
    Spins,
    /// Uses memory that a pager gives; arguments: what is in there, number of pages, its number.
    Client,
}

/// What a client finds in its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Contents {
    /// Zeros.
    Empty,
    /// What [`common`] says.
    Common,
}

/// The first word of page `page` of the pages that all clients of a pager see.
pub const fn common(page: usize) -> u64 {
    0x5eed_0000 + page as u64
}

/// What a thread is told. It lies at the top of its stack.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Start {
    /// What it is.
    pub role: Role,
    /// As the role says.
    pub arguments: [u64; 7],
}
