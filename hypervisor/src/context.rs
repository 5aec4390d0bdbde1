//! What threads and vCPUs have in common: they run on scheduling contexts and take part in calls.

use crate::cell::{CpuCell, Ref};
use crate::cpu::Cpu;
use crate::migrate::Migration;
use crate::notification::Notification;
use crate::object::{AnyRef, Header, Object};
use crate::ring::{Link, Linked, Ring};
use crate::sched::{Sched, Waiting};
use crate::space::Progress;
use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use crate::thread::Thread;
use crate::timeout::{Expiry, Timeout};
use crate::vcpu::Vcpu;
use abi::cap::Kind;
use core::iter::successors;
use core::mem::offset_of;

/// Helpers that are dismissed at once.
const BATCH: usize = 16;

/// What a context is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Runs, or would if it had the CPU.
    Ready = 0,
    /// A handler thread without a call to serve.
    Idle = 1,
    /// Waits for the reply of `callee`.
    InCall = 2,
    /// Waits until `callee` is idle, to call it; gives it its time meanwhile.
    Helping = 3,
    /// Waits for a notification.
    Waiting = 4,
    /// A vCPU that is halted.
    Halted = 5,
    /// Never runs again.
    Stopped = 6,
    /// A thread that has not run yet: its first call, or a scheduling context, starts it.
    New = 7,
    /// On its way to another CPU.
    Moving = 8,
}

/// How a reply can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReplyPath {
    /// The caller is a thread in a call, and nobody helps the handler or waits for it.
    Thread = 0,
    /// By the general path only.
    General = 1,
    /// As `Thread`, but the caller is a vCPU.
    Vcpu = 2,
}

/// Common part of threads and vCPUs. Only its own CPU touches it.
#[repr(C)]
pub struct Context {
    /// Common part of all objects.
    pub header: Header,
    /// The CPU that it belongs to. The fast path compares it and the state at once.
    pub cpu: AtomicU32,
    /// What it is doing.
    pub state: CpuCell<State>,
    /// Calls that led here.
    pub depth: CpuCell<u8>,
    /// Whether a scheduling context is bound to it, or must not be now, as it leaves its CPU.
    pub started: AtomicBool,
    /// Whether a scheduling context was ever bound to it: its CPU may be touching it.
    pub was_started: AtomicBool,
    /// The handler that it called or helps.
    pub callee: CpuCell<Option<Ref<Thread>>>,
    /// The scheduling context bound to it.
    pub sched: CpuCell<Option<Ref<Sched>>>,
    /// How this handler's next reply can be carried out.
    pub reply_path: CpuCell<ReplyPath>,
    /// What it waits for, or the notification that kicks the vCPU.
    pub notification: CpuCell<Option<Ref<Notification>>>,
    /// Scheduling contexts whose chain of calls ends here, as long as it is blocked.
    waiters: Ring<Waiting>,
    /// Contexts that help this handler.
    helpers: Ring<Helping>,
    /// Place among those of its `callee`.
    helping: Link,
    /// Deadline of a wait, or of the vCPU.
    pub timeout: Timeout,
    /// Its way to another CPU.
    pub migration: Migration,
}

/// Rings of contexts that help a handler.
pub struct Helping;

// SAFETY: who stops helps nobody any more.
unsafe impl Linked for Helping {
    type Object = Context;
    const LINK: usize = offset_of!(Context, helping);
}

impl Context {
    /// A context of CPU `cpu` in `state`.
    pub fn new(header: Header, cpu: u32, state: State) -> Context {
        Context {
            header,
            cpu: AtomicU32::new(cpu),
            state: CpuCell::new(state),
            depth: CpuCell::new(0),
            started: AtomicBool::new(false),
            was_started: AtomicBool::new(false),
            callee: CpuCell::new(None),
            sched: CpuCell::new(None),
            reply_path: CpuCell::new(ReplyPath::Thread),
            waiters: Ring::new(),
            helpers: Ring::new(),
            helping: Link::new(),
            notification: CpuCell::new(None),
            timeout: Timeout::new(Expiry::Context),
            migration: Migration::none(),
        }
    }

    /// The thread or vCPU that `object` is the header of, if it is of one.
    pub fn of(object: AnyRef) -> Option<Ref<Context>> {
        // SAFETY: threads and vCPUs start with their context.
        matches!(object.kind, Kind::Thread | Kind::Vcpu)
            .then(|| unsafe { Ref::from_address(object.address()) })
    }

    /// The CPU that it belongs to.
    #[inline(always)]
    pub fn cpu(&self) -> u32 {
        // With what the one that it came from did to it.
        self.cpu.load(Ordering::Acquire)
    }

    /// Stops waiting for a handler: the call is tried again.
    pub fn stop_helping(&self) {
        self.callee.set(None);
        self.helping.unlink();
        self.state.set(State::Ready);
    }

    /// Sends a batch of those away who help this handler, which is about to end and is helped by nobody new.
    pub fn dismiss_helpers(&self) -> Progress {
        for _ in 0..BATCH {
            match self.helpers.first() {
                Some(helper) => helper.stop_helping(),
                None => return Progress::Done,
            }
        }
        Progress::Again
    }

    /// Lets all waiting scheduling contexts compete again, from the scheduler's next turn on.
    pub fn release_waiters(&self, cpu: &Cpu) {
        if !self.waiters.is_empty() {
            cpu.released.take_all(&self.waiters);
            cpu.reschedule.set(true);
        }
    }

    /// The same, but has this context's own go on waiting here if it waits.
    pub fn release_other_waiters(&self, cpu: &Cpu) {
        let kept = self.sched.get().filter(|sched| sched.waiting.is_linked());
        if let Some(sched) = kept {
            sched.waiting.unlink();
        }
        self.release_waiters(cpu);
        if let Some(sched) = kept {
            self.waiters.push(sched);
        }
    }

    /// Never runs again.
    pub fn stop(&self, cpu: &Cpu) {
        self.state.set(State::Stopped);
        self.release_waiters(cpu);
        cpu.reschedule.set(true);
    }

    /// Makes a blocked context ready.
    pub fn wake(&self, cpu: &Cpu) {
        self.state.set(State::Ready);
        self.release_waiters(cpu);
    }
}

impl Ref<Context> {
    /// `sched`, which is in no queue, waits until this context can run, or can be called.
    pub fn add_waiter(self, sched: Ref<Sched>) {
        self.waiters.push(sched);
        self.reply_path.set(ReplyPath::General);
    }

    /// Gives its time to `handler`, until the call can be made.
    pub fn start_helping(self, handler: Ref<Thread>) {
        handler.context.helpers.push(self);
        self.callee.set(Some(handler));
        self.state.set(State::Helping);
    }

    /// This context, whom it called or helps, and so on. It has no end if a context waits for itself.
    pub fn chain(self) -> impl Iterator<Item = Ref<Context>> {
        successors(Some(self), |context| context.callee.get().map(|callee| callee.context()))
    }

    /// The thread that this is the context of.
    #[inline(always)]
    pub fn as_thread(self) -> Option<Ref<Thread>> {
        // SAFETY: the header tells what the context is embedded in, at offset 0.
        (self.header.kind == Kind::Thread).then(|| unsafe { Ref::from_address(self.address()) })
    }

    /// The vCPU that this is the context of.
    #[inline(always)]
    pub fn as_vcpu(self) -> Option<Ref<Vcpu>> {
        // SAFETY: as for `as_thread`.
        (self.header.kind == Kind::Vcpu).then(|| unsafe { Ref::from_address(self.address()) })
    }
}

/// An object that starts with a [`Context`].
///
/// # Safety
/// The type is `repr(C)` and its first field is its context.
pub unsafe trait HasContext: Object {}

impl<T: HasContext> Ref<T> {
    /// Its context.
    #[inline(always)]
    pub fn context(self) -> Ref<Context> {
        // SAFETY: a HasContext starts with its context.
        unsafe { Ref::from_address(self.address()) }
    }
}
