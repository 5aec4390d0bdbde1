//! VM exits: a guest of a few instructions, and the least monitor that can answer it. A write to a doorbell is an exit
//! that this does not see.

use crate::arch;
use crate::stats::{self, SAMPLES};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_SPACE, Virtualization};
use abi::syscall::SpaceKind;
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Rights, Selector};
use core::sync::atomic::{AtomicU64, Ordering};
use rt::syscall::{self, Deadline, DoorbellParameters, MapParameters, Result, VcpuParameters};
use trial::{Stack, create_thread, initial_state, place_code};

const FREE: u32 = abi::boot::ROOT_FREE.0 + 64;
const GUEST: Selector = Selector(FREE);
const THREAD: Selector = Selector(FREE + 1);
const VCPU: Selector = Selector(FREE + 2);
const SCHED: Selector = Selector(FREE + 3);
const DONE: Selector = Selector(FREE + 4);
const HERE: Selector = Selector(FREE + 5);
const THERE: Selector = Selector(FREE + 6);
const BELL: Selector = Selector(FREE + 7);
const RUNG: Selector = Selector(FREE + 8);
const PORTALS: Selector = Selector(FREE + 16);

const UTCB: u64 = 0x5000_2000;
pub(crate) const STATE: u64 = 0x5000_3000;
/// The guest's memory here and, from 0 on, there.
const MEMORY: u64 = 0x5010_0000;
const MEMORY_SIZE: u64 = 0x4000;
/// Where its code starts.
pub(crate) const CODE: u64 = 0x1000;
/// What the guest writes to, without memory: a doorbell, here or at the port that the architecture's part names.
pub(crate) const DOORBELL: u64 = 0x8000;
/// The guest stores the cost of reading the counter, then the samples of both kinds.
pub(crate) const RESULTS: u64 = 0x2000;
/// Exits before the samples that count.
const WARM_UP: usize = 16;
/// All exits of the guest of one kind: the first one, the warm-up, the samples.
pub(crate) const ROUNDS: u32 = (SAMPLES + WARM_UP + 1) as u32;

static HANDLER_STACK: Stack = Stack::zeroed();

/// The exit that ended the measurement, plus one; 0: none yet.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// All other exits: the first, and the last.
pub(crate) extern "C" fn other(kind: u64, info: u64, more: u64) -> u64 {
    let state = STATE as *mut arch::VcpuState;
    match abi::vcpu::exit_kind(kind) {
        Some(ExitKind::Startup) => {
            // SAFETY: the kernel has mapped the state page there; the vCPU waits for this answer.
            unsafe { state.write_volatile(initial_state(CODE)) };
            arch::ALL
        }
        kind => {
            if ENDED.swap(kind.map_or(100, |k| k as u64) + 1, Ordering::Relaxed) == 0 {
                if kind != Some(ExitKind::Halt) {
                    log::warn!("exit {kind:?} {info:#x} {more:#x}");
                }
                let _ = syscall::signal(DONE);
            }
            // SAFETY: as above.
            unsafe { (&raw mut (*state).controls).write_volatile(arch::CONTROL_HALT) };
            arch::CONTROLS
        }
    }
}

/// Measures and prints everything here.
pub fn run(info: &BootInfo) {
    let virtualization = Virtualization::from_code(info.virtualization);
    let Some(code) = arch::guest(virtualization) else {
        return stats::unavailable("exit.hypercall", "this machine has no virtualisation");
    };
    match measure(info, code, arch::doorbell(virtualization)) {
        Ok(()) if ENDED.load(Ordering::Relaxed) == ExitKind::Halt as u64 + 1 => {
            report("exit.hypercall", 0);
            match syscall::wait(RUNG, Deadline::POLL) {
                Ok(_) => report("exit.doorbell", ROUNDS as usize),
                Err(status) => stats::unavailable("exit.doorbell", status.name()),
            }
        }
        Ok(()) => stats::unavailable("exit.hypercall", "the guest failed"),
        Err(status) => stats::unavailable("exit.hypercall", status.name()),
    }
}

fn measure(
    info: &BootInfo,
    code: impl Iterator<Item = u8>,
    doorbell: DoorbellParameters,
) -> Result {
    let memory = trial::ram(info, MEMORY_SIZE)?;
    let map = |address, rights| MapParameters {
        offset: 0,
        address,
        size: MEMORY_SIZE,
        rights,
    };
    syscall::create_space(ROOT_DOMAIN, GUEST, SpaceKind::Guest)?;
    syscall::map(memory, ROOT_SPACE, HERE, &map(MEMORY, Rights::RW))?;
    syscall::map(memory, GUEST, THERE, &map(0, Rights::RW | Rights::EXEC))?;
    // SAFETY: just mapped, and used for nothing else.
    unsafe { place_code(MEMORY..MEMORY + MEMORY_SIZE, CODE, code) };
    syscall::create_notification(ROOT_DOMAIN, RUNG)?;
    syscall::bind_doorbell(RUNG, GUEST, BELL, &doorbell)?;
    create_thread(THREAD, UTCB, arch::monitor, HANDLER_STACK.top())?;
    for kind in 0..EXIT_KINDS {
        let groups = if kind == ExitKind::Hypercall as u32 {
            arch::SAVED
        } else {
            0
        };
        let portal = PORTALS.offset(kind);
        syscall::create_portal(ROOT_DOMAIN, portal, THREAD, kind as u64, groups)?;
    }
    let vcpu = VcpuParameters {
        domain: ROOT_DOMAIN,
        guest_space: GUEST,
        cpu: 0,
        host_space: ROOT_SPACE,
        state: STATE,
        portals: PORTALS,
    };
    syscall::create_notification(ROOT_DOMAIN, DONE)?;
    syscall::create_vcpu(ROOT_DOMAIN, VCPU, &vcpu)?;
    trial::start(SCHED, VCPU)?;
    syscall::wait(DONE, Deadline::NEVER).map(|_| ())
}

/// Prints the samples from the exit `start` on.
fn report(name: &str, start: usize) {
    let read = |index: usize| {
        // SAFETY: within the memory that was mapped; the guest has stopped.
        unsafe {
            ((MEMORY + RESULTS) as *const u32)
                .add(index)
                .read_volatile() as u64
        }
    };
    let overhead = read(0);
    let first = read(1 + start).saturating_sub(overhead);
    let mut samples = [0; SAMPLES];
    for (i, sample) in samples.iter_mut().enumerate() {
        *sample = read(2 + start + WARM_UP + i).saturating_sub(overhead);
    }
    stats::print(name, &stats::summarise(&mut samples, first));
}
