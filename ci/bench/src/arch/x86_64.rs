//! x86-64: the assembly of the monitor, and a guest in protected mode.

mod servers;

pub(crate) use servers::entry;
pub use servers::{echo_all, relay};

use crate::exit::{DOORBELL, ROUNDS, STATE};
use crate::throughput::KNOWN;
use abi::Op;
use abi::boot::Virtualization;
use abi::syscall::DoorbellKind;
use abi::utcb::exception::{ExceptionReply, SYSTEM_CALL};
use abi::vcpu::ExitKind;
use abi::vcpu::x86_64::Groups;
pub use abi::vcpu::x86_64::{CONTROL_HALT, VcpuState};
use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use rt::syscall::DoorbellParameters;

/// All groups of state.
pub const ALL: u64 = Groups::all().bits();
/// The group of the controls.
pub const CONTROLS: u64 = Groups::EVENTS.bits();
/// What a hypercall's exit saves.
pub const SAVED: u64 = Groups::RIP.bits();

/// The handler of a foreign thread: resumes it after each system call. Another exception is its end, and signalled.
#[unsafe(naked)]
pub extern "C" fn answer() -> ! {
    naked_asm!(
        "2: mov esi, {resume}",
        "3: mov eax, {reply}",
        "syscall",
        "cmp rsi, {call}",
        "je 2b",
        "mov eax, {signal}",
        "mov edi, {done}",
        "syscall",
        "xor esi, esi",
        "jmp 3b",
        resume = const ExceptionReply::RESUME.bits(),
        reply = const Op::ReplyWait as u32,
        call = const SYSTEM_CALL,
        signal = const Op::Signal as u32,
        done = const crate::foreign::HANDLERS_DONE.0,
    )
}

/// Answers each call with what it got, after it has given way.
#[unsafe(naked)]
pub extern "C" fn server() -> ! {
    naked_asm!(
        "2: mov eax, {reply}",
        "syscall",
        "pause",
        "jmp 2b",
        reply = const Op::ReplyWait as u32
    )
}

/// One instruction, at which an emulator that runs the CPUs in turns goes on with the next CPU.
#[inline(always)]
pub fn give_way() {
    // SAFETY: a hint.
    unsafe { asm!("pause", options(nomem, nostack, preserves_flags)) };
}

/// [`crate::throughput::KNOWN`] instructions.
#[inline(always)]
pub fn known() {
    // SAFETY: changes a register that it owns, and flags.
    unsafe {
        asm!(
            "mov {n:e}, {rounds}",
            "2: dec {n:e}",
            "jnz 2b",
            "nop",
            n = out(reg) _,
            rounds = const KNOWN / 2 - 1,
            options(nomem, nostack),
        );
    }
}

/// The monitor. A hypercall is answered by stepping over it; that is all that is measured.
#[unsafe(naked)]
pub extern "C" fn monitor() -> ! {
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
        other = sym crate::exit::other,
    )
}

/// The port that is a doorbell where memory cannot be one.
const PORT: u8 = 0x80;

/// Where the guest rings: SVM does not say how long the instruction is that writes to memory.
pub fn doorbell(virtualization: Option<Virtualization>) -> DoorbellParameters {
    let (kind, first, size) = match virtualization {
        Some(Virtualization::Svm) => (DoorbellKind::Ports, PORT.into(), 1),
        _ => (DoorbellKind::Memory, DOORBELL, 4),
    };
    DoorbellParameters { kind, first, size }
}

/// The guest: reads the counter, calls its hypervisor, reads the counter, stores the difference; the same with a write
/// to a doorbell; then HLT. `None` if this machine has no virtualisation.
pub fn guest(virtualization: Option<Virtualization>) -> Option<impl Iterator<Item = u8>> {
    let (call, ring) = match virtualization {
        // VMCALL; mov [ebx + 0], eax.
        Some(Virtualization::Vmx) => ([0x0f, 0x01, 0xc1], [0x89, 0x43, 0x00]),
        // VMMCALL; out PORT, ax.
        Some(Virtualization::Svm) => ([0x0f, 0x01, 0xd9], [0x66, 0xe7, PORT]),
        _ => return None,
    };
    let [c0, c1, c2, c3] = ROUNDS.to_le_bytes();
    let [d0, d1, d2, d3] = (DOORBELL as u32).to_le_bytes();
    let start = [
        0xbf, 0x00, 0x20, 0x00, 0x00, // mov edi, RESULTS
        0xbb, d0, d1, d2, d3, // mov ebx, DOORBELL
        0x0f, 0x31, 0x89, 0xc6, // rdtsc; mov esi, eax
        0x0f, 0x31, 0x29, 0xf0, // rdtsc; sub eax, esi
        0xab, // stosd
    ];
    let rounds = |[x, y, z]: [u8; 3]| {
        [
            0xb9, c0, c1, c2, c3, // mov ecx, count
            0x0f, 0x31, 0x89, 0xc6, // rdtsc; mov esi, eax
            x, y, z, // the exit
            0x0f, 0x31, 0x29, 0xf0, // rdtsc; sub eax, esi
            0xab, // stosd
            0x49, // dec ecx
            0x75, 0xf1, // jnz to the first rdtsc
        ]
    };
    let end = [0xf4, 0xeb, 0xfd]; // hlt; jmp to hlt
    let loops = rounds(call).into_iter().chain(rounds(ring));
    Some(start.into_iter().chain(loops).chain(end))
}
