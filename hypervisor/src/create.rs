//! Creation.

use crate::arch::{self, Frame, PageTable, VcpuArch};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu::{self, Cpu};
use crate::domain::{Domain, MAX_LEVEL, MAX_SLOTS};
use crate::mem::{self, KernelPage};
use crate::notification::Notification;
use crate::object::{self, AnyRef, Header, Object};
use crate::portal::{self, Portal};
use crate::sched::Sched;
use crate::slot::{CapWord, ORIGIN, Slot, Tree};
use crate::space::{Space, User};
use crate::sync::atomic::Ordering;
use crate::thread::Thread;
use crate::vcpu::{MAX_ARCH_PAGES, Vcpu};
use abi::cap::Kind;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{PRIORITIES, Rights, Selector, Status};

/// Arguments of a system call, `a0` to `a8`.
pub type Args = [u64; 9];

/// The selector in an argument.
pub fn selector(argument: u64) -> Result<Selector, Status> {
    u32::try_from(argument)
        .map(Selector)
        .map_err(|_| Status::BadArgument)
}

/// The paying domain `a0` and the empty slot `a1` of a creation, which the lock keeps empty.
fn target(_tree: &Tree, caller: &Domain, args: &Args) -> Result<(Ref<Domain>, Ref<Slot>), Status> {
    let payer = caller.find::<Domain>(selector(args[0])?, Rights::CREATE)?;
    if payer.is_dying() {
        return Err(Status::Dead);
    }
    Ok((payer, caller.empty_slot(selector(args[1])?)?))
}

/// Publishes the first capability of a new object.
fn publish<T: Object>(tree: &Tree, slot: Ref<Slot>, object: Ref<T>) {
    slot.describe(tree, ORIGIN);
    slot.first.store(u64::MAX, Ordering::Release);
    object::header(object)
        .origin
        .store(slot.link(), Ordering::Relaxed);
    slot.publish(tree, CapWord::new(T::KIND, Rights::all(), object.address()));
}

/// [`abi::Op::CreateDomain`].
pub fn domain(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let slots = u32::try_from(args[3]).map_err(|_| Status::BadArgument)?;
    let level = payer.level().max(caller.level());
    if slots == 0 || slots > MAX_SLOTS || args[2] > 1 << 40 || level >= MAX_LEVEL {
        return Err(Status::BadArgument);
    }
    let cost = Domain::overhead(slots) + args[2];
    payer.charge(cost)?;
    let Some(domain) = Domain::create(Some(payer), level + 1, slots, args[2]) else {
        payer.uncharge(cost);
        return Err(Status::Quota);
    };
    payer.adopt(object::header(domain));
    publish(tree, slot, domain);
    Ok(())
}

/// [`abi::Op::CreateSpace`].
pub fn space(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let kind = SpaceKind::from_code(args[2]).ok_or(Status::BadArgument)?;
    // The cell first: what comes after it cannot fail, or leaves nothing behind.
    let cell = payer.alloc_cell()?;
    let table = PageTable::new(kind, &payer).inspect_err(|_| payer.free_cell(cell))?;
    let header = Header::new(Kind::Space, Some(payer));
    let space = Space::new(header, kind, arch::alloc_space_tag(kind), table);
    publish(tree, slot, payer.make_in(cell, space));
    Ok(())
}

/// The object that [`place`] will put into `page`.
fn future(page: KernelPage) -> AnyRef {
    // SAFETY: nobody looks at it before it is there.
    unsafe { Ref::from_address(page.virt.0) }
}

/// Puts an object that takes a page of its own there.
///
/// # Safety
/// `page` is fresh, and a `T` fits into it.
unsafe fn place<T: Object>(page: KernelPage, object: T) -> Ref<T> {
    // SAFETY: by the caller's word.
    unsafe {
        (page.virt.0 as *mut T).write(object);
        Ref::from_address(page.virt.0)
    }
}

fn check_cpu(argument: u64) -> Result<u32, Status> {
    u32::try_from(argument)
        .ok()
        .filter(|&c| c < cpu::count())
        .ok_or(Status::BadArgument)
}

/// [`abi::Op::CreateThread`].
pub fn thread(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let domain = caller.find::<Domain>(selector(args[2])?, Rights::INSTALL)?;
    let space = caller.find::<Space>(selector(args[3])?, Rights::INSTALL)?;
    // They end together, so that no reference between them outlives its object.
    if domain != payer || space.payer()? != payer || space.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let (cpu, flags) = (args[4] & u32::MAX as u64, args[4] & !(u32::MAX as u64));
    let flags = ThreadFlags::from_bits(flags).ok_or(Status::BadArgument)?;
    let thread = make_thread(
        tree,
        payer,
        space,
        &ThreadArgs {
            cpu: check_cpu(cpu)?,
            utcb: args[5],
            ip: args[6],
            sp: args[7],
            exception_portal: selector(args[8])?,
            foreign: flags.contains(ThreadFlags::FOREIGN),
        },
    )?;
    publish(tree, slot, thread);
    Ok(())
}

/// What a new thread starts with.
pub struct ThreadArgs {
    /// CPU.
    pub cpu: u32,
    /// Address of the UTCB.
    pub utcb: u64,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Selector of the exception portal.
    pub exception_portal: Selector,
    /// Whether its system calls go there too.
    pub foreign: bool,
}

/// Makes a thread that `domain` pays for.
pub fn make_thread(
    tree: &Tree,
    domain: Ref<Domain>,
    space: Ref<Space>,
    args: &ThreadArgs,
) -> Result<Ref<Thread>, Status> {
    if args.ip >= abi::USER_END || args.sp > abi::USER_END {
        return Err(Status::BadArgument);
    }
    let page = domain.alloc_page()?;
    let utcb = domain
        .alloc_page()
        .inspect_err(|_| domain.free_page(page))?;
    if let Err(status) = space.map_kernel_page(tree, args.utcb, utcb) {
        domain.free_page(utcb);
        domain.free_page(page);
        return Err(status);
    }
    let header = Header::new(Kind::Thread, Some(domain));
    let context = Context::new(header, args.cpu, State::New);
    if args.foreign {
        context.reply_path.set(ReplyPath::General);
    }
    let thread = Thread {
        context,
        frame: CpuCell::new(Frame::user(args.ip, args.sp)),
        caller: CpuCell::new(None),
        domain,
        space,
        use_of_space: User::new(future(page)),
        utcb,
        utcb_address: args.utcb,
        exception_portal: args.exception_portal,
        pending: CpuCell::new(None),
        in_exception: CpuCell::new(false),
        foreign: args.foreign,
        portals: CpuCell::new(None),
        sync: CpuCell::new(None),
    };
    // SAFETY: a fresh page; that a Thread fits is asserted beside its definition.
    let thread = unsafe { place(page, thread) };
    thread.use_of_space.enter(tree, &space);
    space.runs_on(tree, args.cpu);
    domain.adopt(object::header(thread));
    Ok(thread)
}

/// [`abi::Op::CreateVcpu`].
pub fn vcpu(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let domain = caller.find::<Domain>(selector(args[2])?, Rights::INSTALL)?;
    let guest = caller.find::<Space>(selector(args[3])?, Rights::INSTALL)?;
    let monitor = caller.find::<Space>(selector(args[5])?, Rights::INSTALL)?;
    let cpu = check_cpu(args[4])?;
    let exit_base = selector(args[7])?;
    let one_payer = domain == payer && guest.payer()? == payer && monitor.payer()? == payer;
    if !one_payer || guest.kind != SpaceKind::Guest || monitor.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let count = arch::pages_per_vcpu()
        .ok_or(Status::Unsupported)?
        .min(MAX_ARCH_PAGES);
    payer.charge(count as u64 + 1)?;
    let state_page = payer
        .alloc_page()
        .inspect_err(|_| payer.uncharge(count as u64 + 1))?;
    if let Err(status) = monitor.map_kernel_page(tree, args[6], state_page) {
        payer.free_page(state_page);
        payer.uncharge(count as u64 + 1);
        return Err(status);
    }
    // Charged pages are there: quotas together never exceed the pool.
    let own = mem::alloc().ok_or(Status::Quota)?;
    let mut arch_pages = [KernelPage::NONE; MAX_ARCH_PAGES];
    for page in arch_pages.iter_mut().take(count) {
        *page = mem::alloc().ok_or(Status::Quota)?;
    }
    let header = Header::new(Kind::Vcpu, Some(payer));
    // The first thing that a vCPU does is to ask its monitor for its state.
    let startup = crate::vcpu::Exit {
        kind: abi::vcpu::ExitKind::Startup,
        instruction_length: 0,
        info: [0; 3],
    };
    let vcpu = Vcpu {
        context: Context::new(header, cpu, State::Ready),
        domain,
        guest,
        monitor,
        uses: [User::new(future(own)), User::new(future(own))],
        state_page,
        state_address: args[6],
        exit_base,
        pending: CpuCell::new(Some(startup)),
        deadline: CpuCell::new(u64::MAX),
        expired: CpuCell::new(false),
        arch: CpuCell::from_value(VcpuArch::new(&arch_pages[..count], state_page)),
        arch_pages: (arch_pages, count),
    };
    // SAFETY: a fresh page; that a Vcpu fits is asserted beside its definition.
    let vcpu = unsafe { place(own, vcpu) };
    for (user, space) in vcpu.uses.iter().zip([guest, monitor]) {
        user.enter(tree, &space);
    }
    guest.runs_on(tree, cpu);
    payer.adopt(object::header(vcpu));
    publish(tree, slot, vcpu);
    Ok(())
}

/// [`abi::Op::CreateSched`].
pub fn sched(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let cpu = check_cpu(args[2])?;
    let priority = u8::try_from(args[3]).map_err(|_| Status::BadArgument)?;
    let (budget, period) = (args[4], args[5]);
    if priority as usize >= PRIORITIES || budget > period || (budget == 0) != (period == 0) {
        return Err(Status::BadArgument);
    }
    let header = Header::new(Kind::Sched, Some(payer));
    publish(
        tree,
        slot,
        payer.make(Sched::new(header, cpu, priority, budget, period))?,
    );
    Ok(())
}

/// [`abi::Op::CreatePortal`].
pub fn portal(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let handler = caller.find::<Thread>(selector(args[2])?, Rights::CONTROL)?;
    if handler.foreign {
        return Err(Status::BadArgument);
    }
    let header = Header::new(Kind::Portal, Some(payer));
    let portal = payer.make(Portal::new(header, args[3], args[4]))?;
    portal::bind(portal, handler);
    publish(tree, slot, portal);
    Ok(())
}

/// [`abi::Op::CreateNotification`].
pub fn notification(tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot) = target(tree, &caller, args)?;
    let header = Header::new(Kind::Notification, Some(payer));
    publish(tree, slot, payer.make(Notification::new(header))?);
    Ok(())
}

/// [`abi::Op::BindSched`].
pub fn bind_sched(cpu: &Cpu, _tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    // What is bound under this lock is found when either ends.
    let sched = caller.find::<Sched>(selector(args[0])?, Rights::CONTROL)?;
    let word = caller.capability(selector(args[1])?);
    if !matches!(word.kind(), Kind::Thread | Kind::Vcpu) {
        return Err(Status::BadCapability);
    }
    if !word.allows(Rights::CONTROL) {
        return Err(Status::Denied);
    }
    // SAFETY: threads and vCPUs start with their context.
    let context: Ref<Context> = unsafe { Ref::from_address(word.address()) };
    if sched.cpu != context.cpu {
        return Err(Status::WrongCpu);
    }
    cpu::start(cpu, sched, context)
}

/// [`abi::Op::BindKick`].
pub fn bind_kick(_tree: &Tree, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let vcpu = caller.find::<Vcpu>(selector(args[0])?, Rights::CONTROL)?;
    let notification = caller.find::<Notification>(selector(args[1])?, Rights::WAIT)?;
    // Until it is started, no CPU touches the vCPU.
    if vcpu.context.was_started() || vcpu.context.notification.get().is_some() {
        return Err(Status::Busy);
    }
    notification.attach(vcpu.context())?;
    vcpu.context.notification.set(Some(notification));
    Ok(())
}
