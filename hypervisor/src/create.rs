//! Creation.

use crate::arch::{self, Frame, VcpuArch};
use crate::cell::{CpuCell, Ref};
use crate::context::{Context, ReplyPath, State};
use crate::cpu;
use crate::domain::Domain;
use crate::mem::{self, KernelPage};
use crate::notification::Notification;
use crate::object::{self, AnyRef, Header};
use crate::portal::{self, Portal};
use crate::ring::Ring;
use crate::slot::{CapWord, ORIGIN, Slot, Tree};
use crate::space::{Space, User};
use crate::sync::atomic::Ordering;
use crate::syscall::Caller;
use crate::thread::Thread;
use crate::vcpu::{MAX_ARCH_PAGES, Vcpu};
use abi::argument::{PageAddress, Placement};
use abi::cap::Kind;
use abi::operation::Operation;
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{MAX_DOMAIN_DEPTH, Rights, Status, call};

/// What an object is made from.
pub struct Creation<'a, T> {
    /// Proof that the tree is locked.
    pub tree: &'a Tree,
    /// The domain that the arguments' selectors are of.
    pub caller: &'a Domain,
    /// The arguments.
    pub call: T,
    /// The domain that pays.
    pub payer: Ref<Domain>,
}

/// Carries out a creation: `make` makes the object.
pub fn create<T: Operation>(
    caller: &Caller,
    make: fn(Creation<T>) -> Result<AnyRef, Status>,
) -> Result<(), Status> {
    // What is wrong with the arguments comes first.
    let call = caller.arguments()?;
    let (payer, slot) = target(caller)?;
    let Caller { tree, domain: caller, .. } = *caller;
    hold(tree, slot, make(Creation { tree, caller, call, payer })?);
    Ok(())
}

/// The payer and the slot of a creation. The lock keeps the slot empty.
#[inline(never)]
fn target(caller: &Caller) -> Result<(Ref<Domain>, Ref<Slot>), Status> {
    // The arguments that all creations begin with; of a notification there are no others.
    let call: call::CreateNotification = caller.arguments()?;
    let payer = caller.domain.object(call.payer)?;
    if payer.is_dying() {
        return Err(Status::Dead);
    }
    Ok((payer, caller.domain.empty_slot(call.destination.0)?))
}

/// Puts the first capability of `object` into `slot`.
#[inline(never)]
fn hold(tree: &Tree, slot: Ref<Slot>, object: AnyRef) {
    object.origin.store(slot.link(), Ordering::Relaxed);
    let word = CapWord::new(object.kind, Rights::all(), object.address());
    slot.fill(tree, word, [u64::MAX, 0], ORIGIN);
}

/// [`abi::Op::CreateDomain`].
pub fn domain(new: Creation<call::CreateDomain>) -> Result<AnyRef, Status> {
    let Creation { caller, call, payer, .. } = new;
    let (quota, slots) = (call.quota.get(), call.slots.get() as u32);
    let level = payer.level.max(caller.level);
    if level >= MAX_DOMAIN_DEPTH {
        return Err(Status::BadArgument);
    }
    payer.charge(Domain::overhead(slots) + quota)?;
    let domain = Domain::create(Some(payer), level + 1, slots, quota)?;
    payer.adopt(object::header(domain));
    Ok(object::header(domain))
}

/// [`abi::Op::CreateSpace`].
pub fn space(new: Creation<call::CreateSpace>) -> Result<AnyRef, Status> {
    Space::make(new.payer, new.call.kind).map(object::header)
}

/// `cpu`, if the machine has it.
pub fn check_cpu(cpu: u32) -> Result<u32, Status> {
    if cpu >= cpu::count() {
        return Err(Status::BadArgument);
    }
    Ok(cpu)
}

/// Charges `payer` for `count` pages, and maps one of them into `space` at `at`. The others are there for the caller to take:
/// quotas together never exceed the pool.
fn shared_page(
    tree: &Tree,
    payer: &Domain,
    count: u64,
    space: &Space,
    at: PageAddress,
) -> Result<KernelPage, Status> {
    payer.charge(count)?;
    let page = mem::alloc().ok_or(Status::Quota)?;
    space.map_kernel_page(tree, at, page, Rights::RW).inspect_err(|_| {
        mem::free(page);
        payer.uncharge(count);
    })?;
    Ok(page)
}

/// [`abi::Op::CreateThread`].
pub fn thread(new: Creation<call::CreateThread>) -> Result<AnyRef, Status> {
    let Creation { tree, caller, call, payer } = new;
    let domain = caller.object(call.domain)?;
    let space = caller.object(call.space)?;
    // They end together, so that no reference between them outlives its object.
    if domain != payer || space.header.payer != payer || space.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let Placement { cpu, flags } = call.placement;
    check_cpu(cpu)?;
    let utcb = shared_page(tree, &domain, 2, &space, call.utcb)?;
    let page = mem::alloc().ok_or(Status::Quota)?;
    let foreign = flags.contains(ThreadFlags::FOREIGN);
    let context = Context::new(Header::new(Kind::Thread, domain), cpu, State::New);
    if foreign {
        context.reply_path.set(ReplyPath::General);
    }
    let thread = Thread {
        context,
        frame: CpuCell::new(Frame::user(call.ip.get(), call.sp.get())),
        caller: CpuCell::new(None),
        domain,
        space,
        use_of_space: User::of_nothing(),
        utcb,
        utcb_address: call.utcb.get(),
        exception_portal: call.exceptions,
        pending: CpuCell::new(None),
        in_exception: CpuCell::new(false),
        foreign,
        portals: Ring::new(),
        sync: CpuCell::new(None),
    };
    // SAFETY: a fresh page; that a Thread fits is asserted beside its definition.
    let thread = unsafe { Ref::place(page.virt.0, thread) };
    thread.use_of_space.enter(tree, &space, object::header(thread));
    space.runs_on(tree, cpu);
    domain.adopt(object::header(thread));
    Ok(object::header(thread))
}

/// [`abi::Op::CreateVcpu`].
pub fn vcpu(new: Creation<call::CreateVcpu>) -> Result<AnyRef, Status> {
    let Creation { tree, caller, call, payer } = new;
    let domain = caller.object(call.domain)?;
    let guest = caller.object(call.guest_space)?;
    let monitor = caller.object(call.host_space)?;
    let cpu = check_cpu(call.cpu)?;
    let one_payer = [domain, guest.header.payer, monitor.header.payer] == [payer; 3];
    if !one_payer || guest.kind != SpaceKind::Guest || monitor.kind != SpaceKind::Host {
        return Err(Status::BadArgument);
    }
    let count = arch::pages_per_vcpu().ok_or(Status::Unsupported)?.min(MAX_ARCH_PAGES);
    let state_page = shared_page(tree, &payer, count as u64 + 2, &monitor, call.state)?;
    let own = mem::alloc().ok_or(Status::Quota)?;
    let mut arch_pages = [KernelPage::NONE; MAX_ARCH_PAGES];
    for page in arch_pages.iter_mut().take(count) {
        *page = mem::alloc().ok_or(Status::Quota)?;
    }
    // The first thing that a vCPU does is to ask its monitor for its state.
    let startup = crate::vcpu::Exit {
        kind: abi::vcpu::ExitKind::Startup,
        instruction_length: 0,
        info: [0; 3],
    };
    let vcpu = Vcpu {
        context: Context::new(Header::new(Kind::Vcpu, payer), cpu, State::Ready),
        domain,
        guest,
        monitor,
        uses: [const { User::of_nothing() }; 2],
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
    let vcpu = unsafe { Ref::place(own.virt.0, vcpu) };
    for (user, space) in vcpu.uses.iter().zip([guest, monitor]) {
        user.enter(tree, &space, object::header(vcpu));
    }
    guest.runs_on(tree, cpu);
    payer.adopt(object::header(vcpu));
    Ok(object::header(vcpu))
}

/// [`abi::Op::CreatePortal`].
pub fn portal(new: Creation<call::CreatePortal>) -> Result<AnyRef, Status> {
    let Creation { caller, call, payer, .. } = new;
    let handler = caller.object(call.handler)?;
    if handler.foreign {
        return Err(Status::BadArgument);
    }
    let portal = payer.make(|header| Portal::new(header, call.identity, call.groups))?;
    portal::bind(portal, handler);
    Ok(object::header(portal))
}

/// [`abi::Op::CreateNotification`].
pub fn notification(new: Creation<call::CreateNotification>) -> Result<AnyRef, Status> {
    new.payer.make(Notification::new).map(object::header)
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
