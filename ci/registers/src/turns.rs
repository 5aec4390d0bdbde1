//! Two guests that take turns, and their monitor.

use crate::arch::{self, VcpuState};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_SPACE, ROOT_TIME};
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::vcpu::{EXIT_KINDS, ExitKind, exit_kind};
use abi::{Rights, Selector, Status};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use rt::syscall::{self, Deadline, MapParameters, ThreadParameters, Time, VcpuParameters};
use trial::{Stack, create_thread, map_code, map_head, place_code};

const FREE: u32 = ROOT_FREE.0 + 64;
const THREAD: Selector = Selector(FREE);
const DONE: Selector = Selector(FREE + 1);
const MEMORY: Selector = Selector(FREE + 2);
const HEAD: Selector = Selector(FREE + 3);
const WITNESS_SPACE: Selector = Selector(FREE + 4);
const WITNESS: Selector = Selector(FREE + 5);
const WITNESS_PORTAL: Selector = Selector(FREE + 6);
const WITNESS_MAPPINGS: Selector = Selector(FREE + 16);

/// Selectors of a guest.
const fn of(guest: u64, number: u32) -> Selector {
    Selector(FREE + 64 + guest as u32 * 64 + number)
}
const SPACE: u32 = 0;
const GUEST_MEMORY: u32 = 1;
const VCPU: u32 = 2;
const SCHED: u32 = 3;
const KICK: u32 = 4;
const BELL: u32 = 5;
const DOORBELL: u32 = 6;
const PORTALS: u32 = 16;

const UTCB: u64 = 0x5000_2000;
/// State page of guest 0; that of guest 1 is the next.
const STATE: u64 = 0x5000_4000;
/// Memory of guest 0, of [`SIZE`] bytes, then that of guest 1.
const WINDOW: u64 = 0x5010_0000;
const SIZE: u64 = 0x1_0000;
/// Where a guest finds its code.
pub const CODE: u64 = 0x1000;

/// Turns that each guest takes.
pub const ROUNDS: u64 = 200;

static HANDLER_STACK: Stack = Stack::zeroed();

static FINISHED_GUESTS: AtomicU64 = AtomicU64::new(0);
/// Guest + 1, register, expected, found; or guest + 100, kind of exit, qualification.
static FAILURE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Which of the monitor's own checks failed, plus one; what it found.
static MONITOR: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// What went wrong.
#[derive(Clone, Copy, Debug)]
pub enum Failure {
    /// A system call.
    Status(abi::Status),
    /// A guest found another value: its number, and that of the register in the list.
    Changed {
        /// The guest.
        guest: u64,
        /// The register.
        register: u64,
        /// What it should hold.
        expected: u64,
        /// What it holds.
        found: u64,
    },
    /// The monitor found its own state changed: which, and what it holds.
    Monitor(&'static str, u64),
    /// A guest did something else: number, kind of exit, qualification.
    Exit(u64, u64, u64),
}

impl From<abi::Status> for Failure {
    fn from(status: abi::Status) -> Failure {
        Failure::Status(status)
    }
}

/// What a guest asks for.
pub enum Request {
    /// The other guest's turn.
    Yield,
    /// All turns were taken.
    Finished,
    /// A register's number, what it should hold, and what it holds.
    Changed([u64; 3]),
}

/// Which check of the monitor's own state failed, and what was found.
pub struct Harm {
    /// Place in [`arch::CHECKS`].
    pub check: u64,
    /// What the register or memory holds.
    pub found: u64,
}

/// The seed of a guest's patterns.
pub const fn seed(guest: u64) -> u64 {
    0x0123_4567_89ab_cdef ^ guest.wrapping_mul(0xf0f0_f0f0_f0f0_f0f1)
}

/// Whether a guest's next hypercall ends its turn.
static TURNS: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];

fn state(guest: u64) -> *mut VcpuState {
    (STATE + guest * 0x1000) as *mut VcpuState
}

/// A program of a space of its own, which looks into registers and replies with what it finds.
fn create_witness(info: &BootInfo) -> Result<(), Failure> {
    let head = map_head(info, HEAD)?;
    syscall::create_space(ROOT_DOMAIN, WITNESS_SPACE, SpaceKind::Host)?;
    map_code(&head, WITNESS_SPACE, WITNESS_MAPPINGS)?;
    let parameters = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: WITNESS_SPACE,
        cpu: 0,
        utcb: UTCB,
        ip: arch::witness as *const () as u64,
        sp: 0,
        exceptions: Selector::NULL,
        flags: ThreadFlags::empty(),
    };
    syscall::create_thread(ROOT_DOMAIN, WITNESS, &parameters)?;
    syscall::create_portal(ROOT_DOMAIN, WITNESS_PORTAL, WITNESS, 0, 0)?;
    Ok(())
}

/// Looks for what the guest that ran last has left to this program, its monitor, and to another one.
fn check_monitor() -> Option<Harm> {
    arch::check_monitor().or_else(|| match rt::ipc::call(WITNESS_PORTAL, arch::ask_witness()) {
        Ok(words) => arch::check_witness(words),
        Err(status) => Some(Harm { check: 0, found: status as u64 }),
    })
}

/// An exit of `guest`, the portal's identity; returns the groups that changed.
pub extern "C" fn exit(guest: u64, kind: u64, info: u64) -> u64 {
    if let Some(harm) = check_monitor() {
        MONITOR[1].store(harm.found, Ordering::Relaxed);
        MONITOR[0].store(harm.check + 1, Ordering::Relaxed);
        let _ = syscall::signal(DONE);
    }
    let page = state(guest);
    let kind = exit_kind(kind);
    // SAFETY: the kernel has mapped the state page there; the vCPU waits for this answer.
    if let Some(next) = kind.and_then(|kind| unsafe { arch::next_state(guest, kind, page) }) {
        // SAFETY: as above.
        unsafe { page.write_volatile(next) };
        return arch::STARTUP.bits();
    }
    match kind {
        Some(ExitKind::Kick) => return 0,
        // It has nothing to say.
        kind if guest == arch::ENDLESS => {
            fail([100 + guest, kind.map_or(u64::MAX, |k| k as u64), info, 0]);
            // SAFETY: as above.
            return unsafe { arch::halt(page).bits() };
        }
        Some(ExitKind::Hypercall) => {
            // SAFETY: as above.
            match unsafe { arch::request(page, info) } {
                // Every other time it goes on at once.
                Request::Yield if !TURNS[guest as usize % 2].fetch_not(Ordering::Relaxed) => {
                    // SAFETY: as above.
                    return unsafe { arch::go_on(page).bits() };
                }
                Request::Yield => {}
                Request::Finished => {
                    if FINISHED_GUESTS.fetch_add(1, Ordering::Relaxed) == 1 {
                        let _ = syscall::signal(DONE);
                        // SAFETY: as above.
                        return unsafe { arch::halt(page).bits() };
                    }
                }
                Request::Changed([register, expected, found]) => {
                    fail([guest + 1, register, expected, found]);
                }
            }
        }
        kind => fail([100 + guest, kind.map_or(u64::MAX, |k| k as u64), info, 0]),
    }
    let _ = syscall::signal(of(1 - guest, KICK));
    // SAFETY: as above.
    unsafe { arch::halt(page).bits() }
}

fn fail(words: [u64; 4]) {
    if FAILURE[0].load(Ordering::Relaxed) == 0 {
        for (slot, word) in FAILURE.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }
    let _ = syscall::signal(DONE);
}

/// A guest with its code, which does not run yet.
fn create_guest(
    memory: Selector,
    guest: u64,
    code: impl Iterator<Item = u8>,
) -> Result<(), Failure> {
    let window = WINDOW + guest * SIZE;
    // SAFETY: it is mapped, and used for nothing else.
    unsafe { place_code(window..window + SIZE, CODE, code) };
    let space = of(guest, SPACE);
    syscall::create_space(ROOT_DOMAIN, space, SpaceKind::Guest)?;
    let part = MapParameters {
        offset: guest * SIZE,
        address: 0,
        size: SIZE,
        rights: Rights::RW | Rights::EXEC,
    };
    syscall::map(memory, space, of(guest, GUEST_MEMORY), &part)?;
    if let Some(doorbell) = &arch::DOORBELL {
        syscall::create_notification(ROOT_DOMAIN, of(guest, BELL))?;
        syscall::bind_doorbell(of(guest, BELL), space, of(guest, DOORBELL), doorbell)?;
    }
    for kind in 0..EXIT_KINDS {
        let portal = of(guest, PORTALS + kind);
        let groups = arch::SAVED.bits();
        syscall::create_portal(ROOT_DOMAIN, portal, THREAD, guest, groups)?;
    }
    let vcpu = VcpuParameters {
        domain: ROOT_DOMAIN,
        guest_space: space,
        cpu: 0,
        host_space: ROOT_SPACE,
        state: STATE + guest * 0x1000,
        portals: of(guest, PORTALS),
    };
    syscall::create_vcpu(ROOT_DOMAIN, of(guest, VCPU), &vcpu)?;
    syscall::create_notification(ROOT_DOMAIN, of(guest, KICK))?;
    syscall::bind_kick(of(guest, VCPU), of(guest, KICK))?;
    let time = Time { priority: 10, budget: 0, period: 0 };
    syscall::create_sched(ROOT_DOMAIN, of(guest, SCHED), ROOT_TIME, 0, time)?;
    Ok(())
}

/// Runs both guests; returns the turns of each.
pub fn run(info: &BootInfo) -> Result<u64, Failure> {
    arch::look_at(info);
    let memory = trial::ram(info, 3 * SIZE)?;
    let whole = MapParameters { offset: 0, address: WINDOW, size: 3 * SIZE, rights: Rights::RW };
    syscall::map(memory, ROOT_SPACE, MEMORY, &whole)?;
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    create_thread(THREAD, UTCB, arch::monitor, HANDLER_STACK.top())?;
    create_witness(info)?;
    for guest in 0..2 {
        create_guest(memory, guest, arch::code())?;
    }
    for guest in 0..2 {
        syscall::bind_sched(of(guest, SCHED), of(guest, VCPU))?;
    }
    syscall::wait(DONE, Deadline::NEVER)?;
    verdict()?;
    // Nobody waits for one who gets nowhere.
    create_guest(memory, arch::ENDLESS, arch::endless_code())?;
    syscall::bind_sched(of(arch::ENDLESS, SCHED), of(arch::ENDLESS, VCPU))?;
    match syscall::wait(DONE, Deadline::after(info.counter_hz / 50)) {
        Err(Status::Timeout) => {}
        other => {
            verdict()?;
            other?;
        }
    }
    Ok(ROUNDS)
}

/// What was found so far.
fn verdict() -> Result<(), Failure> {
    if let Some(what) = MONITOR[0].load(Ordering::Relaxed).checked_sub(1) {
        let check = arch::CHECKS[what as usize % arch::CHECKS.len()];
        return Err(Failure::Monitor(check, MONITOR[1].load(Ordering::Relaxed)));
    }
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|i| FAILURE[i].load(Ordering::Relaxed));
    match first {
        0 => Ok(()),
        100.. => Err(Failure::Exit(first - 100, second, third)),
        guest => Err(Failure::Changed {
            guest: guest - 1,
            register: second,
            expected: third,
            found: fourth,
        }),
    }
}
