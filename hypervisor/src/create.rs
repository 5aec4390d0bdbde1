//! Creation.

use crate::arch::{self, Frame, PageTable, VcpuArch};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu;
use crate::domain::Domain;
use crate::mem::{self, KernelPage};
use crate::notification::Notification;
use crate::object::{self, AnyRef, Header, Object};
use crate::portal::{self, Portal};
use crate::ring::Ring;
use crate::slot::{CapWord, ORIGIN, Slot, Tree};
use crate::space::{Space, User};
use crate::sync::atomic::Ordering;
use crate::syscall::Caller;
use crate::thread::Thread;
use crate::vcpu::{MAX_ARCH_PAGES, Vcpu};
use abi::argument::{CodeAddress, PageAddress, Placement, StackAddress};
use abi::cap::Kind;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{MAX_DOMAIN_DEPTH, Rights, Selector, Status, call};

/// Who pays for a new object, or why nobody does: what is wrong with the arguments comes first.
pub type Payer = Result<Ref<Domain>, Status>;

/// Carries out a creation: `make` makes the object.
pub fn create(
    caller: &Caller,
    make: fn(&Caller, Payer) -> Result<AnyRef, Status>,
) -> Result<(), Status> {
    // The lock keeps the slot empty.
    let target = target(caller);
    let object = make(caller, target.map(|(payer, _)| payer))?;
    let (_, slot) = target?;
    slot.describe(caller.tree, ORIGIN);
    slot.first.store(u64::MAX, Ordering::Release);
    object.origin.store(slot.link(), Ordering::Relaxed);
    let word = CapWord::new(object.kind, Rights::all(), object.address());
    slot.publish(caller.tree, word);
    Ok(())
}

/// The payer and the slot of a creation.
fn target(caller: &Caller) -> Result<(Ref<Domain>, Ref<Slot>), Status> {
    // The arguments that all creations begin with; of a notification there are no others.
    let call: call::CreateNotification = caller.arguments()?;
    let payer = caller.domain.object(call.payer)?;
    if payer.is_dying() {
        return Err(Status::Dead);
    }
    Ok((payer, caller.domain.empty_slot(call.destination.0)?))
}

/// [`abi::Op::CreateDomain`].
pub fn domain(caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let call: call::CreateDomain = caller.arguments()?;
    let payer = payer?;
    let (quota, slots) = (call.quota.get(), call.slots.get() as u32);
    let level = payer.level().max(caller.domain.level());
    if level >= MAX_DOMAIN_DEPTH {
        return Err(Status::BadArgument);
    }
    let cost = Domain::overhead(slots) + quota;
    payer.charge(cost)?;
    let Some(domain) = Domain::create(Some(payer), level + 1, slots, quota) else {
        payer.uncharge(cost);
        return Err(Status::Quota);
    };
    payer.adopt(object::header(domain));
    Ok(object::header(domain))
}

/// [`abi::Op::CreateSpace`].
pub fn space(caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let call: call::CreateSpace = caller.arguments()?;
    let payer = payer?;
    let kind = call.kind;
    // The cell first: what comes after it cannot fail, or leaves nothing behind.
    let cell = payer.alloc_cell()?;
    let table = PageTable::new(kind, &payer).inspect_err(|_| payer.free_cell(cell))?;
    let header = Header::new(Kind::Space, Some(payer));
    let space = Space::new(header, kind, arch::alloc_space_tag(kind), table);
    Ok(object::header(payer.make_in(cell, space)))
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

/// `cpu`, if the machine has it.
pub fn check_cpu(cpu: u32) -> Result<u32, Status> {
    if cpu >= cpu::count() {
        return Err(Status::BadArgument);
    }
    Ok(cpu)
}

/// [`abi::Op::CreateThread`].
pub fn thread(caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let call: call::CreateThread = caller.arguments()?;
    let payer = payer?;
    let domain = caller.domain.object(call.domain)?;
    let space = caller.domain.object(call.space)?;
    // They end together, so that no reference between them outlives its object.
    if domain != payer || space.payer()? != payer || space.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    check_cpu(call.placement.cpu)?;
    let start = ThreadStart {
        placement: call.placement,
        utcb: call.utcb,
        ip: call.ip,
        sp: call.sp,
        exceptions: call.exceptions,
    };
    let thread = make_thread(caller.tree, payer, space, &start)?;
    Ok(object::header(thread))
}

/// What a new thread starts with.
pub struct ThreadStart {
    /// CPU, which the machine has, and what the thread is.
    pub placement: Placement,
    /// Where its UTCB is to be.
    pub utcb: PageAddress,
    /// Instruction pointer.
    pub ip: CodeAddress,
    /// Stack pointer.
    pub sp: StackAddress,
    /// Portal for its exceptions, in its domain.
    pub exceptions: Selector,
}

/// Makes a thread that `domain` pays for.
pub fn make_thread(
    tree: &Tree,
    domain: Ref<Domain>,
    space: Ref<Space>,
    start: &ThreadStart,
) -> Result<Ref<Thread>, Status> {
    let Placement { cpu, flags } = start.placement;
    let foreign = flags.contains(ThreadFlags::FOREIGN);
    let page = domain.alloc_page()?;
    let utcb = domain.alloc_page().inspect_err(|_| domain.free_page(page))?;
    if let Err(status) = space.map_kernel_page(tree, start.utcb, utcb) {
        domain.free_page(utcb);
        domain.free_page(page);
        return Err(status);
    }
    let header = Header::new(Kind::Thread, Some(domain));
    let context = Context::new(header, cpu, State::New);
    if foreign {
        context.reply_path.set(ReplyPath::General);
    }
    let thread = Thread {
        context,
        frame: CpuCell::new(Frame::user(start.ip.get(), start.sp.get())),
        caller: CpuCell::new(None),
        domain,
        space,
        use_of_space: User::new(future(page)),
        utcb,
        utcb_address: start.utcb.get(),
        exception_portal: start.exceptions,
        pending: CpuCell::new(None),
        in_exception: CpuCell::new(false),
        foreign,
        portals: Ring::new(),
        sync: CpuCell::new(None),
    };
    // SAFETY: a fresh page; that a Thread fits is asserted beside its definition.
    let thread = unsafe { place(page, thread) };
    thread.use_of_space.enter(tree, &space);
    space.runs_on(tree, cpu);
    domain.adopt(object::header(thread));
    Ok(thread)
}

/// [`abi::Op::CreateVcpu`].
pub fn vcpu(caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let call: call::CreateVcpu = caller.arguments()?;
    let payer = payer?;
    let domain = caller.domain.object(call.domain)?;
    let guest = caller.domain.object(call.guest_space)?;
    let monitor = caller.domain.object(call.host_space)?;
    let cpu = check_cpu(call.cpu)?;
    let one_payer = domain == payer && guest.payer()? == payer && monitor.payer()? == payer;
    if !one_payer || guest.kind != SpaceKind::Guest || monitor.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let count = arch::pages_per_vcpu().ok_or(Status::Unsupported)?.min(MAX_ARCH_PAGES);
    payer.charge(count as u64 + 1)?;
    let state_page = payer.alloc_page().inspect_err(|_| payer.uncharge(count as u64 + 1))?;
    if let Err(status) = monitor.map_kernel_page(caller.tree, call.state, state_page) {
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
        state_address: call.state.get(),
        exit_base: CpuCell::new(call.portals),
        pending: CpuCell::new(Some(startup)),
        deadline: CpuCell::new(u64::MAX),
        expired: CpuCell::new(false),
        arch: CpuCell::from_value(VcpuArch::new(&arch_pages[..count], state_page)),
        arch_pages: (arch_pages, count),
    };
    // SAFETY: a fresh page; that a Vcpu fits is asserted beside its definition.
    let vcpu = unsafe { place(own, vcpu) };
    for (user, space) in vcpu.uses.iter().zip([guest, monitor]) {
        user.enter(caller.tree, &space);
    }
    guest.runs_on(caller.tree, cpu);
    payer.adopt(object::header(vcpu));
    Ok(object::header(vcpu))
}

/// [`abi::Op::CreatePortal`].
pub fn portal(caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let call: call::CreatePortal = caller.arguments()?;
    let payer = payer?;
    let handler = caller.domain.object(call.handler)?;
    if handler.foreign {
        return Err(Status::BadArgument);
    }
    let header = Header::new(Kind::Portal, Some(payer));
    let portal = payer.make(|| Portal::new(header, call.identity, call.groups))?;
    portal::bind(portal, handler);
    Ok(object::header(portal))
}

/// [`abi::Op::CreateNotification`].
pub fn notification(_caller: &Caller, payer: Payer) -> Result<AnyRef, Status> {
    let payer = payer?;
    let header = Header::new(Kind::Notification, Some(payer));
    Ok(object::header(payer.make(|| Notification::new(header))?))
}

/// [`abi::Op::BindKick`].
pub fn bind_kick(caller: &Caller) -> Result<(), Status> {
    let call: call::BindKick = caller.arguments()?;
    let held = caller.domain.held(call.vcpu)?;
    let (vcpu, notification) = (held.object, caller.domain.held(call.notification)?);
    let through = [held.slot.link(), notification.slot.link()];
    let notification = notification.object;
    // Until it is started, no CPU touches the vCPU.
    if vcpu.context.was_started.load(Ordering::Acquire) || vcpu.context.notification.get().is_some()
    {
        return Err(Status::Busy);
    }
    notification.attach(vcpu.context(), through)?;
    vcpu.context.notification.set(Some(notification));
    Ok(())
}
