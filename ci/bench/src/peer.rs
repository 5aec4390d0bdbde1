//! Threads that run beside the measuring one, in its domain.

use crate::place::Place;
use abi::boot::{ROOT_DOMAIN, ROOT_SPACE, ROOT_TIME};
use abi::syscall::ThreadFlags;
use abi::{Selector, Status};
use rt::ipc::Utcb;
use rt::syscall::{self, Cpu, Result, ThreadParameters, Time};
use rt::thread::Stack;

/// Priority of the measuring thread.
pub const PRIORITY: u8 = 64;

/// Budget of all of them in ticks: no turn ends by itself.
pub(crate) const FOR_EVER: u64 = 1 << 40;

/// What a thread is, beside what it does.
pub struct Peer {
    /// Selector that it gets.
    pub thread: Selector,
    /// Selector that its scheduling context gets.
    pub sched: Selector,
    /// Address of its UTCB.
    pub utcb: u64,
    /// Bytes of its stack.
    pub stack: usize,
    /// Its CPU.
    pub cpu: Cpu,
    /// Its priority.
    pub priority: u8,
    /// Portal for its exceptions.
    pub exceptions: Selector,
}

impl Peer {
    /// One of this priority that needs little stack.
    pub fn new(place: &mut Place, cpu: Cpu, priority: u8) -> Peer {
        Peer {
            thread: place.selector(),
            sched: place.selector(),
            utcb: place.utcb_address(),
            stack: 1024,
            cpu,
            priority,
            exceptions: Selector::NULL,
        }
    }

    /// Has it run `function` with `argument`.
    pub fn start(&self, function: fn(u64, Utcb), argument: u64) -> Result {
        let stack = Stack::allocate(self.stack);
        let entry = rt::thread::prepare(stack, self.utcb, function, argument);
        let parameters = ThreadParameters {
            domain: ROOT_DOMAIN,
            space: ROOT_SPACE,
            cpu: self.cpu,
            utcb: entry.utcb,
            ip: entry.ip,
            sp: entry.sp,
            exceptions: self.exceptions,
            flags: ThreadFlags::empty(),
        };
        let time = Time { priority: self.priority, budget: FOR_EVER, period: FOR_EVER };
        syscall::create_thread(ROOT_DOMAIN, self.thread, &parameters)?;
        syscall::create_sched(ROOT_DOMAIN, self.sched, ROOT_TIME, self.cpu, time)?;
        syscall::bind_sched(self.sched, self.thread)
    }

    /// Ends it.
    pub fn end(self) -> Result {
        syscall::delete(self.thread)?;
        syscall::delete(self.sched)
    }

    /// What `measure` returns while this thread runs `function` with `argument`.
    pub fn beside<T>(
        self,
        function: fn(u64, Utcb),
        argument: u64,
        measure: impl FnOnce() -> core::result::Result<T, Status>,
    ) -> core::result::Result<T, Status> {
        self.start(function, argument)?;
        let measured = measure();
        self.end()?;
        measured
    }
}
