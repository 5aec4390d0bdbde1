//! AArch64.

use crate::exit::compartment::{DEVICE_KICK, WAKER};
use crate::exit::monitor::{Device, Words, answer, fill_page, halted};
use crate::exit::plan::{KICK_DEVICE, state, table};
use abi::Op;
use abi::boot::{BootInfo, Virtualization};
use abi::syscall::DoorbellKind;
use abi::vcpu::aarch64::{CONTROL_HALT, Groups, LIST_EOI, LIST_REGISTERS, LIST_STATE, VcpuState};
use abi::vcpu::{ExitKind, fault_syndrome, instruction_length};
use bench_guest::{Arguments, arch as guest, place};
use core::arch::naked_asm;
use rt::env::register_key;
use rt::syscall::{self, DoorbellParameters};
use spin::Mutex;
use vmm::arch::aarch64::gic::lists::List;
use vmm::arch::aarch64::gic::sgi::Sgi;
use vmm::arch::aarch64::gic::{FIRST_SPI, Gic, Kicks, Version};
use vmm::arch::aarch64::state::StatePage;
use vmm::arch::aarch64::syndrome::{self, Access, SystemAccess};

/// What an exit of a kind saves.
pub fn saved(kind: ExitKind) -> u64 {
    use ExitKind as K;
    let groups = match kind {
        K::StageTwoFault | K::SystemRegister => Groups::PC,
        K::Kick | K::InterruptController => Groups::GIC,
        K::Halt => Groups::GIC.union(Groups::PC),
        _ => Groups::empty(),
    };
    groups.bits()
}

/// No portal is exchanged.
pub const EXCHANGED: Option<(ExitKind, u64)> = None;

/// The loop of a vCPU's handler. The identity of its portals is the address of the state page. A hypercall needs no answer, for the
/// program counter is past it; that is all that is measured of it.
#[unsafe(naked)]
pub extern "C" fn handle() -> ! {
    naked_asm!(
        "2: and w9, w2, #0xff",
        "cmp w9, #{hypercall}",
        "b.ne 3f",
        "mov x2, xzr",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        "3: mov x0, x1",
        "mov x1, x2",
        "mov x2, x3",
        "mov x3, x4",
        "mov x4, x5",
        "bl {answer}",
        "mov x2, x0",
        "mov x0, #{reply}",
        "svc #0",
        "b 2b",
        hypercall = const ExitKind::Hypercall as u8,
        reply = const Op::ReplyWait as u32,
        answer = sym answer,
    )
}

/// Where the thread starts that wakes vCPU 0: it waits for [`WAKER`] and signals [`DEVICE_KICK`], for ever.
#[unsafe(naked)]
pub extern "C" fn wake() -> ! {
    naked_asm!(
        "2: mov x0, #{wait}",
        "mov x1, #{waker}",
        "mov x2, #-1",
        "svc #0",
        "mov x0, #{signal}",
        "mov x1, #{kick}",
        "svc #0",
        "b 2b",
        wait = const Op::Wait as u32,
        signal = const Op::Signal as u32,
        waker = const WAKER.0,
        kick = const DEVICE_KICK.0,
    )
}

/// The interrupt controller of both vCPUs.
static GIC: Mutex<Option<Gic>> = Mutex::new(None);

/// What the guest is told, but for the rows; `None` if this machine has no virtualisation.
pub fn arguments(info: &BootInfo) -> Option<Arguments> {
    let here = Virtualization::from_code(info.virtualization) == Some(Virtualization::El2);
    here.then_some(Arguments {
        rows: 0,
        port_doorbell: 0,
        vmmcall: 0,
        gic: info.gic_version.into(),
    })
}

/// Where the guest rings.
pub fn doorbell(_arguments: &Arguments) -> DoorbellParameters {
    DoorbellParameters {
        kind: DoorbellKind::Memory,
        first: place::DOORBELL,
        size: 4,
    }
}
