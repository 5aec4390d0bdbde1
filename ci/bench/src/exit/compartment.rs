//! The monitor's domain and space, its guest, and who signals to it: made by the root task.

use super::plan::{self, Event, KICK_DEVICE, KICK_VCPU, VCPUS, table};
use super::{arch, monitor};
use crate::peer::FOR_EVER;
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_SPACE, ROOT_TIME};
use abi::bundle::{Head, Segment};
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Badge, PAGE_SIZE, Rights, Selector, Status};
use bench_guest::{Arguments, place};
use core::ops::Range;
use rt::syscall::{self, Deadline, MapParameters, Result, ThreadParameters, Time, VcpuParameters};
use trial::{create_thread, map_code, place_code};

/// First selector that is used here; [`crate::place`] hands out those behind the last one.
const FREE: Selector = abi::boot::ROOT_FREE.offset(2560);
const DOMAIN: Selector = FREE;
const SPACE: Selector = FREE.offset(1);
const GUEST: Selector = FREE.offset(2);
/// What the monitor tells the root task.
pub const EVENTS: Selector = FREE.offset(3);
/// Wakes the thread that wakes the guest.
pub const WAKER: Selector = FREE.offset(4);
/// The kick of vCPU 0, as a device has it.
pub const DEVICE_KICK: Selector = FREE.offset(5);
/// What the doorbell signals.
pub const RUNG: Selector = FREE.offset(6);
const BELL: Selector = FREE.offset(7);
const WAKER_THREAD: Selector = FREE.offset(8);
const WAKER_SCHED: Selector = FREE.offset(9);
/// What nobody signals.
const QUIET: Selector = FREE.offset(10);
/// The mapping of the virtual CPU interface.
const INTERFACE: Selector = FREE.offset(11);
const HANDLERS: Selector = FREE.offset(16);
const VCPU: Selector = FREE.offset(20);
const SCHEDS: Selector = FREE.offset(24);
const KICKS: Selector = FREE.offset(28);
const MAPPINGS: Selector = FREE.offset(32);
const CODE_MAPPINGS: Selector = FREE.offset(48);
const PORTALS: Selector = FREE.offset(64);

/// Kernel memory of the monitor's domain, in pages.
const QUOTA: u64 = 512;

/// Priorities of the vCPUs: the one that gets interrupts of the other goes first.
const PRIORITIES: [u8; VCPUS] = [10, 11];
/// Priority of the thread that wakes the guest: it runs when the guest does not.
const WAKER_PRIORITY: u8 = 9;

/// Ticks of the counter that [`pause`] takes.
const PAUSE: u64 = 20_000;

/// Makes everything; nothing of the guest runs yet. `image` is the guest's.
pub fn build(info: &BootInfo, head: &Head, image: &[u8], arguments: &Arguments) -> Result {
    let memory = trial::ram(info, plan::MEMORY_SIZE)?;
    syscall::create_domain(ROOT_DOMAIN, DOMAIN, QUOTA, table::SLOTS)?;
    syscall::create_space(DOMAIN, SPACE, SpaceKind::Host)?;
    syscall::create_space(DOMAIN, GUEST, SpaceKind::Guest)?;
    let mut mappings = (0..).map(|number| MAPPINGS.offset(number));
    let mut map = |space, offset, address, size, rights| {
        let p = MapParameters { offset, address, size, rights };
        let dst = mappings.next().ok_or(Status::BadSelector)?;
        syscall::map(memory, space, dst, &p)
    };
    let page = PAGE_SIZE as u64;
    for space in [ROOT_SPACE, SPACE] {
        map(space, 0, plan::RAM, plan::RAM_SIZE, Rights::RW)?;
        map(space, plan::REPORT_OFFSET, plan::REPORT, page, Rights::RW)?;
    }
    let all = Rights::RW | Rights::EXEC;
    map(GUEST, 0, place::RAM.start, plan::RAM_SIZE, all)?;
    fill_ram(image, arguments);

    monitor::prepare(info);
    let (copy, size) = (plan::COPY_OFFSET, plan::COPY_SIZE);
    map(ROOT_SPACE, copy, plan::COPY, size, Rights::RW)?;
    for (segment, offset) in copy_data(head)? {
        map(SPACE, offset, segment.address, segment.size, Rights::RW)?;
    }
    map_code(head, SPACE, CODE_MAPPINGS)?;
    arch::map_interface(info, GUEST, INTERFACE)?;
    give(memory)?;
    for number in 0..VCPUS {
        make_vcpu(number)?;
    }
    syscall::create_notification(ROOT_DOMAIN, RUNG)?;
    syscall::bind_doorbell(RUNG, GUEST, BELL, &arch::doorbell(arguments))?;
    create_thread(WAKER_THREAD, plan::WAKER_UTCB, arch::wake, 0x1000)
}

/// Starts the guest's vCPUs.
pub fn start() -> Result {
    run(WAKER_SCHED, WAKER_THREAD, WAKER_PRIORITY)?;
    // From its first wait on it does not compete.
    pause();
    for (number, priority) in (0..).zip(PRIORITIES) {
        run(SCHEDS.offset(number), VCPU.offset(number), priority)?;
    }
    Ok(())
}

/// Ends the monitor's domain, and with it the guest.
pub fn end() {
    if let Err(status) = syscall::delete(DOMAIN) {
        log::warn!("the guest's domain is still there: {}", status.name());
    }
}

/// Lets others run for a while that is long enough for what they have to do.
pub fn pause() {
    // Nobody signals it.
    let _ = syscall::wait(QUIET, Deadline::after(PAUSE));
}

fn run(sched: Selector, context: Selector, priority: u8) -> Result {
    let time = Time { priority, budget: FOR_EVER, period: FOR_EVER };
    syscall::create_sched(ROOT_DOMAIN, sched, ROOT_TIME, 0, time)?;
    syscall::bind_sched(sched, context)
}

/// Puts image and arguments into the guest's RAM, and zeros else.
fn fill_ram(image: &[u8], arguments: &Arguments) {
    let window = plan::RAM..plan::RAM + plan::RAM_SIZE;
    let at = plan::RAM + place::ARGUMENTS - place::RAM.start;
    let bytes = image.iter().copied().chain(core::iter::repeat(0));
    // SAFETY: the window is mapped, and holds nothing of this program.
    unsafe {
        place_code(window.clone(), 0, bytes);
        (at as *mut Arguments).write_volatile(*arguments);
    }
    rt::arch::clean_to_memory(window.start as usize..window.end as usize);
}

/// Copies what can be written of this program, as it is now; the segments, and where in the memory their copies are.
fn copy_data(head: &Head) -> Result<impl Iterator<Item = (&Segment, u64)>> {
    let writable = |segment: &&Segment| segment.rights & u32::from(Rights::WRITE.bits()) != 0;
    let copies = head.segments().iter().filter(writable).scan(0, |used, segment| {
        let offset = *used;
        *used += segment.size;
        Some((segment, offset))
    });
    for (segment, offset) in copies.clone() {
        if offset + segment.size > plan::COPY_SIZE {
            return Err(Status::Quota);
        }
        let from = segment.address..segment.address + segment.size;
        // SAFETY: this program's own data, and memory that was mapped for the copy.
        unsafe { copy_words(from, plan::COPY + offset) };
    }
    Ok(copies.map(|(segment, offset)| (segment, plan::COPY_OFFSET + offset)))
}

/// Copies whole words.
///
/// # Safety
/// `from` can be read, and as much at `to` written.
unsafe fn copy_words(from: Range<u64>, to: u64) {
    for (i, at) in from.step_by(size_of::<u64>()).enumerate() {
        // SAFETY: the caller's promise.
        unsafe { (to as *mut u64).add(i).write_volatile((at as *const u64).read_volatile()) };
    }
}

/// Makes the notifications, and gives the monitor what it holds beside its portals.
fn give(memory: Selector) -> Result {
    let signal = |notification, domain, dst, bits| {
        syscall::delegate_notification(notification, domain, dst, Rights::SIGNAL, Badge(bits))
    };
    syscall::create_notification(ROOT_DOMAIN, EVENTS)?;
    for event in Event::ALL {
        let dst = table::EVENTS.offset(event as u32);
        signal(EVENTS, DOMAIN, dst, event.bit())?;
    }
    syscall::create_notification(ROOT_DOMAIN, QUIET)?;
    syscall::create_notification(ROOT_DOMAIN, WAKER)?;
    signal(WAKER, DOMAIN, table::WAKER, 1)?;
    for number in 0..VCPUS as u32 {
        syscall::create_notification(DOMAIN, KICKS.offset(number))?;
        let dst = table::KICKS.offset(number);
        signal(KICKS.offset(number), DOMAIN, dst, KICK_VCPU)?;
    }
    signal(KICKS, ROOT_DOMAIN, DEVICE_KICK, KICK_DEVICE)?;
    syscall::delegate(DOMAIN, DOMAIN, table::DOMAIN, Rights::INSTALL)?;
    syscall::delegate(GUEST, DOMAIN, table::GUEST, Rights::INSTALL)?;
    let (offset, size) = (plan::PAGE_OFFSET, PAGE_SIZE as u64);
    syscall::delegate_memory(memory, DOMAIN, table::PAGE, Rights::RW, offset, size)
}

/// Makes a vCPU and the handler of its exits.
fn make_vcpu(number: usize) -> Result {
    let of = |first: Selector| first.offset(number as u32);
    let handler = ThreadParameters {
        domain: DOMAIN,
        space: SPACE,
        cpu: 0,
        utcb: plan::UTCBS + (number * PAGE_SIZE) as u64,
        ip: arch::handle as *const () as u64,
        sp: monitor::stack(number),
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(DOMAIN, of(HANDLERS), &handler)?;
    let mut portals = (0..).map(|n| PORTALS.offset(number as u32 * 64 + n));
    let mut portal = |dst, groups| {
        let portal = portals.next().ok_or(Status::BadSelector)?;
        syscall::create_portal(DOMAIN, portal, of(HANDLERS), plan::state(number), groups)?;
        syscall::delegate(portal, DOMAIN, dst, Rights::CALL | Rights::DELEGATE)
    };
    for code in 0..EXIT_KINDS {
        let kind = ExitKind::from_code(code as u8).ok_or(Status::BadArgument)?;
        portal(table::portal(number, code), arch::saved(kind))?;
    }
    if let Some((kind, groups)) = arch::EXCHANGED {
        let [usual, more] = table::exchanged(number);
        portal(usual, arch::saved(kind))?;
        portal(more, groups)?;
    }
    let vcpu = VcpuParameters {
        domain: DOMAIN,
        guest_space: GUEST,
        cpu: 0,
        host_space: SPACE,
        state: plan::state(number),
        portals: table::portal(number, 0),
    };
    syscall::create_vcpu(DOMAIN, of(VCPU), &vcpu)?;
    syscall::bind_kick(of(VCPU), of(KICKS))
}
