//! What belongs to one CPU.

use crate::arch::{self, CpuArch};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, State};
use crate::cyclic::Cyclic;
use crate::epoch;
use crate::mem::KernelPage;
use crate::notification::{self, Notification};
use crate::object::{AnyRef, Ending};
use crate::ring::Ring;
use crate::sched::{self, RunQueues, Sched, Waiting};
use crate::space::Progress;
use crate::sync::TicketMutex;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::timeout::{Expiry, TimeoutQueue};
use crate::{destroy, migrate};
use abi::Status;
use core::mem::offset_of;

/// A thing that another CPU asks for.
#[derive(Clone, Copy)]
pub enum Work {
    /// This notification has a waiter here, who is locked meanwhile: to look at it.
    Notification(Ref<Notification>),
    /// To start this scheduling context.
    Start(Ref<Sched>),
    /// To move this context, which is here ([`migrate::serve`]).
    Migration(Ref<Context>),
    /// To let go of this object, which is about to end ([`destroy::let_go`]).
    Ending(AnyRef),
}

/// Work from other CPUs.
struct Inbox {
    notifications: Option<Ref<Notification>>,
    starts: Option<Ref<Sched>>,
    /// Contexts that are to leave, or that come.
    migrations: Option<Ref<Context>>,
    endings: u64,
}

impl Inbox {
    const EMPTY: Inbox = Inbox { notifications: None, starts: None, migrations: None, endings: 0 };

    /// Puts `work` in; `false`: it was in.
    fn put(&mut self, work: Work) -> bool {
        match work {
            Work::Notification(notification) => {
                if notification.posted.swap(true, Ordering::AcqRel) {
                    return false;
                }
                notification.posted_next.set(self.notifications.replace(notification));
            }
            Work::Start(sched) => sched.next.set(self.starts.replace(sched)),
            Work::Migration(context) => {
                context.migration.next.set(self.migrations.replace(context));
            }
            Work::Ending(object) => {
                object.ending_next.store(self.endings, Ordering::Relaxed);
                self.endings = object.address();
            }
        }
        true
    }

    fn take(&mut self) -> Option<Work> {
        if let Some(notification) = self.notifications {
            self.notifications = notification.posted_next.get();
            notification.posted.store(false, Ordering::Release);
            return Some(Work::Notification(notification));
        }
        if let Some(sched) = self.starts {
            self.starts = sched.next.get();
            return Some(Work::Start(sched));
        }
        if let Some(context) = self.migrations {
            self.migrations = context.migration.next.get();
            return Some(Work::Migration(context));
        }
        // Last: what comes here to end must have come.
        if self.endings == 0 {
            return None;
        }
        // SAFETY: an object stays until it is detached, which happens here.
        let object: AnyRef = unsafe { Ref::from_address(self.endings) };
        self.endings = object.ending_next.load(Ordering::Relaxed);
        Some(Work::Ending(object))
    }
}

/// Per-CPU data. Fields without lock or atomic are touched by this CPU only.
#[repr(C, align(64))]
pub struct Cpu {
    /// The architecture's part; first, where assembly finds it.
    pub arch: CpuArch,
    /// Number of the CPU.
    pub index: u32,
    /// The context that runs, or is to run next.
    pub current: CpuCell<Option<Ref<Context>>>,
    /// The scheduling context whose time it runs on.
    pub sched: CpuCell<Option<Ref<Sched>>>,
    /// Counter value at which that time ends.
    pub slice_end: CpuCell<u64>,
    /// A better choice may be ready.
    pub reschedule: CpuCell<bool>,
    /// When the interrupt came that brought a better choice, or later: the kernel's time since is that choice's.
    pub choice_since: CpuCell<u64>,
    /// The running scheduling context has given up its turn.
    pub yielded: CpuCell<bool>,
    /// Counter ticks of a time slice without a budget.
    pub time_slice: u64,
    /// Ready scheduling contexts.
    pub run_queues: RunQueues,
    /// Those that wait no more and are not in a run queue yet.
    pub released: Ring<Waiting>,
    /// Which of them may run when.
    pub cyclic: Cyclic,
    /// What the fast path has signalled and found somebody attached to.
    pub signalled: CpuCell<Option<Ref<Notification>>>,
    /// Deadlines.
    pub timeouts: TimeoutQueue,
    /// Last epoch that this CPU passed.
    pub epoch: AtomicU64,
    /// Last epoch that it has to pass for translations that it may hold, or because somebody waits for that.
    pub stale: AtomicU64,
    timer: CpuCell<u64>,
    asked: CpuCell<bool>,
    inbox: TicketMutex<Inbox>,
}

/// Offsets for the fast path.
pub mod offset {
    use super::Cpu;
    use crate::sched;
    use core::mem::offset_of;
    /// When the timer is due.
    pub const TIMER: usize = offset_of!(Cpu, timer);
    /// Whether nobody is ready who is as important as what runs.
    pub const SETTLED: usize = offset_of!(Cpu, run_queues) + sched::SETTLED;
}

static COUNT: AtomicU32 = AtomicU32::new(0);
static CPUS: [AtomicU64; abi::boot::MAX_CPUS] = [const { AtomicU64::new(0) }; abi::boot::MAX_CPUS];

/// Timeouts that one interrupt of the timer ends. What is left brings the next one, as soon as interrupts can be taken.
const EXPIRED_AT_ONCE: usize = 16;

/// Pages that a CPU's data takes.
pub const PAGES: usize = size_of::<Cpu>().div_ceil(abi::PAGE_SIZE);

/// Puts the data of a CPU, which is about to run, in its place and publishes it.
///
/// # Safety
/// `page` is the first of [`PAGES`] fresh ones, which are never freed.
pub unsafe fn install(page: KernelPage, cpu: Cpu) -> Ref<Cpu> {
    // SAFETY: by the caller's word, it fits and stays.
    let cpu = unsafe { Ref::place(page.virt.0, cpu) };
    CPUS[cpu.index as usize].store(cpu.address(), Ordering::Release);
    COUNT.fetch_max(cpu.index + 1, Ordering::AcqRel);
    cpu
}

/// Number of CPUs that run.
pub fn count() -> u32 {
    COUNT.load(Ordering::Acquire)
}

/// CPU `index`, which is below [`count`].
pub fn by_index(index: u32) -> Ref<Cpu> {
    let address = CPUS[index as usize].load(Ordering::Acquire);
    assert!(address != 0);
    // SAFETY: `install` stored it; CPU data never ends.
    unsafe { Ref::from_address(address) }
}

/// All CPUs that run.
pub fn all() -> impl Iterator<Item = Ref<Cpu>> {
    (0..count()).map(by_index)
}

/// The CPU that this code runs on.
#[inline(always)]
pub fn current() -> &'static Cpu {
    arch::current_cpu()
}

impl Cpu {
    /// Whether somebody waits for this CPU who is as important as what runs.
    #[inline(always)]
    pub fn is_contended(&self) -> bool {
        self.run_queues.contend(self.sched.get())
    }

    /// The data of CPU `index`, before it runs.
    pub fn new(arch: CpuArch, index: u32, time_slice: u64) -> Cpu {
        Cpu {
            arch,
            index,
            current: CpuCell::new(None),
            sched: CpuCell::new(None),
            slice_end: CpuCell::new(u64::MAX),
            reschedule: CpuCell::new(true),
            choice_since: CpuCell::new(u64::MAX),
            yielded: CpuCell::new(false),
            time_slice,
            run_queues: RunQueues::empty(),
            released: Ring::new(),
            cyclic: Cyclic::none(),
            signalled: CpuCell::new(None),
            timeouts: TimeoutQueue::empty(),
            epoch: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            timer: CpuCell::new(u64::MAX),
            asked: CpuCell::new(false),
            inbox: TicketMutex::new(Inbox::EMPTY),
        }
    }

    /// Interrupts this CPU, from whichever one.
    pub fn interrupt(&self) {
        arch::send_interrupt(&self.arch);
    }

    /// From another CPU, or from one that is in the midst of something: has this CPU do `work`.
    pub fn post(&self, work: Work) {
        let is_new = self.inbox.lock().put(work);
        if is_new {
            self.interrupt();
        }
    }

    /// From another CPU, which has let go of `context` and of `sched`, which is bound to it: has them taken up. Whoever
    /// finds them on this CPU posts what it has for them behind.
    pub fn post_arrival(&self, context: Ref<Context>, sched: Option<Ref<Sched>>) {
        {
            let mut inbox = self.inbox.lock();
            inbox.put(Work::Migration(context));
            context.cpu.store(self.index, Ordering::Release);
            // Second: it can end as soon as it is on this CPU, and the context be given another one, of its CPU.
            if let Some(sched) = sched {
                sched.cpu.store(self.index, Ordering::Release);
            }
        }
        self.interrupt();
    }

    /// Whether nothing was posted that has not been served.
    pub fn is_inbox_empty(&self) -> bool {
        let inbox = self.inbox.lock();
        inbox.notifications.is_none()
            && inbox.starts.is_none()
            && inbox.migrations.is_none()
            && inbox.endings == 0
    }

    /// Another CPU has interrupted this one: its work is done before anything is chosen to run.
    pub fn note_inbox(&self) {
        self.interrupted(|_| {
            self.asked.set(true);
            self.reschedule.set(true);
        });
    }

    /// Does one thing that others asked for. `Done` when nothing was left: this CPU has then passed the epoch. Between two
    /// calls interrupts are taken, and nothing is kept that was found before.
    #[inline(always)]
    pub fn serve_inbox(&self) -> Progress {
        if self.asked.get() { self.serve_asked() } else { Progress::Done }
    }

    #[inline(never)]
    fn serve_asked(&self) -> Progress {
        if self.cyclic.may_begin() {
            self.enter_window(arch::now());
        }
        // Before the look at the inbox: what ends with this epoch was posted earlier.
        let epoch = epoch::current();
        let Some(work) = self.inbox.lock().take() else {
            self.asked.set(false);
            epoch::pass(self, epoch);
            return Progress::Done;
        };
        let progress = match work {
            Work::Notification(notification) => {
                notification::arrive(self, notification);
                Progress::Done
            }
            Work::Start(sched) => {
                begin(self, sched);
                Progress::Done
            }
            Work::Migration(context) => migrate::serve(self, context),
            Work::Ending(object) => destroy::let_go(self, object),
        };
        if progress == Progress::Again {
            self.inbox.lock().put(work);
        }
        Progress::Again
    }

    /// Does what an interrupt asks for. Whoever pre-empts the running scheduling context on account of it pays for it.
    pub fn interrupted(&self, handle: impl FnOnce(u64)) {
        let now = arch::now();
        handle(now);
        if self.reschedule.get() {
            self.choice_since.set(now.min(self.choice_since.get()));
        }
    }

    /// Has the cyclic schedule say who may run.
    fn enter_window(&self, now: u64) {
        self.run_queues.set_open(self.cyclic.advance(now));
        self.reschedule.set(true);
    }

    /// Has the timer fire at whatever comes first: end of the slice or of the window, or a deadline. If it is set for something
    /// earlier, which is most often over by then, it stays: setting it again is slow, above all where a hypervisor
    /// emulates it, and comes once for each time that it fires too early.
    pub fn program_timer(&self) {
        let slice_end = if self.sched.get().is_some() { self.slice_end.get() } else { u64::MAX };
        let next = slice_end.min(self.timeouts.earliest()).min(self.cyclic.next.get());
        if next < self.timer.get() {
            self.timer.set(next);
            arch::set_timer(next);
        }
    }

    /// Whether the timer should have fired by `now`.
    #[inline]
    pub fn timer_is_due(&self, now: u64) -> bool {
        now >= self.timer.get()
    }

    /// The timer has fired: ends what is due.
    pub fn timer_fired(&self) {
        self.timer.set(u64::MAX);
        self.interrupted(|now| self.end_what_is_due(now));
        if !self.reschedule.get() {
            self.program_timer();
        }
    }

    fn end_what_is_due(&self, now: u64) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(timeout) = self.timeouts.pop_expired(now) else {
                break;
            };
            match timeout.expiry {
                Expiry::Context => {
                    // SAFETY: the queue holds timeouts of live contexts, by their expiry.
                    let context: Ref<Context> =
                        unsafe { timeout.owner(offset_of!(Context, timeout)) };
                    match context.as_vcpu() {
                        Some(vcpu) => crate::vcpu::deadline_passed(self, vcpu),
                        None => notification::end_wait(self, context, Status::Timeout),
                    }
                }
                Expiry::Replenish => {
                    // SAFETY: as above, for scheduling contexts.
                    let sched = unsafe { timeout.owner(offset_of!(Sched, replenish)) };
                    sched::replenished(self, sched);
                }
            }
        }
        if now >= self.cyclic.next.get() {
            self.enter_window(now);
        }
        if now >= self.slice_end.get() {
            self.reschedule.set(true);
        }
    }
}

/// Binds `sched` to `context`, if both are of one CPU, and starts it there.
pub fn start(cpu: &Cpu, sched: Ref<Sched>, context: Ref<Context>) -> Result<(), Status> {
    if sched.bound.swap(true, Ordering::AcqRel) {
        return Err(Status::Busy);
    }
    if context.started.swap(true, Ordering::AcqRel) {
        sched.bound.store(false, Ordering::Release);
        return Err(Status::Busy);
    }
    // It does not leave from now on, but may have since somebody looked.
    if sched.cpu() != context.cpu() {
        context.started.store(false, Ordering::Release);
        sched.bound.store(false, Ordering::Release);
        return Err(Status::WrongCpu);
    }
    // Last: what fails must leave no trace of a start.
    context.was_started.store(true, Ordering::Release);
    // Nobody else looks at it before it is started.
    sched.home.set(Some(context));
    if sched.cpu() == cpu.index {
        begin(cpu, sched);
    } else {
        by_index(sched.cpu()).post(Work::Start(sched));
    }
    Ok(())
}

/// On its CPU: lets `sched` compete for the first time.
fn begin(cpu: &Cpu, sched: Ref<Sched>) {
    let Some(context) = sched.home.get() else {
        return;
    };
    if context.header.ending() != Ending::Alive {
        return sched::unbind(cpu, sched);
    }
    context.sched.set(Some(sched));
    if context.state.get() == State::New {
        context.wake(cpu);
    }
    sched::ready(cpu, sched);
}

/// Takes back the data of CPU `index`, the last one, which did not start.
pub fn unregister(index: u32) {
    let _ = COUNT.compare_exchange(index + 1, index, Ordering::AcqRel, Ordering::Relaxed);
}
