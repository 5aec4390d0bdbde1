//! VM exits: a guest of a few instructions, and the least monitor that can answer it.

use crate::stats::{self, SAMPLES};
use abi::boot::{BootInfo, ROOT_DOMAIN, ROOT_MEMORY, ROOT_SPACE, Virtualization};
use abi::cap::MemoryKind;
use abi::syscall::SpaceKind;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups, Segment, Table, VcpuState};
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Op, Rights, Selector, Status};
use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::syscall::{self, Deadline, MapParameters, Result, ThreadParameters, Time, VcpuParameters};

const FREE: u32 = abi::boot::ROOT_FREE.0 + 64;
const GUEST: Selector = Selector(FREE);
const THREAD: Selector = Selector(FREE + 1);
const VCPU: Selector = Selector(FREE + 2);
const SCHED: Selector = Selector(FREE + 3);
const DONE: Selector = Selector(FREE + 4);
const HERE: Selector = Selector(FREE + 5);
const THERE: Selector = Selector(FREE + 6);
const PORTALS: Selector = Selector(FREE + 16);

const UTCB: u64 = 0x5000_2000;
const STATE: u64 = 0x5000_3000;
/// The guest's memory here and, from 0 on, there.
const MEMORY: u64 = 0x5010_0000;
const MEMORY_SIZE: u64 = 0x4000;
const CODE: u64 = 0x1000;
/// The guest stores the cost of reading the counter, then the samples.
const RESULTS: u64 = 0x2000;
/// Exits before the samples that count.
const WARM_UP: usize = 16;

#[repr(C, align(16))]
struct Stack([u8; 8192]);
static mut HANDLER_STACK: Stack = Stack([0; 8192]);

/// The exit that ended the measurement, plus one; 0: none yet.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// The monitor. A hypercall is answered by stepping over it; that is all that is measured.
#[unsafe(naked)]
extern "C" fn monitor() -> ! {
    naked_asm!(
        "2: cmp sil, {hypercall}",
        "jne 3f",
        "add qword ptr [{rip}], 3",
        "mov esi, {changed}",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        "3: mov rdi, rsi",
        "mov rsi, rdx",
        "mov rdx, r8",
        "call {other}",
        "mov rsi, rax",
        "mov eax, {reply}",
        "syscall",
        "jmp 2b",
        hypercall = const ExitKind::Hypercall as u8,
        rip = const STATE + offset_of!(VcpuState, rip) as u64,
        changed = const Groups::RIP.bits(),
        reply = const Op::ReplyWait as u32,
        other = sym other,
    )
}

/// All other exits: the first, and the last.
extern "C" fn other(kind: u64, info: u64, more: u64) -> u64 {
    let state = STATE as *mut VcpuState;
    match abi::vcpu::exit_kind(kind) {
        Some(ExitKind::Startup) => {
            // SAFETY: the kernel has mapped the state page there; the vCPU waits for this answer.
            unsafe { state.write_volatile(initial_state()) };
            Groups::all().bits()
        }
        kind => {
            if ENDED.swap(kind.map_or(100, |k| k as u64) + 1, Ordering::Relaxed) == 0 {
                if kind != Some(ExitKind::Halt) {
                    log::warn!("exit {kind:?} {info:#x} {more:#x}");
                }
                let _ = syscall::signal(DONE);
            }
            // SAFETY: as above.
            unsafe { (&raw mut (*state).controls).write_volatile(CONTROL_HALT) };
            Groups::EVENTS.bits()
        }
    }
}

/// 32-bit protected mode, flat, without paging.
fn initial_state() -> VcpuState {
    let data = Segment {
        selector: 16,
        access: 0xc093,
        limit: u32::MAX,
        ..Segment::default()
    };
    let none = Segment {
        access: 0x1_0000,
        ..Segment::default()
    };
    VcpuState {
        rip: CODE,
        rflags: 2,
        cr0: 0x31,
        deadline: u64::MAX,
        xcr0: 1,
        dr7: 0x400,
        pat: 0x0007_0406_0007_0406,
        cs: Segment {
            selector: 8,
            access: 0xc09b,
            ..data
        },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ldtr: none,
        tr: Segment {
            selector: 24,
            access: 0x8b,
            limit: 0x67,
            ..Segment::default()
        },
        gdtr: Table::default(),
        idtr: Table::default(),
        ..VcpuState::default()
    }
}

/// The guest: reads the counter, calls its hypervisor, reads the counter, stores the difference; then HLT.
fn code(call: [u8; 3]) -> [u8; 37] {
    let count = (SAMPLES + WARM_UP + 1) as u32;
    let [c0, c1, c2, c3] = count.to_le_bytes();
    let [a, b, c] = call;
    [
        0xbf, 0x00, 0x20, 0x00, 0x00, // mov edi, RESULTS
        0xb9, c0, c1, c2, c3, // mov ecx, count
        0x0f, 0x31, 0x89, 0xc6, // rdtsc; mov esi, eax
        0x0f, 0x31, 0x29, 0xf0, // rdtsc; sub eax, esi
        0xab, // stosd
        0x0f, 0x31, 0x89, 0xc6, // rdtsc; mov esi, eax
        a, b, c, // the call
        0x0f, 0x31, 0x29, 0xf0, // rdtsc; sub eax, esi
        0xab, // stosd
        0x49, // dec ecx
        0x75, 0xf1, // jnz to the second rdtsc pair
        0xf4, // hlt
        0xeb, 0xfd, // jmp to hlt
    ]
}

/// Measures and prints everything here.
pub fn run(info: &BootInfo) {
    let call = match Virtualization::from_code(info.virtualization) {
        Some(Virtualization::Vmx) => [0x0f, 0x01, 0xc1],
        Some(Virtualization::Svm) => [0x0f, 0x01, 0xd9],
        _ => return stats::unavailable("exit.hypercall", "this machine has no virtualisation"),
    };
    match hypercall(info, call) {
        Ok(()) if ENDED.load(Ordering::Relaxed) == ExitKind::Halt as u64 + 1 => report(),
        Ok(()) => stats::unavailable("exit.hypercall", "the guest failed"),
        Err(status) => stats::unavailable("exit.hypercall", status.name()),
    }
}

fn hypercall(info: &BootInfo, call: [u8; 3]) -> Result {
    let regions = &info.regions[..info.region_count as usize];
    let ram = regions
        .iter()
        .position(|r| {
            r.kind == MemoryKind::Ram as u32 && r.base >= 1 << 20 && r.size >= MEMORY_SIZE
        })
        .ok_or(Status::BadArgument)?;
    let memory = ROOT_MEMORY.offset(ram as u32);
    let map = |address, rights| MapParameters {
        offset: 0,
        address,
        size: MEMORY_SIZE,
        rights,
    };
    syscall::create_space(ROOT_DOMAIN, GUEST, SpaceKind::Guest)?;
    syscall::map(memory, ROOT_SPACE, HERE, &map(MEMORY, Rights::RW))?;
    syscall::map(memory, GUEST, THERE, &map(0, Rights::RW | Rights::EXEC))?;
    for (i, byte) in code(call).into_iter().enumerate() {
        // SAFETY: just mapped, and used for nothing else.
        unsafe { ((MEMORY + CODE) as *mut u8).add(i).write_volatile(byte) };
    }
    let thread = ThreadParameters {
        domain: ROOT_DOMAIN,
        space: ROOT_SPACE,
        cpu: 0,
        utcb: UTCB,
        ip: monitor as *const () as u64,
        sp: &raw const HANDLER_STACK as u64 + size_of::<Stack>() as u64,
        exceptions: Selector::NULL,
    };
    syscall::create_thread(ROOT_DOMAIN, THREAD, &thread)?;
    for kind in 0..EXIT_KINDS {
        let groups = if kind == ExitKind::Hypercall as u32 {
            Groups::RIP
        } else {
            Groups::empty()
        };
        let portal = PORTALS.offset(kind);
        syscall::create_portal(ROOT_DOMAIN, portal, THREAD, kind as u64, groups.bits())?;
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
    let time = Time {
        priority: 10,
        budget: 0,
        period: 0,
    };
    syscall::create_sched(ROOT_DOMAIN, SCHED, 0, time)?;
    syscall::bind_sched(SCHED, VCPU)?;
    syscall::wait(DONE, Deadline::NEVER).map(|_| ())
}

fn report() {
    let read = |index: usize| {
        // SAFETY: within the memory that was mapped; the guest has stopped.
        unsafe {
            ((MEMORY + RESULTS) as *const u32)
                .add(index)
                .read_volatile() as u64
        }
    };
    let overhead = read(0);
    let first = read(1).saturating_sub(overhead);
    let mut samples = [0; SAMPLES];
    for (i, sample) in samples.iter_mut().enumerate() {
        *sample = read(2 + WARM_UP + i).saturating_sub(overhead);
    }
    stats::print("exit.hypercall", &stats::summarise(&mut samples, first));
}
