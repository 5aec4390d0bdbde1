//! Threads: user-level execution contexts.

use crate::arch::Frame;
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, HasContext, State};
use crate::domain::Domain;
use crate::epoch::Round;
use crate::mem::KernelPage;
use crate::portal::Handled;
use crate::ring::Ring;
use crate::space::{Space, User};
use abi::operation::Registers;
use abi::utcb::Utcb;
use abi::{Op, Selector};
use core::mem::offset_of;

/// An exception that is to be told to the thread's handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exception {
    /// The processor's vector.
    pub vector: u64,
    /// Error code, 0 where there is none.
    pub error: u64,
    /// Fault address, 0 where there is none.
    pub address: u64,
}

/// A system call that is done but for the end of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sync {
    /// The operation.
    pub op: Op,
    /// What its first argument names.
    pub selector: Selector,
    /// The epoch.
    pub round: Round,
}

/// Index of the first message word in a UTCB page.
pub const MESSAGE: usize = offset_of!(Utcb, words) / 8;

/// A thread: one page, with the context first.
#[repr(C, align(64))]
pub struct Thread {
    /// Common part of threads and vCPUs.
    pub context: Context,
    /// User registers while the thread is not running.
    pub frame: CpuCell<Frame>,
    /// Who called this thread and waits for its reply.
    pub caller: CpuCell<Option<Ref<Context>>>,
    /// Where its selectors are looked up.
    pub domain: Ref<Domain>,
    /// Where its addresses are.
    pub space: Ref<Space>,
    /// Its place among the space's users.
    pub use_of_space: User,
    /// Its UTCB.
    pub utcb: KernelPage,
    /// Where the UTCB is in its space.
    pub utcb_address: u64,
    /// Selector of the portal that handles its exceptions.
    pub exception_portal: Selector,
    /// An exception that has not been delivered, because its handler is busy.
    pub pending: CpuCell<Option<Exception>>,
    /// Whether the call that it waits in tells an exception.
    pub in_exception: CpuCell<bool>,
    /// Whether its system calls go to the handler of its exceptions. Such a thread handles no portals, and its
    /// [`Context::reply_path`] is always general.
    pub foreign: bool,
    /// Portals that this thread handles.
    pub portals: Ring<Handled>,
    /// What its system call waits for before it returns.
    pub sync: CpuCell<Option<Sync>>,
}

const _: () = assert!(core::mem::size_of::<Thread>() <= abi::PAGE_SIZE);

// SAFETY: the context is the first field.
unsafe impl HasContext for Thread {}

impl Thread {
    /// Whether a call to it has to wait.
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        !matches!(self.context.state.get(), State::Idle | State::New | State::Stopped)
    }

    /// Changes the saved registers in place.
    #[inline(always)]
    pub fn with_frame<R>(&self, change: impl FnOnce(&mut Frame) -> R) -> R {
        self.frame.with_mut(change)
    }

    /// What a system call returns if it succeeds, beside the status.
    #[inline(always)]
    pub fn return_values<T: Registers>(&self, results: &T) {
        self.with_frame(|frame| results.each(|register, word| frame.set_arg(register, word)));
    }
}
