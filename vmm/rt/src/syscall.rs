//! System calls: one function for each operation of [`abi::call`], which has their rights, conditions and errors. An argument that
//! no word can say is `BadArgument` without a system call.
use crate::arch::{self, Registers};
use crate::ipc::Utcb;
use abi::argument::{Access, LogBytes, Number, PageAddress, Placement};
use abi::call;
use abi::cap::TimeLimit;
use abi::operation::Operation;
use abi::syscall::{
    Caching, DelegateFlags, DoorbellKind, MAX_WINDOWS, PowerAction, SpaceKind, ThreadFlags,
    TriggerMode, WINDOW_WORDS,
};
use abi::{Badge, Rights, Selector, Status, Tag};

pub use abi::LOG_CHUNK;
pub use abi::call::Quota;

/// Result of a system call.
pub type Result<T = ()> = core::result::Result<T, Status>;

/// A point in time for [`wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

impl Deadline {
    /// Do not wait at all.
    pub const POLL: Deadline = Deadline(0);
    /// Wait for ever.
    pub const NEVER: Deadline = Deadline(u64::MAX);

    /// `ticks` of the machine's counter from now.
    pub fn after(ticks: u64) -> Deadline {
        Deadline(arch::counter().saturating_add(ticks).clamp(1, u64::MAX - 1))
    }
}

/// Number of a CPU.
pub type Cpu = u32;

/// Makes the system call that `operation` says, and returns its results.
#[inline(always)]
fn invoke<T: Operation>(operation: T) -> Result<T::Results> {
    invoke_with(operation, 0)
}

/// As [`invoke`], with `words` words of the UTCB.
#[inline(always)]
fn invoke_with<T: Operation>(operation: T, words: u16) -> Result<T::Results> {
    let r = Registers { tag: Tag::new(T::OP, words).0, ..Registers::new(&operation) };
    arch::system_call(r).results::<T>()
}

/// A number that an argument has the range of.
fn number<const FIRST: u64, const LAST: u64>(value: u64) -> Result<Number<FIRST, LAST>> {
    Number::new(value).ok_or(Status::BadArgument)
}

fn page(address: u64) -> Result<PageAddress> {
    PageAddress::new(address).ok_or(Status::BadArgument)
}

/// Sets the capability's badge bits in a notification.
pub fn signal(notification: Selector) -> Result {
    let notification = notification.into();
    invoke(call::Signal { notification })
}

/// Waits for bits of a notification; returns and clears them.
pub fn wait(notification: Selector, deadline: Deadline) -> Result<u64> {
    let waited = invoke(call::Wait { notification: notification.into(), deadline: deadline.0 })?;
    Ok(waited.bits)
}

/// Gives the rest of the turn to the next scheduling context of the same priority.
pub fn yield_turn() {
    // It has no way to fail that a caller could act on.
    let _ = invoke(call::Yield {});
}

/// Creates a domain with a quota of `pages` of kernel memory and a table of `slots` capabilities.
pub fn create_domain(payer: Selector, dst: Selector, pages: u64, slots: u64) -> Result {
    invoke(call::CreateDomain {
        payer: payer.into(),
        destination: dst.into(),
        quota: number(pages)?,
        slots: number(slots)?,
    })
}

/// Creates an address space.
pub fn create_space(payer: Selector, dst: Selector, kind: SpaceKind) -> Result {
    invoke(call::CreateSpace { payer: payer.into(), destination: dst.into(), kind })
}

/// What a new thread is made of.
#[derive(Clone, Copy, Debug)]
pub struct ThreadParameters {
    /// The domain whose capabilities it uses.
    pub domain: Selector,
    /// Its host space.
    pub space: Selector,
    /// Its CPU.
    pub cpu: Cpu,
    /// Address of its UTCB page, which the kernel maps.
    pub utcb: u64,
    /// Instruction pointer.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Portal for its exceptions, in its domain.
    pub exceptions: Selector,
    /// How it differs from other threads.
    pub flags: ThreadFlags,
}

/// Creates a thread.
pub fn create_thread(payer: Selector, dst: Selector, p: &ThreadParameters) -> Result {
    invoke(call::CreateThread {
        payer: payer.into(),
        destination: dst.into(),
        domain: p.domain.into(),
        space: p.space.into(),
        placement: Placement { cpu: p.cpu, flags: p.flags },
        utcb: page(p.utcb)?,
        ip: number(p.ip)?,
        sp: number(p.sp)?,
        exceptions: p.exceptions,
    })
}

/// What a new vCPU is made of.
#[derive(Clone, Copy, Debug)]
pub struct VcpuParameters {
    /// The domain whose exit portals it calls.
    pub domain: Selector,
    /// Its guest space.
    pub guest_space: Selector,
    /// Its CPU.
    pub cpu: Cpu,
    /// The host space that its state page is mapped into.
    pub host_space: Selector,
    /// Address of the state page.
    pub state: u64,
    /// Portal of exit kind 0; kind `k` is `k` further.
    pub portals: Selector,
}

/// Creates a vCPU.
pub fn create_vcpu(payer: Selector, dst: Selector, p: &VcpuParameters) -> Result {
    invoke(call::CreateVcpu {
        payer: payer.into(),
        destination: dst.into(),
        domain: p.domain.into(),
        guest_space: p.guest_space.into(),
        cpu: p.cpu,
        host_space: p.host_space.into(),
        state: page(p.state)?,
        portals: p.portals,
    })
}

/// How much time a scheduling context gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Time {
    /// 0 (lowest) to [`abi::PRIORITIES`] − 1.
    pub priority: u8,
    /// Ticks in each period; 0: no limit.
    pub budget: u64,
    /// Ticks; 0: no limit.
    pub period: u64,
}

/// Creates a scheduling context from the time that `source` names.
pub fn create_sched(
    payer: Selector,
    dst: Selector,
    source: Selector,
    cpu: Cpu,
    time: Time,
) -> Result {
    invoke(call::CreateSched {
        payer: payer.into(),
        destination: dst.into(),
        cpu,
        priority: number(time.priority.into())?,
        budget: time.budget,
        period: time.period,
        time: source.into(),
    })
}

/// Creates a portal whose calls `handler` receives with `identity`. `groups`: vCPU state that exits
/// through it save ([`abi::vcpu`]).
pub fn create_portal(
    payer: Selector,
    dst: Selector,
    handler: Selector,
    identity: u64,
    groups: u64,
) -> Result {
    invoke(call::CreatePortal {
        payer: payer.into(),
        destination: dst.into(),
        handler: handler.into(),
        identity,
        groups,
    })
}

/// Creates a notification.
pub fn create_notification(payer: Selector, dst: Selector) -> Result {
    invoke(call::CreateNotification { payer: payer.into(), destination: dst.into() })
}

/// A delegation of a capability as it is.
fn whole(capability: Selector, domain: Selector, dst: Selector, rights: Rights) -> call::Delegate {
    call::Delegate {
        capability: capability.into(),
        domain: domain.into(),
        destination: dst.into(),
        rights,
        first: 0,
        second: 0,
        flags: DelegateFlags::empty(),
    }
}

/// Delegates a capability that is neither memory nor a notification.
pub fn delegate(capability: Selector, domain: Selector, dst: Selector, rights: Rights) -> Result {
    invoke(whole(capability, domain, dst, rights))
}

/// Delegates `size` bytes at `offset` of a memory capability (ports: in ports).
pub fn delegate_memory(
    memory: Selector,
    domain: Selector,
    dst: Selector,
    rights: Rights,
    offset: u64,
    size: u64,
) -> Result {
    invoke(call::Delegate { first: offset, second: size, ..whole(memory, domain, dst, rights) })
}

/// Delegates a notification with a badge.
pub fn delegate_notification(
    notification: Selector,
    domain: Selector,
    dst: Selector,
    rights: Rights,
    badge: Badge,
) -> Result {
    invoke(call::Delegate { first: badge.0, ..whole(notification, domain, dst, rights) })
}

/// Delegates time of the CPUs whose bits are set in `cpus`.
pub fn delegate_time(
    time: Selector,
    domain: Selector,
    dst: Selector,
    rights: Rights,
    cpus: u64,
    limit: TimeLimit,
) -> Result {
    invoke(call::Delegate { first: cpus, second: limit.pack(), ..whole(time, domain, dst, rights) })
}

/// Gives a capability away.
pub fn grant(capability: Selector, domain: Selector, dst: Selector) -> Result {
    invoke(call::Delegate {
        flags: DelegateFlags::GRANT,
        ..whole(capability, domain, dst, Rights::empty())
    })
}

/// Revokes all that was delegated from or mapped through a capability.
pub fn revoke(capability: Selector) -> Result {
    let capability = capability.into();
    invoke(call::Revoke { capability })
}

/// Revokes and deletes a capability.
pub fn delete(capability: Selector) -> Result {
    let capability = capability.into();
    invoke(call::Delete { capability })
}

/// What [`map`] maps where.
#[derive(Clone, Copy, Debug)]
pub struct MapParameters {
    /// Offset in the memory capability, in bytes (ports: in ports).
    pub offset: u64,
    /// Address in the space (ports: the first port).
    pub address: u64,
    /// Bytes (ports: number of ports).
    pub size: u64,
    /// Access.
    pub rights: Rights,
}

/// Maps memory into a space; `dst` receives the mapping.
pub fn map(memory: Selector, space: Selector, dst: Selector, p: &MapParameters) -> Result {
    map_cached(memory, space, dst, p, Caching::Natural)
}

/// As [`map`], and says how the mapping is cached.
pub fn map_cached(
    memory: Selector,
    space: Selector,
    dst: Selector,
    p: &MapParameters,
    caching: Caching,
) -> Result {
    invoke(call::Map {
        memory: memory.into(),
        space: space.into(),
        destination: dst.into(),
        offset: p.offset,
        address: p.address,
        size: p.size,
        access: Access { rights: p.rights, caching },
    })
}

/// Binds a scheduling context to a thread or vCPU, which starts.
pub fn bind_sched(sched: Selector, context: Selector) -> Result {
    invoke(call::BindSched { sched: sched.into(), context: context.into() })
}

/// Has overruns of a scheduling context signalled.
pub fn bind_overrun(sched: Selector, notification: Selector) -> Result {
    invoke(call::BindOverrun { sched: sched.into(), notification: notification.into() })
}

/// A window of a cyclic schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Ticks from the start of the major frame.
    pub start: u64,
    /// Ticks.
    pub length: u64,
    /// Whose scheduling contexts run, 0 to [`abi::PARTITIONS`] − 1.
    pub partition: u8,
}

/// Gives a CPU a cyclic schedule with a major frame of `frame` ticks; 0 and no window: none. The caller's `utcb` is
/// overwritten.
pub fn set_schedule(
    utcb: &mut Utcb,
    time: Selector,
    cpu: Cpu,
    frame: u64,
    windows: &[Window],
) -> Result {
    if windows.len() > MAX_WINDOWS {
        return Err(Status::BadArgument);
    }
    for (i, window) in windows.iter().enumerate() {
        let words = [window.start, window.length, window.partition.into()];
        for (n, word) in words.into_iter().enumerate() {
            utcb.write(i * WINDOW_WORDS + n, word);
        }
    }
    let words = windows.len() * WINDOW_WORDS;
    let time = time.into();
    invoke_with(call::SetSchedule { time, cpu, frame }, words as u16)
}

/// Moves a thread or vCPU to another CPU, where `time` allows what its scheduling context has. `portals`: where a vCPU's exits
/// go there.
pub fn migrate(context: Selector, cpu: Cpu, time: Selector, portals: Selector) -> Result {
    invoke(call::Migrate { context: context.into(), cpu, time: time.into(), portals })
}

/// Binds a vCPU's kick.
pub fn bind_kick(vcpu: Selector, notification: Selector) -> Result {
    invoke(call::BindKick { vcpu: vcpu.into(), notification: notification.into() })
}

/// Where a guest's writes are to signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorbellParameters {
    /// Memory or ports.
    pub kind: DoorbellKind,
    /// First address or port.
    pub first: u64,
    /// Bytes or ports.
    pub size: u64,
}

/// Binds a range of a guest space to a notification; `dst` receives the mapping.
pub fn bind_doorbell(
    notification: Selector,
    space: Selector,
    dst: Selector,
    p: &DoorbellParameters,
) -> Result {
    invoke(call::BindDoorbell {
        notification: notification.into(),
        space: space.into(),
        destination: dst.into(),
        kind: p.kind,
        first: p.first,
        size: p.size,
    })
}

/// Binds an interrupt line to a notification and unmasks it.
pub fn bind_interrupt(line: Selector, notification: Selector, mode: TriggerMode) -> Result {
    invoke(call::InterruptBind { line: line.into(), notification: notification.into(), mode })
}

/// Acknowledges an interrupt.
pub fn acknowledge_interrupt(line: Selector) -> Result {
    let line = line.into();
    invoke(call::InterruptAck { line })
}

/// Queries a domain's quota.
pub fn quota(domain: Selector) -> Result<Quota> {
    let domain = domain.into();
    invoke(call::QuotaQuery { domain })
}

/// Gives `domain` that much more quota, in pages, of its payer's.
pub fn give_quota(payer: Selector, domain: Selector, pages: u64) -> Result {
    invoke(call::QuotaGive { payer: payer.into(), domain: domain.into(), pages })
}

/// Takes that much quota, in pages, which must be free, back from `domain` to its payer.
pub fn take_quota(payer: Selector, domain: Selector, pages: u64) -> Result {
    invoke(call::QuotaTake { payer: payer.into(), domain: domain.into(), pages })
}

/// Appends bytes to the log, by as many system calls as it takes.
pub fn log_write(log: Selector, bytes: &[u8]) -> Result {
    for chunk in bytes.chunks(LOG_CHUNK) {
        invoke(call::LogWrite { log: log.into(), bytes: LogBytes::new(chunk) })?;
    }
    Ok(())
}

/// Takes bytes from the log and returns their number. `take_over` stops the kernel's own output.
pub fn log_read(log: Selector, take_over: bool, into: &mut [u8; LOG_CHUNK]) -> Result<usize> {
    let log = log.into();
    let taken = invoke(call::LogRead { log, take_over })?.bytes;
    let bytes = taken.bytes();
    into[..bytes.len()].copy_from_slice(bytes);
    Ok(bytes.len())
}

/// Has the kernel signal a notification when the log becomes non-empty.
pub fn log_bind(log: Selector, notification: Selector) -> Result {
    invoke(call::LogBind { log: log.into(), notification: notification.into() })
}

/// Switches the machine off or resets it. Does not return if it succeeds.
pub fn power(platform: Selector, action: PowerAction) -> Result {
    invoke(call::Power { platform: platform.into(), action })
}
