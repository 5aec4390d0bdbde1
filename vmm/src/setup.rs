//! Builds the VM: maps its memory, loads the guest, creates the vCPU and starts it.
use crate::native::{ExitPortals, Handler, Native, serve};
use abi::boot::Virtualization;
use abi::syscall::SpaceKind;
use abi::{PAGE_SIZE, Rights, Status};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
use rt::env::{FileView, MonitorEnvironment, Role};
use rt::layout::{DOMAIN, SPACE};
use rt::program::Program;
use rt::protocol::supervisor::{self, Request};
use rt::syscall::{self, MapParameters, VcpuParameters};
use vmm::acpi::{Machine, Serial};
use vmm::boot::load::{self, LoadError};
use vmm::clock::Clock;
use vmm::cpuid;
use vmm::instruction;
use vmm::memory::{GuestPhys, GuestRam, LayoutError};
use vmm::state::StatePage;
use vmm::vcpu::Vcpu;
use vmm::vm::Vm;

/// Stack of the handler thread.
const STACK: usize = 32 << 10;

/// Why a VM does not start.
pub enum SetupError {
    /// The environment is not that of a monitor, or lacks something.
    Environment(&'static str),
    /// The RAM.
    Layout(LayoutError),
    /// The guest.
    Load(LoadError),
    /// A system call, with what it was for.
    Status(&'static str, Status),
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetupError::Environment(what) => f.write_str(what),
            SetupError::Layout(error) => error.fmt(f),
            SetupError::Load(error) => error.fmt(f),
            SetupError::Status(what, status) => write!(f, "{what}: {}", status.name()),
        }
    }
}

/// Names what a system call was for.
trait Purpose<T> {
    fn purpose(self, what: &'static str) -> Result<T, SetupError>;
}

impl<T> Purpose<T> for syscall::Result<T> {
    fn purpose(self, what: &'static str) -> Result<T, SetupError> {
        self.map_err(|status| SetupError::Status(what, status))
    }
}

/// Starts the VM of this program.
pub fn start(program: &Program) -> Result<(), SetupError> {
    let Role::Monitor(environment) = &program.environment.role else {
        return Err(SetupError::Environment(
            "the environment is not a monitor's",
        ));
    };
    if matches!(
        Virtualization::from_code(environment.virtualization),
        None | Some(Virtualization::None)
    ) {
        return Err(SetupError::Environment("the machine cannot virtualise"));
    }
    let Some(vcpu) = environment.vcpus.first().copied() else {
        return Err(SetupError::Environment("the VM has no vCPU"));
    };
    if environment.vcpus.len() > 1 {
        log::warn!(
            "the VM runs with one of its {} vCPUs",
            environment.vcpus.len()
        );
    }

    let guest_space = program.selectors.one();
    syscall::create_space(DOMAIN, guest_space, SpaceKind::Guest)
        .purpose("creating the guest space")?;
    let ram = map_ram(program, environment, guest_space)?;
    let vm = Box::leak(Box::new(load(program, environment, ram)?));
    instruction::prepare();

    let state = program
        .mapper
        .reserve(PAGE_SIZE as u64)
        .ok_or(SetupError::Environment(
            "no address is free for the state page",
        ))?;
    let vcpu_slot = program.selectors.one();
    let portals = ExitPortals::reserve(program);
    let parameters = VcpuParameters {
        domain: DOMAIN,
        guest_space,
        cpu: vcpu.cpu,
        host_space: SPACE,
        state,
        portals: portals.base,
    };
    syscall::create_vcpu(DOMAIN, vcpu_slot, &parameters).purpose("creating the vCPU")?;
    syscall::bind_kick(vcpu_slot, vcpu.kick).purpose("binding the kick")?;
    let console = environment
        .console
        .as_ref()
        .and_then(|serial| serial.portal(vcpu.cpu));
    let native = Native {
        console,
        console_failed: false,
        portals,
    };
    // SAFETY: the kernel has mapped the state page there; this is the only handle to it.
    let state = unsafe { StatePage::new(state as usize) };
    let data = Box::leak(Box::new(Handler::new(Vcpu::new(vm, 0, state, native))));
    let handler = program
        .create_handler(vcpu.cpu, STACK, data, serve)
        .purpose("creating the handler thread")?;
    portals
        .create(handler)
        .purpose("creating the exit portals")?;
    if let Err(error) = supervisor::request(Request::Ready) {
        log::warn!("the supervisor does not take notice: {error:?}");
    }
    syscall::bind_sched(vcpu.sched, vcpu_slot).purpose("starting the vCPU")
}

fn map_ram(
    program: &Program,
    environment: &MonitorEnvironment,
    guest_space: abi::Selector,
) -> Result<GuestRam, SetupError> {
    let mut chunks = Vec::new();
    for chunk in &environment.memory {
        let own = program
            .mapper
            .map_shared(&program.selectors, chunk.selector, chunk.size, Rights::RW)
            .purpose("mapping the guest's memory")?;
        let parameters = MapParameters {
            offset: 0,
            address: chunk.guest_address,
            size: chunk.size,
            rights: Rights::RW | Rights::EXEC,
        };
        syscall::map(
            chunk.selector,
            guest_space,
            program.selectors.one(),
            &parameters,
        )
        .purpose("mapping the guest's memory for the guest")?;
        chunks.push((GuestPhys(chunk.guest_address), own));
    }
    GuestRam::new(chunks).map_err(SetupError::Layout)
}

fn file(view: &FileView) -> &'static [u8] {
    // SAFETY: the view comes from the environment, which the root task wrote.
    unsafe { view.bytes() }
}

fn load(
    program: &Program,
    environment: &MonitorEnvironment,
    ram: GuestRam,
) -> Result<Vm, SetupError> {
    let serial = environment.console.as_ref().map(|serial| Serial {
        port: serial.address as u16,
        line: serial.line,
    });
    let machine = Machine { vcpus: 1, serial };
    let kernel = file(&environment.kernel);
    let initrd = environment.initrd.as_ref().map_or(&[][..], file);
    let start = load::load(&ram, kernel, initrd, &environment.cmdline, &machine)
        .map_err(SetupError::Load)?;
    let tsc_hz = program.environment.counter_hz;
    let parameters = cpuid::Parameters {
        xcr0_mask: environment.xcr0_mask,
        vcpus: machine.vcpus,
        tsc_hz,
    };
    let host = |leaf, sub| {
        let answer = raw_cpuid::cpuid!(leaf, sub);
        cpuid::Leaf {
            eax: answer.eax,
            ebx: answer.ebx,
            ecx: answer.ecx,
            edx: answer.edx,
        }
    };
    Ok(Vm {
        ram,
        start,
        cpuid: cpuid::Table::new(host, &parameters),
        clock: Clock::new(tsc_hz),
        serial,
        io_apic: spin::Mutex::default(),
        vcpus: machine.vcpus,
    })
}
