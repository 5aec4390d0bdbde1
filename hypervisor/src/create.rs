//! Creation and delegation.

use crate::arch::{self, PageTable, VcpuArch};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu::{self, Cpu};
use crate::cyclic::Frame;
use crate::domain::{Domain, MAX_LEVEL, MAX_SLOTS};
use crate::mem::{self, KernelPage};
use crate::notification::Notification;
use crate::object::{self, Header, Object};
use crate::portal::{self, Portal};
use crate::sched::Sched;
use crate::slot::{self, CapWord, ORIGIN, Slot, Tree};
use crate::space::{Progress, Space};
use crate::thread::Thread;
use crate::vcpu::{MAX_ARCH_PAGES, Vcpu};
use crate::{migrate, overrun, syscall};
use abi::cap::{Kind, TimeLimit};
use abi::syscall::{DelegateFlags, SpaceKind, ThreadFlags};
use abi::utcb::WORDS;
use abi::{PRIORITIES, Rights, Selector, Status};
use core::sync::atomic::Ordering;

/// Arguments of a system call, `a0` to `a8`.
pub type Args = [u64; 9];

fn selector(argument: u64) -> Result<Selector, Status> {
    u32::try_from(argument)
        .map(Selector)
        .map_err(|_| Status::BadArgument)
}

/// The paying domain `a0` and the empty slot `a1` of a creation, which the lock keeps empty.
fn target(caller: &Domain, args: &Args) -> Result<(Ref<Domain>, Ref<Slot>, Tree), Status> {
    let tree = slot::lock();
    let payer = caller.find::<Domain>(selector(args[0])?, Rights::CREATE)?;
    if payer.is_dying() {
        return Err(Status::Dead);
    }
    Ok((payer, caller.empty_slot(selector(args[1])?)?, tree))
}

/// Publishes the first capability of a new object.
fn publish<T: Object>(tree: &Tree, slot: Ref<Slot>, object: Ref<T>) {
    slot.first.store(u64::MAX, Ordering::Relaxed);
    slot.extra.store(ORIGIN, Ordering::Relaxed);
    object::header(object)
        .origin
        .store(slot.link(), Ordering::Relaxed);
    slot.publish(tree, CapWord::new(T::KIND, Rights::all(), object.address()));
}

/// [`abi::Op::CreateDomain`].
pub fn domain(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
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
    publish(&tree, slot, domain);
    Ok(())
}

/// [`abi::Op::CreateSpace`].
pub fn space(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
    let kind = SpaceKind::from_code(args[2]).ok_or(Status::BadArgument)?;
    // The cell first: what comes after it cannot fail, or leaves nothing behind.
    let cell = payer.alloc_cell()?;
    let table = PageTable::new(kind, &payer).inspect_err(|_| payer.free_cell(cell))?;
    let header = Header::new(Kind::Space, Some(payer));
    let space = Space::new(header, kind, arch::alloc_space_tag(kind), table);
    publish(&tree, slot, payer.make_in(cell, space));
    Ok(())
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
pub fn thread(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
    let domain = caller.find::<Domain>(selector(args[2])?, Rights::INSTALL)?;
    let space = caller.find::<Space>(selector(args[3])?, Rights::INSTALL)?;
    // They end together, so that no reference between them outlives its object.
    if domain != payer || space.payer()? != payer || space.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let (cpu, flags) = (args[4] & u32::MAX as u64, args[4] & !(u32::MAX as u64));
    let flags = ThreadFlags::from_bits(flags).ok_or(Status::BadArgument)?;
    let thread = make_thread(
        &tree,
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
    publish(&tree, slot, thread);
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
    space.users.fetch_add(1, Ordering::AcqRel);
    let header = Header::new(Kind::Thread, Some(domain));
    let context = Context::new(header, args.cpu, State::New);
    if args.foreign {
        context.reply_path.set(ReplyPath::General);
    }
    let thread = Thread {
        context,
        frame: CpuCell::new(arch::Frame::user(args.ip, args.sp)),
        caller: CpuCell::new(None),
        domain,
        space,
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
    domain.adopt(object::header(thread));
    Ok(thread)
}

/// [`abi::Op::CreateVcpu`].
pub fn vcpu(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
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
    payer.charge(count as u64 + 2)?;
    let mut pages = [KernelPage::NONE; MAX_ARCH_PAGES + 2];
    for page in pages.iter_mut().take(count + 2) {
        // Charged pages are there: quotas together never exceed the pool.
        *page = mem::alloc().ok_or(Status::Quota)?;
    }
    let (own, state_page) = (pages[count], pages[count + 1]);
    if let Err(status) = monitor.map_kernel_page(&tree, args[6], state_page) {
        for &page in pages.iter().take(count + 2) {
            payer.free_page(page);
        }
        return Err(status);
    }
    guest.users.fetch_add(1, Ordering::AcqRel);
    monitor.users.fetch_add(1, Ordering::AcqRel);
    let mut arch_pages = [KernelPage::NONE; MAX_ARCH_PAGES];
    arch_pages[..count].copy_from_slice(&pages[..count]);
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
        state_page,
        state_address: args[6],
        exit_base: CpuCell::new(exit_base),
        pending: CpuCell::new(Some(startup)),
        deadline: CpuCell::new(u64::MAX),
        expired: CpuCell::new(false),
        arch: CpuCell::from_value(VcpuArch::new(&arch_pages[..count], state_page)),
        arch_pages: (arch_pages, count),
    };
    // SAFETY: a fresh page; that a Vcpu fits is asserted beside its definition.
    let vcpu = unsafe { place(own, vcpu) };
    payer.adopt(object::header(vcpu));
    publish(&tree, slot, vcpu);
    Ok(())
}

/// [`abi::Op::CreateSched`].
pub fn sched(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
    let cpu = check_cpu(args[2])?;
    let priority = u8::try_from(args[3]).map_err(|_| Status::BadArgument)?;
    let (budget, period) = (args[4], args[5]);
    if priority as usize >= PRIORITIES || budget > period || (budget == 0) != (period == 0) {
        return Err(Status::BadArgument);
    }
    let most = time(&tree, &caller, args[6], cpu, Rights::CREATE)?;
    let limit = TimeLimit { priority, ..most };
    if !most.includes(limit) {
        return Err(Status::Denied);
    }
    let header = Header::new(Kind::Sched, Some(payer));
    let sched = Sched::new(header, cpu, limit, budget, period);
    publish(&tree, slot, payer.make(sched)?);
    Ok(())
}

/// What the capability to time allows on `cpu` that `argument` names.
fn time(
    _tree: &Tree,
    caller: &Domain,
    argument: u64,
    cpu: u32,
    rights: Rights,
) -> Result<TimeLimit, Status> {
    let slot = caller.slot(selector(argument)?);
    let slot = slot.filter(|slot| slot.word().is(Kind::Time));
    let slot = slot.ok_or(Status::BadCapability)?;
    if !slot.word().allows(rights) || slot.first.load(Ordering::Relaxed) >> cpu & 1 == 0 {
        return Err(Status::Denied);
    }
    TimeLimit::unpack(slot.second.load(Ordering::Relaxed)).ok_or(Status::Denied)
}

/// [`abi::Op::SetSchedule`].
pub fn set_schedule(thread: Ref<Thread>, args: &Args) -> Result<(), Status> {
    let cpu = check_cpu(args[1])?;
    let words = thread.with_frame(|frame| frame.tag().utcb_words());
    let head = abi::PAGE_SIZE / 8 - WORDS;
    let frame = Frame::new(args[2], words, |i| thread.utcb.read(head + i))?;
    let limit = time(&slot::lock(), &thread.domain, args[0], cpu, Rights::CONTROL)?;
    if limit.partition != 0 {
        return Err(Status::Denied);
    }
    let cpu = cpu::by_index(cpu);
    cpu.cyclic.propose(frame);
    cpu.interrupt();
    Ok(())
}

/// [`abi::Op::CreatePortal`].
pub fn portal(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
    let handler = caller.find::<Thread>(selector(args[2])?, Rights::CONTROL)?;
    if handler.foreign {
        return Err(Status::BadArgument);
    }
    let header = Header::new(Kind::Portal, Some(payer));
    let portal = payer.make(Portal::new(header, args[3], args[4]))?;
    portal::bind(portal, handler);
    publish(&tree, slot, portal);
    Ok(())
}

/// [`abi::Op::CreateNotification`].
pub fn notification(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let (payer, slot, tree) = target(&caller, args)?;
    let header = Header::new(Kind::Notification, Some(payer));
    publish(&tree, slot, payer.make(Notification::new(header))?);
    Ok(())
}

/// [`abi::Op::Delegate`].
pub fn delegate(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let receiver = caller.find::<Domain>(selector(args[1])?, Rights::INSTALL)?;
    let tree = slot::lock();
    let source = caller
        .slot(selector(args[0])?)
        .ok_or(Status::BadCapability)?;
    let word = source.word();
    if matches!(word.kind(), Kind::Null | Kind::Mapping) {
        return Err(Status::BadCapability);
    }
    if !word.allows(Rights::DELEGATE) {
        return Err(Status::Denied);
    }
    let flags = DelegateFlags::from_bits(args[6]).ok_or(Status::BadArgument)?;
    let target = receiver.empty_slot(selector(args[2])?)?;
    let extra = source.extra.load(Ordering::Relaxed);
    if flags.contains(DelegateFlags::GRANT) {
        // What was derived would change its parent, and an object its order of destruction.
        if source.first_child(&tree).is_some() || extra & ORIGIN != 0 {
            return Err(Status::Busy);
        }
        source.move_to(&tree, &target);
        return Ok(());
    }
    let rights = u16::try_from(args[3]).ok().and_then(Rights::from_bits);
    let rights = rights.ok_or(Status::BadArgument)? & word.rights();
    let (first, second) = (
        source.first.load(Ordering::Relaxed),
        source.second.load(Ordering::Relaxed),
    );
    let (new_first, new_second) = match word.kind() {
        Kind::Memory => {
            let ports = extra >> 8 & 0xff == abi::cap::MemoryKind::Ports as u64;
            let unit = if ports { 1 } else { abi::PAGE_SIZE as u64 };
            let inside = args[4]
                .checked_add(args[5])
                .is_some_and(|end| end <= second);
            if args[5] == 0 || !inside || (args[4] | args[5]) & (unit - 1) != 0 {
                return Err(Status::BadArgument);
            }
            (first + args[4], args[5])
        }
        Kind::Notification if args[4] & !first != 0 => return Err(Status::Denied),
        Kind::Notification => (args[4], 0),
        Kind::Time => {
            let narrower = TimeLimit::unpack(args[5]).ok_or(Status::BadArgument)?;
            let inside = TimeLimit::unpack(second).is_some_and(|limit| limit.includes(narrower));
            if args[4] & !first != 0 || !inside {
                return Err(Status::Denied);
            }
            (args[4], args[5])
        }
        _ => (first, second),
    };
    target.first.store(new_first, Ordering::Relaxed);
    target.second.store(new_second, Ordering::Relaxed);
    target.extra.store(extra & 0xff00, Ordering::Relaxed);
    target.link_under(&tree, &source);
    target.publish(&tree, CapWord::new(word.kind(), rights, word.address()));
    Ok(())
}

/// [`abi::Op::BindSched`].
pub fn bind_sched(cpu: &Cpu, caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    // What is bound under this lock is found when either ends.
    let _tree = slot::lock();
    let sched = caller.find::<Sched>(selector(args[0])?, Rights::CONTROL)?;
    let context = context(&caller, args[1])?;
    if sched.cpu() != context.cpu() {
        return Err(Status::WrongCpu);
    }
    cpu::start(cpu, sched, context)
}

/// The thread or vCPU that `argument` names, with the right to control it.
fn context(caller: &Domain, argument: u64) -> Result<Ref<Context>, Status> {
    let word = caller.capability(selector(argument)?);
    if !matches!(word.kind(), Kind::Thread | Kind::Vcpu) {
        return Err(Status::BadCapability);
    }
    if !word.allows(Rights::CONTROL) {
        return Err(Status::Denied);
    }
    // SAFETY: threads and vCPUs start with their context.
    Ok(unsafe { Ref::from_address(word.address()) })
}

/// [`abi::Op::Migrate`]; `asked`: by an earlier run of this system call.
pub fn migrate(caller: Ref<Domain>, args: &Args, asked: bool) -> Result<Progress, Status> {
    let tree = slot::lock();
    let context = context(&caller, args[0])?;
    if asked {
        return migrate::answer(context, args[1]);
    }
    let to = check_cpu(args[1])?;
    let request = migrate::Request {
        to,
        limit: time(&tree, &caller, args[2], to, Rights::CREATE)?,
        exit_base: selector(args[3])?,
    };
    migrate::ask(context, request)?;
    Ok(Progress::Again)
}

/// [`abi::Op::BindOverrun`].
pub fn bind_overrun(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    // What is bound under this lock is found when either ends.
    let _tree = slot::lock();
    let sched = caller.find::<Sched>(selector(args[0])?, Rights::CONTROL)?;
    let (notification, bits) = syscall::signal_target(caller, args[1])?;
    overrun::bind(sched, notification, bits)
}

/// [`abi::Op::BindKick`].
pub fn bind_kick(caller: Ref<Domain>, args: &Args) -> Result<(), Status> {
    let _tree = slot::lock();
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
