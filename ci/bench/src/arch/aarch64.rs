//! AArch64: the assembly of the monitor, and a guest at EL1 with its MMU off.

mod servers;

pub(crate) use servers::entry;
pub use servers::{echo_all, relay};

use crate::exit::{DOORBELL, RESULTS, ROUNDS};
use crate::throughput::KNOWN;
use abi::Op;
use abi::boot::Virtualization;
use abi::syscall::DoorbellKind;
use abi::utcb::exception::{ExceptionReply, SYSTEM_CALL};
use abi::vcpu::ExitKind;
use abi::vcpu::aarch64::Groups;
pub use abi::vcpu::aarch64::{CONTROL_HALT, VcpuState};
use core::arch::{asm, naked_asm};
use rt::syscall::DoorbellParameters;

/// All groups of state but the interrupt controller's, which the guest does not use.
pub const ALL: u64 = Groups::all().difference(Groups::GIC).bits();
/// The group of the controls.
pub const CONTROLS: u64 = Groups::CONTROLS.bits();
/// What a hypercall's exit saves.
pub const SAVED: u64 = 0;

/// The handler of a foreign thread: resumes it after each system call. Another exception is its end, and signalled.
#[unsafe(naked)]
pub extern "C" fn answer() -> ! {
    naked_asm!(
        "2: mov x2, #{resume}",
        "3: mov x0, #{reply}",
        "svc #0",
        "cmp x2, #{call}",
        "b.eq 2b",
        "mov x0, #{signal}",
        "mov x1, #{done}",
        "svc #0",
        "mov x2, xzr",
        "b 3b",
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
        "2: mov x0, #{reply}",
        "svc #0",
        "yield",
        "b 2b",
        reply = const Op::ReplyWait as u32
    )
}

/// One instruction, at which an emulator that runs the CPUs in turns goes on with the next CPU.
#[inline(always)]
pub fn give_way() {
    // SAFETY: a hint.
    unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
}

/// [`crate::throughput::KNOWN`] instructions.
#[inline(always)]
pub fn known() {
    // SAFETY: changes a register that it owns, and flags.
    unsafe {
        asm!(
            "mov {n}, #{rounds}",
            "2: subs {n}, {n}, #1",
            "b.ne 2b",
            "nop",
            n = out(reg) _,
            rounds = const KNOWN / 2 - 1,
            options(nomem, nostack),
        );
    }
}

/// The monitor. A hypercall needs no answer, for the program counter is past it; that is all that is measured.
#[unsafe(naked)]
pub extern "C" fn monitor() -> ! {
    naked_asm!(
        "2: and w9, w2, #0xff",
        "cmp w9, #{hypercall}",
        "b.ne 3f",
        "mov x2, xzr",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        "3: mov x0, x2",
        "mov x1, x3",
        "mov x2, x4",
        "bl {other}",
        "mov x2, x0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        hypercall = const ExitKind::Hypercall as u8,
        reply = const Op::ReplyWait as u32,
        other = sym crate::exit::other,
    )
}

/// Where the guest rings.
pub fn doorbell(_virtualization: Option<Virtualization>) -> DoorbellParameters {
    DoorbellParameters {
        kind: DoorbellKind::Memory,
        first: DOORBELL,
        size: 4,
    }
}

/// Instructions of [`code`].
const LENGTH: usize = 31;

/// As many times as there are samples: reads the counter, does `$exit`, reads the counter, stores the difference.
macro_rules! rounds {
    ($exit:literal) => {
        concat!(
            "mov w21, #{rounds}\n",
            "2: isb\n",
            "mrs x22, cntvct_el0\n",
            $exit,
            "\nisb\n",
            "mrs x23, cntvct_el0\n",
            "sub w24, w23, w22\n",
            "str w24, [x20], #4\n",
            "subs w21, w21, #1\n",
            "b.ne 2b",
        )
    };
}

/// The guest: calls its hypervisor and writes to a doorbell; then WFI. Runs at whatever address it is copied to.
#[unsafe(naked)]
extern "C" fn code() -> ! {
    naked_asm!(
        "mov x20, #{results}",
        "mov x25, #{doorbell}",
        "isb",
        "mrs x22, cntvct_el0",
        "isb",
        "mrs x23, cntvct_el0",
        "sub w24, w23, w22",
        "str w24, [x20], #4",
        rounds!("hvc #0"),
        rounds!("str wzr, [x25]"),
        "3: wfi",
        "b 3b",
        "udf #0",
        results = const RESULTS,
        doorbell = const DOORBELL,
        rounds = const ROUNDS,
    )
}

/// The guest's code; `None` if this machine has no virtualisation.
pub fn guest(virtualization: Option<Virtualization>) -> Option<impl Iterator<Item = u8>> {
    let start = code as *const () as *const u8;
    (virtualization == Some(Virtualization::El2)).then(|| {
        // SAFETY: the function has as many instructions, and code can be read.
        (0..LENGTH * 4).map(move |at| unsafe { start.add(at).read_volatile() })
    })
}
