//! A running program: its environment and what is free in it.
use crate::env::Environment;
use crate::handler::{self, Entry};
use crate::ipc::{Message, Utcb};
use crate::layout;
use crate::mapping::Mapper;
use crate::selectors::Selectors;
use crate::syscall::{self, Cpu, Result, ThreadParameters};
use crate::thread::{self, Stack};
use abi::Selector;
use abi::syscall::ThreadFlags;
use core::sync::atomic::{AtomicU64, Ordering};

/// What a program's main function gets.
#[derive(Debug)]
pub struct Program {
    /// What the root task said.
    pub environment: Environment,
    /// The main thread's UTCB.
    pub utcb: Utcb,
    /// Free selectors.
    pub selectors: Selectors,
    /// Free addresses.
    pub mapper: Mapper,
    /// Free UTCB addresses.
    pub utcbs: UtcbAddresses,
}

/// Addresses for further threads' UTCBs.
#[derive(Debug)]
pub struct UtcbAddresses(AtomicU64);

impl UtcbAddresses {
    /// All of [`layout::UTCB_RANGE`].
    pub const fn new() -> UtcbAddresses {
        UtcbAddresses(AtomicU64::new(layout::UTCB_RANGE.start))
    }

    /// An unused address. Panics when there is none: the number of threads is part of a program's design.
    pub fn take(&self) -> u64 {
        let address = self.0.fetch_add(abi::PAGE_SIZE as u64, Ordering::Relaxed);
        assert!(address < layout::UTCB_RANGE.end, "too many threads");
        address
    }
}

impl Default for UtcbAddresses {
    fn default() -> Self {
        Self::new()
    }
}

impl Program {
    /// The program that `environment` describes, with its free ranges.
    ///
    /// # Safety
    /// Called once, on the first thread, whose UTCB handle it makes.
    pub unsafe fn new(environment: Environment) -> Program {
        Program {
            selectors: Selectors::new(environment.first_selector..environment.end_selector),
            mapper: Mapper::new(layout::SPACE, layout::FREE_ADDRESSES),
            utcbs: UtcbAddresses::new(),
            // SAFETY: the root task maps it; the caller's promise.
            utcb: unsafe { Utcb::new(layout::UTCB_ADDRESS) },
            environment,
        }
    }

    /// Creates a passive thread on `cpu` that serves portals with `function`; returns its selector. Its
    /// portals are made with [`syscall::create_portal`].
    pub fn create_handler<T: Sync>(
        &self,
        cpu: Cpu,
        stack: usize,
        data: &'static T,
        function: fn(&T, &mut Message<'_>),
    ) -> Result<Selector> {
        let utcb = self.utcbs.take();
        self.create(cpu, handler::prepare(Stack::allocate(stack), utcb, data, function))
    }

    /// Creates a thread on `cpu`; returns its selector. It runs `function` once a scheduling context is
    /// bound to it.
    pub fn create_thread(
        &self,
        cpu: Cpu,
        stack: usize,
        function: fn(u64, Utcb),
        argument: u64,
    ) -> Result<Selector> {
        let utcb = self.utcbs.take();
        self.create(cpu, thread::prepare(Stack::allocate(stack), utcb, function, argument))
    }

    fn create(&self, cpu: Cpu, entry: Entry) -> Result<Selector> {
        let dst = self.selectors.one();
        let parameters = ThreadParameters {
            domain: layout::DOMAIN,
            space: layout::SPACE,
            cpu,
            utcb: entry.utcb,
            ip: entry.ip,
            sp: entry.sp,
            exceptions: layout::EXCEPTION_PORTALS.offset(cpu),
            flags: ThreadFlags::empty(),
        };
        syscall::create_thread(layout::DOMAIN, dst, &parameters)?;
        Ok(dst)
    }
}
