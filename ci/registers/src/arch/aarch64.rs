//! AArch64: what EL1 and EL0 can write without a trap (`hypervisor/src/arch/aarch64/virt`).

mod guest;

use crate::turns::{CODE, Harm, ROUNDS, Request, exit, seed};
use abi::Op;
use abi::boot::BootInfo;
use abi::vcpu::ExitKind;
use abi::vcpu::aarch64::CONTROL_HALT;
use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, Ordering};
use guest::{FINISHED, YIELD};
use rt::ipc::Words;
use rt::syscall::DoorbellParameters;

pub use abi::vcpu::aarch64::{Groups, VcpuState};
pub use guest::code;

/// Groups that exits save: HVC leaves the program counter behind it.
pub const SAVED: Groups = Groups::empty();
/// Groups that a vCPU starts with.
pub const STARTUP: Groups = Groups::all().difference(Groups::GIC);

/// What [`check_monitor`] looks at.
pub const CHECKS: [&str; 6] = [
    "witness",
    "unaligned access",
    "byte order",
    "thread pointer",
    "counter",
    "another program's thread pointer",
];

/// The handler of all exits: the words go on to [`exit`].
#[unsafe(naked)]
pub extern "C" fn monitor() -> ! {
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

/// Replies to each call with TPIDR_EL0 and TPIDRRO_EL0.
#[unsafe(naked)]
pub extern "C" fn witness() -> ! {
    naked_asm!(
        "2: mrs x2, tpidr_el0",
        "mrs x3, tpidrro_el0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        reply = const Op::ReplyWait as u32,
    )
}

/// The message to [`witness`].
pub fn ask_witness() -> Words {
    [0; 8]
}

/// Looks at what [`witness`] has replied.
pub fn check_witness([pointer, read_only, ..]: Words) -> Option<Harm> {
    let found = pointer | read_only;
    (found != 0).then_some(Harm { check: 5, found })
}

/// What a guest asks for with HVC.
///
/// # Safety
/// The state page is mapped at `page`.
pub unsafe fn request(page: *mut VcpuState, info: u64) -> Request {
    // SAFETY: the caller's promise.
    let register = |index: usize| unsafe { (&raw const (*page).gpr[index]).read_volatile() };
    match info & 0xffff {
        YIELD => Request::Yield,
        FINISHED => Request::Finished,
        _ => Request::Changed([0, 1, 2].map(register)),
    }
}

/// Has the vCPU go on: behind its HVC, where it is.
///
/// # Safety
/// As for [`request`].
pub unsafe fn go_on(_page: *mut VcpuState) -> Groups {
    Groups::empty()
}

/// Has the vCPU wait for its next turn.
///
/// # Safety
/// As for [`request`].
pub unsafe fn halt(page: *mut VcpuState) -> Groups {
    // SAFETY: the caller's promise.
    unsafe { (&raw mut (*page).controls).write_volatile(CONTROL_HALT) };
    Groups::CONTROLS
}

/// Looks for state that a guest could have left to its monitor.
pub fn check_monitor() -> Option<Harm> {
    static BYTES: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let harm = |check, found| Some(Harm { check, found });
    // SAFETY: within the array; the address is odd, as it should be here.
    let word = unsafe { (BYTES.as_ptr().add(1) as *const u64).read_unaligned() };
    let hidden = core::hint::black_box(BYTES.as_ptr()) as u64;
    let direct: u64;
    // SAFETY: reads eight bytes of the array, not aligned: the array may begin anywhere, so one of these is.
    unsafe {
        asm!("ldr {}, [{}, #1]", out(reg) direct, in(reg) hidden, options(readonly, nostack))
    };
    if word != direct {
        return harm(1, direct);
    }
    if direct != 0x0908_0706_0504_0302 {
        return harm(2, direct);
    }
    let pointer: u64;
    // SAFETY: reads a register of EL0.
    unsafe { asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nomem, nostack)) };
    let read_only: u64;
    // SAFETY: as above.
    unsafe { asm!("mrs {}, tpidrro_el0", out(reg) read_only, options(nomem, nostack)) };
    if pointer | read_only != 0 {
        return harm(3, pointer | read_only);
    }
    if rt::arch::counter() == 0 {
        return harm(4, 0);
    }
    None
}

/// Features of the CPU that the guest is told of: set by [`look_at`].
static KEYS: AtomicU64 = AtomicU64::new(0);
static SYSTEM_REGISTERS: AtomicU64 = AtomicU64::new(0);
static ERRORS: AtomicU64 = AtomicU64::new(0);
static MATRICES: AtomicU64 = AtomicU64::new(0);

/// The state that a guest is given after an exit of `kind`, if that is what is due: the one in which it starts.
///
/// # Safety
/// None is needed here.
pub unsafe fn next_state(guest: u64, kind: ExitKind, _page: *const VcpuState) -> Option<VcpuState> {
    match kind {
        ExitKind::Startup if guest == ENDLESS => Some(endless_state()),
        ExitKind::Startup => Some(state(guest)),
        _ => None,
    }
}

fn state(guest: u64) -> VcpuState {
    let mut gpr = [0; abi::vcpu::aarch64::GPRS];
    gpr[20] = seed(guest);
    gpr[21] = ROUNDS;
    gpr[22] = KEYS.load(Ordering::Relaxed);
    gpr[23] = SYSTEM_REGISTERS.load(Ordering::Relaxed);
    gpr[26] = ERRORS.load(Ordering::Relaxed);
    gpr[27] = MATRICES.load(Ordering::Relaxed);
    let state = trial::initial_state(CODE);
    VcpuState { gpr, vmpidr: state.vmpidr | guest, ..state }
}

/// Where guests ring: nowhere.
pub const DOORBELL: Option<DoorbellParameters> = None;

/// The guest that gets nowhere: its exceptions end in themselves.
pub const ENDLESS: u64 = 2;

/// SVC, which goes where it is.
pub fn endless_code() -> impl Iterator<Item = u8> {
    core::iter::repeat_n(0xd400_0001u32.to_le_bytes(), 0x800 / 4).flatten()
}

/// The state in which [`ENDLESS`] starts: in the vector of exceptions at its own level.
fn endless_state() -> VcpuState {
    VcpuState { vbar_el1: CODE, ..trial::initial_state(CODE + 0x200) }
}

/// Notes which registers the CPU has.
pub fn look_at(info: &BootInfo) {
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
    MATRICES.store((pfr1 >> 24 & 0xf != 0 && !fine_traps).into(), Ordering::Relaxed);
}
