//! The VM that an environment describes.
use super::boot::load::{self, Start};
use super::clock::Clock;
use super::device_tree::{Machine, Serial};
use super::gic::{Gic, Version};
use super::id::{GuestId, HostId};
use super::layout;
use super::vm::Vm;
use crate::memory::{GuestPhys, GuestRam};
use crate::setup::{Files, Purpose, SetupError};
use abi::{Rights, Selector};
use core::sync::atomic::AtomicBool;
use rt::env::MonitorEnvironment;
use rt::program::Program;
use rt::syscall::{self, MapParameters};
use spin::Mutex;

/// Writes back what the caches hold of the guest's RAM, which starts with its caches off. Where it can look past them, they must
/// hold nothing of all its RAM; elsewhere this is for the instructions. Those of the kernel that ran there before may still be in
/// instruction caches (Linux Documentation/arch/arm64/booting.rst: none that are stale).
fn clean(ram: &GuestRam, start: &Start, host: HostId<'_>) {
    let written = start.written().into_iter();
    let all = ram.ranges().map(|range| (range.start, range.end - range.start));
    let clean = |(at, size)| {
        for range in ram.places(GuestPhys(at), size) {
            rt::arch::clean_to_memory(range);
        }
    };
    if host.forces_write_back() {
        written.for_each(clean);
    } else {
        all.for_each(clean);
    }
    for range in ram.places(GuestPhys(start.entry), start.kernel_size) {
        rt::arch::make_executable(range);
    }
}

/// Loads the guest, and gives it the machine's virtual CPU interface.
pub fn build(
    program: &Program,
    environment: &MonitorEnvironment,
    files: &Files<'_>,
    ram: GuestRam,
    guest_space: Selector,
    vcpus: u32,
) -> Result<Vm, SetupError> {
    let Some(gic) = &environment.gic else {
        return Err(SetupError::Environment("the environment names no interrupt controller"));
    };
    let version = match gic.version {
        2 => Version::V2,
        3 => Version::V3,
        _ => {
            return Err(SetupError::Environment(
                "the machine's interrupt controller is neither a GICv2 nor a GICv3",
            ));
        }
    };
    if version == Version::V2 {
        let Some(interface) = gic.vcpu_interface else {
            return Err(SetupError::Environment(
                "the environment lacks the GIC's virtual CPU interface",
            ));
        };
        let parameters = MapParameters {
            offset: 0,
            address: layout::CPU_INTERFACE,
            size: layout::CPU_INTERFACE_SIZE,
            rights: Rights::RW,
        };
        syscall::map(interface, guest_space, program.selectors.one(), &parameters)
            .purpose("mapping the virtual CPU interface for the guest")?;
    }
    let serial = environment
        .console
        .as_ref()
        .map(|serial| Serial { address: serial.address, line: serial.line });
    let machine = Machine { vcpus, gic: version, serial };
    let start = load::load(&ram, files.kernel, files.initrd, files.cmdline, &machine)
        .map_err(SetupError::Load)?;
    let host = HostId(&environment.id_registers);
    clean(&ram, &start, host);
    Ok(Vm {
        id: GuestId::new(host, version),
        workarounds: environment.workarounds,
        clock: Clock::new(rt::arch::counter()),
        serial,
        gic: Mutex::new(Gic::new(version, vcpus, gic.list_registers)),
        powers: Vm::powers(vcpus, &start),
        stopped: AtomicBool::new(false),
        vcpus,
        ram,
    })
}
