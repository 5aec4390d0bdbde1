//! AArch64: what EL1 and EL0 can write without a trap (`hypervisor/src/arch/aarch64/virt`).

mod guest;

use super::Failure;
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_FREE, ROOT_SPACE, ROOT_TIME};
use abi::syscall::SpaceKind;
use abi::vcpu::aarch64::{CONTROL_HALT, Groups, VcpuState};
use abi::vcpu::{EXIT_KINDS, ExitKind, exit_kind};
use abi::{Op, Rights, Selector};
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::{FINISHED, YIELD};
use rt::syscall::{self, Deadline, MapParameters, Time, VcpuParameters};
use trial::{Stack, create_thread, place_code};

const FREE: u32 = ROOT_FREE.0 + 64;
const THREAD: Selector = Selector(FREE);
const DONE: Selector = Selector(FREE + 1);
const MEMORY: Selector = Selector(FREE + 2);

/// Selectors of a guest.
const fn of(guest: u64, number: u32) -> Selector {
    Selector(FREE + 64 + guest as u32 * 64 + number)
}
const SPACE: u32 = 0;
const CODE_MAPPING: u32 = 1;
const VCPU: u32 = 2;
const SCHED: u32 = 3;
const KICK: u32 = 4;
const PORTALS: u32 = 16;

const UTCB: u64 = 0x5000_2000;
/// State page of guest 0; that of guest 1 is the next.
const STATE: u64 = 0x5000_4000;
/// The guests' code here and, there, at [`CODE`]. They have no data.
const WINDOW: u64 = 0x5010_0000;
const SIZE: u64 = 0x4000;
const CODE: u64 = 0x1000;

/// Turns that each guest takes.
const ROUNDS: u64 = 200;

static HANDLER_STACK: Stack = Stack::zeroed();

static FINISHED_GUESTS: AtomicU64 = AtomicU64::new(0);
/// Guest + 1, register, expected, found; or kind of exit + 100 in the first.
static FAILURE: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Which of the monitor's own checks failed, plus one.
static MONITOR: AtomicU64 = AtomicU64::new(0);
const CHECKS: [&str; 4] = [
    "unaligned access",
    "byte order",
    "thread pointer",
    "counter",
];

/// The handler of all exits: the words go on to [`exit`].
#[unsafe(naked)]
extern "C" fn monitor() -> ! {
    naked_asm!(
        "2: mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "bl {exit}",
        "mov x2, x0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        exit = sym exit,
        reply = const Op::ReplyWait as u32,
    )
}

fn state(guest: u64) -> *mut VcpuState {
    (STATE + guest * 0x1000) as *mut VcpuState
}

/// An exit of `guest`, the portal's identity; returns the groups that changed.
extern "C" fn exit(guest: u64, kind: u64, info: u64) -> u64 {
    check_monitor();
    let page = state(guest);
    let register = |index: usize| {
        // SAFETY: the kernel has mapped the state page there; the vCPU waits for this answer.
        unsafe { (&raw const (*page).gpr[index]).read_volatile() }
    };
    match exit_kind(kind) {
        Some(ExitKind::Startup) => {
            // SAFETY: as above.
            unsafe { page.write_volatile(initial_state(guest)) };
            return Groups::all().difference(Groups::GIC).bits();
        }
        Some(ExitKind::Kick) => return 0,
        Some(ExitKind::Hypercall) => match info & 0xffff {
            YIELD => {}
            FINISHED => {
                if FINISHED_GUESTS.fetch_add(1, Ordering::Relaxed) == 1 {
                    let _ = syscall::signal(DONE);
                }
            }
            _ => fail([guest + 1, register(0), register(1), register(2)]),
        },
        kind => fail([100 + guest, kind.map_or(u64::MAX, |k| k as u64), info, 0]),
    }
    let _ = syscall::signal(of(1 - guest, KICK));
    // SAFETY: as above.
    unsafe { (&raw mut (*page).controls).write_volatile(CONTROL_HALT) };
    Groups::CONTROLS.bits()
}

fn fail(words: [u64; 4]) {
    if FAILURE[0].load(Ordering::Relaxed) == 0 {
        for (slot, word) in FAILURE.iter().zip(words) {
            slot.store(word, Ordering::Relaxed);
        }
    }
    let _ = syscall::signal(DONE);
}

/// The state that a guest could have left to its monitor.
fn check_monitor() {
    static BYTES: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let mut failed = None;
    // SAFETY: within the array; the address is odd, as it should be here.
    let word = unsafe { (BYTES.as_ptr().add(1) as *const u64).read_unaligned() };
    let hidden = core::hint::black_box(BYTES.as_ptr()) as u64;
    let direct: u64;
    // SAFETY: reads eight bytes of the array, not aligned: the array may begin anywhere, so one of these is.
    unsafe {
        asm!("ldr {}, [{}, #1]", out(reg) direct, in(reg) hidden, options(readonly, nostack))
    };
    if word != direct {
        failed = Some(0);
    }
    if direct != 0x0908_0706_0504_0302 {
        failed = Some(1);
    }
    let pointer: u64;
    // SAFETY: reads a register of EL0.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack)) };
    let read_only: u64;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, tpidrro_el0", out(reg) read_only, options(nomem, nostack)) };
    if pointer | read_only != 0 {
        failed = Some(2);
    }
    if rt::arch::counter() == 0 {
        failed = Some(3);
    }
    if let Some(number) = failed {
        MONITOR.store(number + 1, Ordering::Relaxed);
        let _ = syscall::signal(DONE);
    }
}

/// Features of the CPU that the guest is told of: set by [`run`].
static KEYS: AtomicU64 = AtomicU64::new(0);
static SYSTEM_REGISTERS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);
static MATRICES: AtomicU64 = AtomicU64::new(0);

fn initial_state(guest: u64) -> VcpuState {
    let mut gpr = [0; abi::vcpu::aarch64::GPRS];
    gpr[20] = 0x0123_4567_89ab_cdef ^ guest.wrapping_mul(0xf0f0_f0f0_f0f0_f0f1);
    gpr[21] = ROUNDS;
    gpr[22] = KEYS.load(Ordering::Relaxed);
    gpr[23] = SYSTEM_REGISTERS.load(Ordering::Relaxed);
    gpr[26] = ERRORS.load(Ordering::Relaxed);
    gpr[27] = MATRICES.load(Ordering::Relaxed);
    let state = trial::initial_state(CODE);
    VcpuState {
        gpr,
        vmpidr: state.vmpidr | guest,
        ..state
    }
}

/// Runs both guests; returns the turns of each.
pub fn run(info: &BootInfo) -> Result<u64, Failure> {
    // ID_AA64ISAR1_EL1.APA, API; ID_AA64ISAR2_EL1.APA3.
    let isar1 = info.id_registers[6 * 8 + 1];
    let isar2 = info.id_registers[6 * 8 + 2];
    let keys = isar1 >> 4 & 0xff != 0 || isar2 >> 12 & 0xf != 0;
    KEYS.store(keys.into(), Ordering::Relaxed);
    SYSTEM_REGISTERS.store((info.gic_version == 3).into(), Ordering::Relaxed);
    // ID_AA64PFR0_EL1.RAS, ID_AA64PFR1_EL1.SME. Where fine-grained traps are, TPIDR2_EL0 traps (HFGRTR_EL2.nTPIDR2_EL0).
    let (pfr0, pfr1) = (info.id_registers[4 * 8], info.id_registers[4 * 8 + 1]);
    let fine_traps = info.id_registers[7 * 8] >> 56 & 0xf != 0;
    ERRORS.store((pfr0 >> 28 & 0xf != 0).into(), Ordering::Relaxed);
    MATRICES.store(
        (pfr1 >> 24 & 0xf != 0 && !fine_traps).into(),
        Ordering::Relaxed,
    );
    let memory = trial::ram(info, SIZE)?;
    let map = |address, rights| MapParameters {
        offset: 0,
        address,
        size: SIZE,
        rights,
    };
    syscall::map(memory, ROOT_SPACE, MEMORY, &map(WINDOW, Rights::RW))?;
    // SAFETY: just mapped, and used for nothing else.
    unsafe { place_code(WINDOW..WINDOW + SIZE, CODE, guest::code()) };
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    create_thread(THREAD, UTCB, monitor, HANDLER_STACK.top())?;
    for guest in 0..2 {
        let space = of(guest, SPACE);
        syscall::create_space(ROOT_DOMAIN, space, SpaceKind::Guest)?;
        let rights = Rights::READ | Rights::EXEC;
        syscall::map(memory, space, of(guest, CODE_MAPPING), &map(0, rights))?;
        for kind in 0..EXIT_KINDS {
            let portal = of(guest, PORTALS + kind);
            syscall::create_portal(ROOT_DOMAIN, portal, THREAD, guest, 0)?;
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
        let time = Time {
            priority: 10,
            budget: 0,
            period: 0,
        };
        syscall::create_sched(ROOT_DOMAIN, of(guest, SCHED), ROOT_TIME, 0, time)?;
    }
    for guest in 0..2 {
        syscall::bind_sched(of(guest, SCHED), of(guest, VCPU))?;
    }
    syscall::wait(DONE, Deadline::NEVER)?;
    if let Some(what) = MONITOR.load(Ordering::Relaxed).checked_sub(1) {
        return Err(Failure::Monitor(CHECKS[what as usize % CHECKS.len()]));
    }
    let [first, second, third, fourth] = [0, 1, 2, 3].map(|i| FAILURE[i].load(Ordering::Relaxed));
    match first {
        0 => Ok(ROUNDS),
        100.. => Err(Failure::Exit(first - 100, second, third)),
        guest => Err(Failure::Changed {
            guest: guest - 1,
            register: second,
            expected: third,
            found: fourth,
        }),
    }
}
