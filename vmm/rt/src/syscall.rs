//! Typed system calls: one function per [`Op`]. Rights and errors are described there.
use crate::arch::{self, Registers};
use crate::ipc::Utcb;
use abi::cap::TimeLimit;
use abi::syscall::{
    Caching, DelegateFlags, DoorbellKind, MAX_WINDOWS, PowerAction, SpaceKind, ThreadFlags,
    TriggerMode, WINDOW_WORDS,
};
use abi::{Badge, Op, Rights, Selector, Status, Tag};

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

fn raw(op: Op, first: u64, arguments: &[u64]) -> Result<Registers> {
    raw_long(op, 0, first, arguments)
}

/// As [`raw`], with `words` words of the UTCB.
fn raw_long(op: Op, words: u16, first: u64, arguments: &[u64]) -> Result<Registers> {
    let mut r = Registers {
        tag: Tag::new(op, words).0,
        first,
        ..Registers::default()
    };
    r.words[..arguments.len()].copy_from_slice(arguments);
    let r = arch::system_call(r);
    match Tag(r.tag).status() {
        Status::Success => Ok(r),
        status => Err(status),
    }
}

fn invoke(op: Op, first: Selector, arguments: &[u64]) -> Result {
    raw(op, first.0.into(), arguments).map(|_| ())
}

/// Sets the capability's badge bits in a notification.
pub fn signal(notification: Selector) -> Result {
    invoke(Op::Signal, notification, &[])
}

/// Waits for bits of a notification; returns and clears them.
pub fn wait(notification: Selector, deadline: Deadline) -> Result<u64> {
    Ok(raw(Op::Wait, notification.0.into(), &[deadline.0])?.words[0])
}

/// Gives the rest of the turn to the next scheduling context of the same priority.
pub fn yield_turn() {
    // It has no way to fail that a caller could act on.
    let _ = invoke(Op::Yield, Selector::NULL, &[]);
}

/// Creates a domain with a quota of `pages` of kernel memory and a table of `slots` capabilities.
pub fn create_domain(payer: Selector, dst: Selector, pages: u64, slots: u64) -> Result {
    invoke(Op::CreateDomain, payer, &[dst.0.into(), pages, slots])
}

/// Creates an address space.
pub fn create_space(payer: Selector, dst: Selector, kind: SpaceKind) -> Result {
    invoke(Op::CreateSpace, payer, &[dst.0.into(), kind as u64])
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
    let arguments = [
        dst.0.into(),
        p.domain.0.into(),
        p.space.0.into(),
        u64::from(p.cpu) | p.flags.bits(),
        p.utcb,
        p.ip,
        p.sp,
        p.exceptions.0.into(),
    ];
    invoke(Op::CreateThread, payer, &arguments)
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
    let arguments = [
        dst.0.into(),
        p.domain.0.into(),
        p.guest_space.0.into(),
        p.cpu.into(),
        p.host_space.0.into(),
        p.state,
        p.portals.0.into(),
    ];
    invoke(Op::CreateVcpu, payer, &arguments)
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
    let arguments = [
        dst.0.into(),
        cpu.into(),
        time.priority.into(),
        time.budget,
        time.period,
        source.0.into(),
    ];
    invoke(Op::CreateSched, payer, &arguments)
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
    invoke(
        Op::CreatePortal,
        payer,
        &[dst.0.into(), handler.0.into(), identity, groups],
    )
}

/// Creates a notification.
pub fn create_notification(payer: Selector, dst: Selector) -> Result {
    invoke(Op::CreateNotification, payer, &[dst.0.into()])
}

/// Delegates a capability that is neither memory nor a notification.
pub fn delegate(capability: Selector, domain: Selector, dst: Selector, rights: Rights) -> Result {
    invoke(
        Op::Delegate,
        capability,
        &[domain.0.into(), dst.0.into(), rights.bits().into(), 0, 0, 0],
    )
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
    invoke(
        Op::Delegate,
        memory,
        &[
            domain.0.into(),
            dst.0.into(),
            rights.bits().into(),
            offset,
            size,
            0,
        ],
    )
}

/// Delegates a notification with a badge.
pub fn delegate_notification(
    notification: Selector,
    domain: Selector,
    dst: Selector,
    rights: Rights,
    badge: Badge,
) -> Result {
    invoke(
        Op::Delegate,
        notification,
        &[
            domain.0.into(),
            dst.0.into(),
            rights.bits().into(),
            badge.0,
            0,
            0,
        ],
    )
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
    invoke(
        Op::Delegate,
        time,
        &[
            domain.0.into(),
            dst.0.into(),
            rights.bits().into(),
            cpus,
            limit.pack(),
            0,
        ],
    )
}

/// Gives a capability away.
pub fn grant(capability: Selector, domain: Selector, dst: Selector) -> Result {
    let flags = DelegateFlags::GRANT.bits();
    invoke(
        Op::Delegate,
        capability,
        &[domain.0.into(), dst.0.into(), 0, 0, 0, flags],
    )
}

/// Revokes all that was delegated from or mapped through a capability.
pub fn revoke(capability: Selector) -> Result {
    invoke(Op::Revoke, capability, &[])
}

/// Revokes and deletes a capability.
pub fn delete(capability: Selector) -> Result {
    invoke(Op::Delete, capability, &[])
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
    let access = u64::from(p.rights.bits()) | caching.bits();
    invoke(
        Op::Map,
        memory,
        &[
            space.0.into(),
            dst.0.into(),
            p.offset,
            p.address,
            p.size,
            access,
        ],
    )
}

/// Binds a scheduling context to a thread or vCPU, which starts.
pub fn bind_sched(sched: Selector, context: Selector) -> Result {
    invoke(Op::BindSched, sched, &[context.0.into()])
}

/// Has overruns of a scheduling context signalled.
pub fn bind_overrun(sched: Selector, notification: Selector) -> Result {
    invoke(Op::BindOverrun, sched, &[notification.0.into()])
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
    let words = (windows.len() * WINDOW_WORDS) as u16;
    raw_long(Op::SetSchedule, words, time.0.into(), &[cpu.into(), frame]).map(|_| ())
}

/// Moves a thread or vCPU to another CPU, where `time` allows what its scheduling context has. `portals`: where a vCPU's exits
/// go there.
pub fn migrate(context: Selector, cpu: Cpu, time: Selector, portals: Selector) -> Result {
    let arguments = [cpu.into(), time.0.into(), portals.0.into()];
    invoke(Op::Migrate, context, &arguments)
}

/// Binds a vCPU's kick.
pub fn bind_kick(vcpu: Selector, notification: Selector) -> Result {
    invoke(Op::BindKick, vcpu, &[notification.0.into()])
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
    invoke(
        Op::BindDoorbell,
        notification,
        &[space.0.into(), dst.0.into(), p.kind as u64, p.first, p.size],
    )
}

/// Binds an interrupt line to a notification and unmasks it.
pub fn bind_interrupt(line: Selector, notification: Selector, mode: TriggerMode) -> Result {
    invoke(
        Op::InterruptBind,
        line,
        &[notification.0.into(), mode as u64],
    )
}

/// Acknowledges an interrupt.
pub fn acknowledge_interrupt(line: Selector) -> Result {
    invoke(Op::InterruptAck, line, &[])
}

/// A domain's kernel memory, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// What it may use.
    pub pages: u64,
    /// What it uses.
    pub used: u64,
}

/// Queries a domain's quota.
pub fn quota(domain: Selector) -> Result<Quota> {
    let r = raw(Op::QuotaQuery, domain.0.into(), &[])?;
    Ok(Quota {
        pages: r.words[0],
        used: r.words[1],
    })
}

/// Gives `domain` that much more quota, in pages, of its payer's.
pub fn give_quota(payer: Selector, domain: Selector, pages: u64) -> Result {
    invoke(Op::QuotaGive, payer, &[domain.0.into(), pages])
}

/// Takes that much quota, in pages, which must be free, back from `domain` to its payer.
pub fn take_quota(payer: Selector, domain: Selector, pages: u64) -> Result {
    invoke(Op::QuotaTake, payer, &[domain.0.into(), pages])
}

/// Most bytes that one log operation moves.
pub const LOG_CHUNK: usize = 56;

/// Appends bytes to the log; at most [`LOG_CHUNK`] at once.
pub fn log_write(log: Selector, bytes: &[u8]) -> Result {
    for chunk in bytes.chunks(LOG_CHUNK) {
        let mut arguments = [0; 8];
        arguments[0] = chunk.len() as u64;
        for (word, part) in arguments[1..].iter_mut().zip(chunk.chunks(8)) {
            let mut raw = [0; 8];
            raw[..part.len()].copy_from_slice(part);
            *word = u64::from_le_bytes(raw);
        }
        invoke(Op::LogWrite, log, &arguments)?;
    }
    Ok(())
}

/// Takes bytes from the log and returns their number. `take_over` stops the kernel's own output.
pub fn log_read(log: Selector, take_over: bool, into: &mut [u8; LOG_CHUNK]) -> Result<usize> {
    let r = raw(Op::LogRead, log.0.into(), &[take_over.into()])?;
    for (chunk, word) in into.chunks_mut(8).zip(&r.words[1..]) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    Ok((r.words[0] as usize).min(LOG_CHUNK))
}

/// Has the kernel signal a notification when the log becomes non-empty.
pub fn log_bind(log: Selector, notification: Selector) -> Result {
    invoke(Op::LogBind, log, &[notification.0.into()])
}

/// Switches the machine off or resets it. Does not return if it succeeds.
pub fn power(platform: Selector, action: PowerAction) -> Result {
    invoke(Op::Power, platform, &[action as u64])
}
