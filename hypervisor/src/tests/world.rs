//! The fixture: a machine with some CPUs and a root domain, whose threads do what the test says.

use crate::addr::HostVirt;
use crate::arch::{self, CpuArch, paging};
use crate::cell::Ref;
use crate::context::{Context, HasContext, State};
use crate::cpu::{self, Cpu};
use crate::create::{self, Creation};
use crate::domain::{Domain, SLOTS_PER_PAGE};
use crate::mem::{self, PAGE};
use crate::object;
use crate::sched::{self, Sched};
use crate::slot::{self, CapWord};
use crate::space::{Progress, Space};
use crate::thread::Thread;
use crate::vcpu::{self, Vcpu};
use crate::{destroy, epoch, interrupt, ipc, logring, syscall};
use abi::argument::{CodeAddress, PageAddress, Placement, StackAddress};
use abi::cap::{Kind, MemoryKind, TimeLimit};
use abi::syscall::{SpaceKind, Tag, ThreadFlags};
use abi::{Op, Rights, Selector, Status, call};
use core::sync::atomic::Ordering;
use std::alloc::Layout;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// Kernel memory of a world.
const POOL: u64 = 16 << 20;
/// Ticks of a time slice.
pub const SLICE: u64 = 1000;
/// Where the one system-call instruction of every program is.
pub const INSTRUCTION: u64 = 0x1000;
/// What the processor says of it.
pub const SYNDROME: u64 = 0x5600_1234;
/// Where every program starts.
const START: u64 = 0x2000;

/// The root's own selectors.
pub const DOMAIN: u32 = 1;
/// Its space.
pub const SPACE: u32 = 2;
/// RAM, 1 GiB at 4 GiB.
pub const RAM: u32 = 3;
/// All ports.
pub const PORTS: u32 = 4;
/// The log.
pub const LOG: u32 = 5;
/// The time of all CPUs.
pub const TIME: u32 = 6;
/// Interrupt line 0, and three more.
pub const LINES: u32 = 8;
/// How many lines those are.
pub const LINE_COUNT: u32 = 4;
/// Device registers, of which some are for guests only.
pub const DEVICE: u32 = 12;
/// Base of [`DEVICE`].
pub const DEVICE_BASE: u64 = 0xfe00_0000;
/// Base of [`RAM`].
pub const RAM_BASE: u64 = 4 << 30;
/// Size of [`RAM`].
pub const RAM_SIZE: u64 = 1 << 30;

static MACHINE: Mutex<()> = Mutex::new(());
static MAKE_POOL: Once = Once::new();

/// What a CPU does when the kernel has left it to users.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// Nothing is ready.
    Idle,
    /// A thread runs.
    User(Ref<Thread>),
    /// Guest code runs.
    Guest(Ref<Vcpu>),
}

impl core::fmt::Debug for Running {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Running::Idle => write!(f, "idle"),
            Running::User(thread) => write!(f, "thread {:#x}", thread.address()),
            Running::Guest(vcpu) => write!(f, "vCPU {:#x}", vcpu.address()),
        }
    }
}

/// A kernel object and the root's selector for it.
pub struct Object<T> {
    /// The object.
    pub object: Ref<T>,
    /// Selector in the root's table.
    pub at: u32,
}

impl<T> Clone for Object<T> {
    fn clone(&self) -> Object<T> {
        *self
    }
}

impl<T> Copy for Object<T> {}

/// A machine.
pub struct World {
    /// The root domain.
    pub root: Ref<Domain>,
    /// For each CPU, a thread of highest priority that runs only to make the test's own system calls.
    drivers: Vec<(Ref<Thread>, Ref<Sched>)>,
    next: Cell<u32>,
    next_page: Cell<u64>,
    /// Last: the next world may begin when everything else is gone.
    _turn: MutexGuard<'static, ()>,
}

/// Takes the pages of a domain's table of `slots` slots, which were paid with the domain: for tests that count pages.
pub fn use_table(domain: Ref<Domain>, slots: u32) {
    for first in (0..slots).step_by(SLOTS_PER_PAGE as usize) {
        domain.empty_slot(Selector(first + 1)).unwrap();
    }
}

impl World {
    /// A machine with `cpus` CPUs, on which nothing runs.
    pub fn new(cpus: u32) -> World {
        let turn = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        for index in (0..cpu::count()).rev() {
            cpu::unregister(index);
        }
        destroy::reset();
        epoch::reset();
        interrupt::reset();
        logring::reset();
        arch::reset();
        MAKE_POOL.call_once(|| {
            let layout = Layout::from_size_align(POOL as usize, PAGE as usize).unwrap();
            // SAFETY: the size is not zero.
            let pool = HostVirt(unsafe { std::alloc::alloc(layout) as u64 });
            // SAFETY: just allocated, for ever.
            unsafe { mem::init(arch::layout::window_phys(pool), POOL) };
        });
        // Not all of it: there are tests that make worlds by the thousand.
        mem::reset();
        paging::init_kernel(true).unwrap();
        for index in 0..cpus {
            let page = mem::alloc_adjoining(cpu::PAGES).unwrap();
            // SAFETY: fresh pages, large enough, never freed in this world.
            let cpu = unsafe { cpu::install(page, Cpu::new(CpuArch::new(), index, SLICE)) };
            arch::set_current_cpu(cpu);
            cpu.note_inbox();
            assert!(cpu.serve_inbox() == Progress::Done);
        }

        let slots = 1024;
        let quota = mem::free_pages() - Domain::overhead(slots);
        let root = Domain::create(None, 0, slots, quota).unwrap();
        use_table(root, slots);
        let space = Space::make(root, SpaceKind::Host).unwrap();
        let install = |at: u32, kind: Kind, rights, address, range: [u64; 2], extra: u64| {
            let slot = root.empty_slot(Selector(at)).unwrap();
            slot.fill(&slot::lock(), CapWord::new(kind, rights, address), range, extra);
        };
        let all = Rights::all();
        let memory = Rights::RW | Rights::EXEC | Rights::DELEGATE;
        install(DOMAIN, Kind::Domain, all, root.address(), [u64::MAX, 0], 0);
        install(SPACE, Kind::Space, all, space.address(), [u64::MAX, 0], 0);
        install(RAM, Kind::Memory, memory, 0, [RAM_BASE, RAM_SIZE], 0);
        let ports = (MemoryKind::Ports as u64) << 8;
        let rights = Rights::RW | Rights::DELEGATE;
        install(PORTS, Kind::Memory, rights, 0, [0, crate::space::PORTS], ports);
        let device = (MemoryKind::Device as u64) << 8;
        let range = [DEVICE_BASE, 0x1_0000];
        install(DEVICE, Kind::Memory, rights, 0, range, device);
        let limit = TimeLimit::ALL.pack();
        install(TIME, Kind::Time, all, 0, [u64::MAX, limit], 0);
        install(LOG, Kind::Log, all, 0, [u64::MAX, 0], 0);
        for i in 0..LINE_COUNT {
            install(
                LINES + i,
                Kind::Interrupt,
                all,
                interrupt::capability(i).address(),
                [u64::MAX, 0],
                0,
            );
        }
        let mut world = World {
            root,
            drivers: Vec::new(),
            next: Cell::new(100),
            next_page: Cell::new(0x10_0000),
            _turn: turn,
        };
        for cpu in 0..cpus {
            let call = call::CreateThread {
                payer: Selector(DOMAIN).into(),
                destination: Selector::NULL.into(),
                domain: Selector(DOMAIN).into(),
                space: Selector(SPACE).into(),
                placement: Placement { cpu, flags: ThreadFlags::empty() },
                utcb: PageAddress::new(world.page()).unwrap(),
                ip: CodeAddress::new(START).unwrap(),
                sp: StackAddress::new(0).unwrap(),
                exceptions: Selector::NULL,
            };
            let driver =
                create::thread(Creation { tree: &slot::lock(), caller: &root, call, payer: root })
                    .unwrap();
            let driver: Ref<Thread> = object::downcast(driver).unwrap();
            let sched = root.make(|header| Sched::new(header, cpu, TimeLimit::ALL, 0, 0)).unwrap();
            world.on(cpu);
            crate::cpu::start(&world.cpu(cpu), sched, driver.context()).unwrap();
            driver.context.state.set(State::Idle);
            world.drivers.push((driver, sched));
            assert_eq!(world.run(cpu), Running::Idle);
        }
        world.on(0);
        world
    }

    /// What brings the machine back to its present state. Interrupt lines and the log stay as they are by then.
    pub fn save(&self) -> impl Fn() + use<> {
        let parts = (mem::save(), epoch::save(), destroy::save(), arch::save());
        move || {
            parts.0();
            parts.1();
            parts.2();
            parts.3();
        }
    }

    /// CPU `index`.
    pub fn cpu(&self, index: u32) -> Ref<Cpu> {
        cpu::by_index(index)
    }

    /// Goes on with CPU `index`.
    pub fn on(&self, index: u32) -> Ref<Cpu> {
        let cpu = self.cpu(index);
        arch::set_current_cpu(cpu);
        cpu
    }

    /// A selector that the root has not used.
    pub fn selector(&self) -> u32 {
        self.next.replace(self.next.get() + 1)
    }

    /// An address of a page that the root's space has not used.
    pub fn page(&self) -> u64 {
        self.next_page.replace(self.next_page.get() + PAGE)
    }

    /// The object that the root's selector `at` names.
    pub fn object<T: object::Object>(&self, at: u32) -> Object<T> {
        Object { object: self.root.find(Selector(at), Rights::empty()).unwrap(), at }
    }

    /// Takes the interrupts that are pending on CPU `index`.
    pub fn interrupts(&self, index: u32) {
        let cpu = self.on(index);
        if cpu.arch.interrupted.swap(false, Ordering::SeqCst) {
            cpu.note_inbox();
            while cpu.serve_inbox() == Progress::Again {}
        }
        if cpu.arch.timer.load(Ordering::SeqCst) <= arch::now() {
            cpu.arch.timer.store(u64::MAX, Ordering::SeqCst);
            cpu.timer_fired();
        }
    }

    /// Lets CPU `index` run until a program would execute something that the kernel does not know.
    pub fn run(&self, index: u32) -> Running {
        for _ in 0..10_000 {
            self.interrupts(index);
            let running = self.step(index);
            let arch = &self.cpu(index).arch;
            let interrupted = arch.interrupted.load(Ordering::SeqCst)
                || arch.timer.load(Ordering::SeqCst) <= arch::now();
            if let Some(running) = running.filter(|_| !interrupted) {
                return running;
            }
        }
        panic!("CPU {index} does not come to rest");
    }

    /// One turn of the kernel's loop, without interrupts.
    pub fn step(&self, index: u32) -> Option<Running> {
        let cpu = self.on(index);
        if cpu.reschedule.get()
            && (cpu.serve_inbox() == Progress::Again || sched::schedule(&cpu) == Progress::Again)
        {
            return None;
        }
        let Some(current) = cpu.current.get() else {
            return Some(Running::Idle);
        };
        assert_eq!(current.state.get(), State::Ready);
        if let Some(vcpu) = current.as_vcpu() {
            let entries = || vcpu.arch.with_mut(|arch| arch.entries);
            let before = entries();
            run_vcpu(&cpu, vcpu);
            let current = !cpu.reschedule.get() && cpu.current.get() == Some(current);
            return (entries() != before && current).then_some(Running::Guest(vcpu));
        }
        let thread = current.as_thread()?;
        if let Some(exception) = thread.pending.take() {
            ipc::raise(&cpu, thread, exception);
            return None;
        }
        if thread.with_frame(|frame| frame.ip()) == INSTRUCTION {
            self.enter(&cpu, thread);
            return None;
        }
        Some(Running::User(thread))
    }

    /// The current thread executes its system-call instruction.
    fn enter(&self, cpu: &Cpu, thread: Ref<Thread>) {
        assert!(cpu.current.get() == Some(thread.context()), "another thread runs");
        thread.with_frame(|frame| {
            let (sp, flags) = (frame.sp(), frame.flags());
            frame.set_user(INSTRUCTION + arch::frame::SYSCALL_LENGTH, sp, flags);
        });
        syscall::dispatch(cpu, thread, SYNDROME);
    }

    /// Whether `thread` is to execute its system call again.
    pub fn restarts(&self, thread: Ref<Thread>) -> bool {
        thread.with_frame(|frame| frame.ip()) == INSTRUCTION
    }

    /// `thread`, which runs, executes its system call again.
    pub fn again(&self, thread: Ref<Thread>) {
        self.enter(&self.cpu(thread.context.cpu()), thread);
    }

    /// `thread`, which runs, makes a system call with `words` words in its UTCB; the CPU goes no further.
    pub fn begin(&self, thread: Ref<Thread>, op: Op, words: u16, args: &[u64]) {
        self.begin_with(thread, Tag::new(op, words), args);
    }

    /// As [`World::begin`], with any tag.
    pub fn begin_with(&self, thread: Ref<Thread>, tag: Tag, args: &[u64]) {
        let cpu = self.on(thread.context.cpu());
        thread.with_frame(|frame| {
            frame.set_tag(tag);
            for i in 0..9 {
                frame.set_arg(i, args.get(i).copied().unwrap_or(0));
            }
        });
        self.enter(&cpu, thread);
    }

    /// `thread`, which runs, makes a system call, and its CPU goes on.
    pub fn does(&self, thread: Object<Thread>, op: Op, args: &[u64]) -> Running {
        self.begin(thread.object, op, 0, args);
        self.run(thread.object.context.cpu())
    }

    /// What the last system call of `thread` returned.
    pub fn result(&self, thread: Object<Thread>) -> Result<[u64; 9], Status> {
        result(thread.object)
    }

    /// The root makes a system call on CPU `index`, whatever runs there.
    pub fn try_root_on(&self, index: u32, op: Op, args: &[u64]) -> Result<[u64; 9], Status> {
        let cpu = self.on(index);
        let (driver, sched) = self.drivers[index as usize];
        driver.context.state.set(State::Ready);
        driver.context.release_waiters(&cpu);
        sched::ready(&cpu, sched);
        while sched::schedule(&cpu) == Progress::Again {}
        self.begin(driver, op, 0, args);
        for turn in 0.. {
            assert!(turn < 10_000, "{op:?} does not end");
            if !self.restarts(driver) {
                break;
            }
            // Back in user mode, interrupts are taken, here and on the other CPUs.
            for other in (0..cpu::count()).rev() {
                self.interrupts(other);
            }
            self.on(index);
            while sched::schedule(&cpu) == Progress::Again {}
            self.enter(&cpu, driver);
        }
        driver.context.state.set(State::Idle);
        while sched::schedule(&cpu) == Progress::Again {}
        result(driver)
    }

    /// The root makes a system call on CPU `index` that ends at once; nothing else happens.
    pub fn root_alone(&self, index: u32, op: Op, args: &[u64]) {
        let cpu = self.on(index);
        let (driver, _) = self.drivers[index as usize];
        let current = cpu.current.get();
        cpu.current.set(Some(driver.context()));
        self.begin(driver, op, 0, args);
        assert!(!self.restarts(driver) && result(driver).is_ok(), "{op:?}");
        cpu.current.set(current);
    }

    /// As [`World::try_root_on`], on CPU 0.
    pub fn try_root(&self, op: Op, args: &[u64]) -> Result<[u64; 9], Status> {
        self.try_root_on(0, op, args)
    }

    /// As [`World::try_root`], of what must succeed.
    #[track_caller]
    pub fn root(&self, op: Op, args: &[u64]) -> [u64; 9] {
        match self.try_root(op, args) {
            Ok(results) => results,
            Err(status) => panic!("{op:?} {args:x?}: {status:?}"),
        }
    }

    /// A thread on `cpu` without scheduling context, whose exceptions go to selector `exceptions`.
    pub fn thread_with(&self, cpu: u32, exceptions: u32) -> Object<Thread> {
        self.marked_thread(cpu, ThreadFlags::empty(), exceptions)
    }

    /// The same with flags.
    pub fn marked_thread(&self, cpu: u32, flags: ThreadFlags, exceptions: u32) -> Object<Thread> {
        let at = self.selector();
        let args = [DOMAIN, at, DOMAIN, SPACE].map(u64::from);
        let rest = [cpu as u64 | flags.bits(), self.page(), START, 0, exceptions as u64];
        self.root(Op::CreateThread, &[&args[..], &rest].concat());
        self.object(at)
    }

    /// A thread on `cpu` without scheduling context.
    pub fn thread(&self, cpu: u32) -> Object<Thread> {
        self.thread_with(cpu, 0)
    }

    /// A scheduling context, bound to nothing.
    pub fn sched(&self, cpu: u32, priority: u8, budget: u64, period: u64) -> Object<Sched> {
        self.sched_of(TIME, cpu, priority, budget, period)
    }

    /// The same, made from the root's time at selector `time`.
    pub fn sched_of(
        &self,
        time: u32,
        cpu: u32,
        priority: u8,
        budget: u64,
        period: u64,
    ) -> Object<Sched> {
        let at = self.selector();
        let args =
            [DOMAIN as u64, at as u64, cpu as u64, priority as u64, budget, period, time as u64];
        self.root(Op::CreateSched, &args);
        self.object(at)
    }

    /// Binds a scheduling context.
    pub fn bind<T: HasContext>(&self, sched: Object<Sched>, context: Object<T>) {
        self.root(Op::BindSched, &[sched.at as u64, context.at as u64]);
    }

    /// A thread with a scheduling context of `priority` and no budget, that is ready.
    pub fn client(&self, cpu: u32, priority: u8) -> Object<Thread> {
        let thread = self.thread(cpu);
        self.bind(self.sched(cpu, priority, 0, 0), thread);
        self.interrupts(cpu);
        self.on(0);
        thread
    }

    /// A portal of `handler`.
    pub fn portal(&self, handler: Object<Thread>, identity: u64) -> u64 {
        let at = self.selector() as u64;
        self.root(Op::CreatePortal, &[DOMAIN as u64, at, handler.at as u64, identity, u64::MAX]);
        at
    }

    /// A notification.
    pub fn notification(&self) -> u64 {
        let at = self.selector() as u64;
        self.root(Op::CreateNotification, &[DOMAIN as u64, at]);
        at
    }

    /// Deletes what the root's selector names.
    #[track_caller]
    pub fn delete(&self, at: u32) {
        self.root(Op::Delete, &[at as u64]);
    }
}

/// What the last system call of `thread` returned.
pub fn result(thread: Ref<Thread>) -> Result<[u64; 9], Status> {
    thread.with_frame(|frame| match frame.tag().status() {
        Status::Success => Ok(frame.args()),
        status => Err(status),
    })
}

/// The state of a context.
pub fn state<T: HasContext>(object: Object<T>) -> State {
    let context: Ref<Context> = object.object.context();
    context.state.get()
}

/// Runs `vcpu`, the current context, and does what follows if its guest leaves.
pub fn run_vcpu(cpu: &Cpu, vcpu: Ref<Vcpu>) {
    vcpu::run(cpu, vcpu);
    if let Some(outcome) = vcpu.arch.with_mut(|arch| arch.left.take()) {
        vcpu::left(cpu, vcpu, outcome);
    }
}
