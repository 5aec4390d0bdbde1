//! Builds the VM: maps its memory, loads the guest, creates the vCPUs and starts them.
use crate::arch::current::boot::load::LoadError;
use crate::arch::current::setup;
use crate::arch::current::state::StatePage;
use crate::arch::current::vcpu::Vcpu;
use crate::arch::current::vm::{MAX_VCPUS, Vm};
use crate::memory::{GuestPhys, GuestRam, LayoutError};
use crate::native::{Ends, ExitPortals, Handler, Native, serve};
use crate::platform::KICK_VCPU;
use abi::boot::Virtualization;
use abi::syscall::SpaceKind;
use abi::{Badge, PAGE_SIZE, Rights, Selector, Status};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use rt::env::{FileView, MonitorEnvironment, Role, VcpuEnvironment};
use rt::layout::{DOMAIN, SPACE};
use rt::program::Program;
use rt::protocol::supervisor::{self, Request};
use rt::syscall::{self, MapParameters, VcpuParameters};

/// Most vCPUs that a monitor has selectors and UTCBs for.
const MOST_SERVED: usize = 8;
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
pub trait Purpose<T> {
    /// Names it.
    fn purpose(self, what: &'static str) -> Result<T, SetupError>;
}

impl<T> Purpose<T> for syscall::Result<T> {
    fn purpose(self, what: &'static str) -> Result<T, SetupError> {
        self.map_err(|status| SetupError::Status(what, status))
    }
}

/// What a guest is loaded from.
pub struct Files<'a> {
    /// Its kernel.
    pub kernel: &'a [u8],
    /// Its initial RAM disk; may be empty.
    pub initrd: &'a [u8],
    /// Its command line.
    pub cmdline: &'a str,
}

/// Starts the VM of this program.
pub fn start(program: &Program) -> Result<&'static Ends, SetupError> {
    let Role::Monitor(environment) = &program.environment.role else {
        return Err(SetupError::Environment("the environment is not a monitor's"));
    };
    if matches!(
        Virtualization::from_code(environment.virtualization),
        None | Some(Virtualization::None)
    ) {
        return Err(SetupError::Environment("the machine cannot virtualise"));
    }
    let count = environment.vcpus.len().min(MAX_VCPUS).min(MOST_SERVED);
    let vcpus = &environment.vcpus[..count];
    if vcpus.is_empty() {
        return Err(SetupError::Environment("the VM has no vCPU"));
    }
    if count < environment.vcpus.len() {
        log::warn!("the VM runs with {count} of its {} vCPUs", environment.vcpus.len());
    }

    let guest_space = program.selectors.one();
    syscall::create_space(DOMAIN, guest_space, SpaceKind::Guest)
        .purpose("creating the guest space")?;
    let ram = map_ram(program, environment, guest_space)?;
    let files = Files {
        kernel: file(&environment.kernel),
        initrd: environment.initrd.as_ref().map_or(&[][..], file),
        cmdline: &environment.cmdline,
    };
    let vm = setup::build(program, environment, &files, ram, guest_space, vcpus.len() as u32)?;
    let vm = Box::leak(Box::new(vm));

    let end = program.selectors.one();
    syscall::create_notification(DOMAIN, end).purpose("creating the notification of the end")?;
    let world = World {
        program,
        environment,
        vm,
        guest_space,
        ends: Box::leak(Box::new(Ends::new(end))),
        kicks: kicks(program, vcpus)?,
    };
    let mut slots: Vec<Option<Selector>> = vec![None; vcpus.len()];
    for first in 0..vcpus.len() {
        if slots[first].is_none() {
            world.create_on_cpu(vcpus, vcpus[first].cpu, &mut slots)?;
        }
    }
    if let Err(error) = supervisor::request(Request::Ready) {
        log::warn!("the supervisor does not take notice: {error:?}");
    }
    for (vcpu, slot) in vcpus.iter().zip(slots) {
        if let Some(slot) = slot {
            syscall::bind_sched(vcpu.sched, slot).purpose("starting a vCPU")?;
        }
    }
    Ok(world.ends)
}

/// Capabilities that signal each vCPU's kick as the VM's vCPUs do.
fn kicks(program: &Program, vcpus: &[VcpuEnvironment]) -> Result<&'static [Selector], SetupError> {
    let mut kicks = Vec::new();
    for vcpu in vcpus {
        let dst = program.selectors.one();
        let badge = Badge(KICK_VCPU);
        syscall::delegate_notification(vcpu.kick, DOMAIN, dst, Rights::SIGNAL, badge)
            .purpose("delegating a vCPU's kick")?;
        kicks.push(dst);
    }
    Ok(kicks.leak())
}

/// What vCPUs are created from.
struct World<'a> {
    program: &'a Program,
    environment: &'a MonitorEnvironment,
    vm: &'static Vm,
    guest_space: Selector,
    ends: &'static Ends,
    kicks: &'static [Selector],
}

impl World<'_> {
    /// Creates the vCPUs that belong on `cpu`, and the thread that serves them; fills in their slots.
    fn create_on_cpu(
        &self,
        vcpus: &[VcpuEnvironment],
        cpu: u32,
        slots: &mut [Option<Selector>],
    ) -> Result<(), SetupError> {
        let (mut served, mut portals) = (Vec::new(), Vec::new());
        for (number, vcpu) in vcpus.iter().enumerate() {
            if vcpu.cpu == cpu {
                let (slot, its_portals, vcpu) = self.create_vcpu(number as u32, vcpu)?;
                slots[number] = Some(slot);
                portals.push(its_portals);
                served.push(vcpu);
            }
        }
        let data = Box::leak(Box::new(Handler::new(served)));
        let handler = self
            .program
            .create_handler(cpu, STACK, data, serve)
            .purpose("creating the handler thread")?;
        for (place, portals) in portals.iter().enumerate() {
            portals.create(handler, place as u32).purpose("creating the exit portals")?;
        }
        Ok(())
    }

    fn create_vcpu(
        &self,
        number: u32,
        vcpu: &VcpuEnvironment,
    ) -> Result<(Selector, ExitPortals, Vcpu<Native>), SetupError> {
        let program = self.program;
        let state = program
            .mapper
            .reserve(PAGE_SIZE as u64)
            .ok_or(SetupError::Environment("no address is free for the state page"))?;
        let slot = program.selectors.one();
        let portals = ExitPortals::reserve(program);
        let parameters = VcpuParameters {
            domain: DOMAIN,
            guest_space: self.guest_space,
            cpu: vcpu.cpu,
            host_space: SPACE,
            state,
            portals: portals.base,
        };
        syscall::create_vcpu(DOMAIN, slot, &parameters).purpose("creating a vCPU")?;
        syscall::bind_kick(slot, vcpu.kick).purpose("binding the kick")?;
        let console = &self.environment.console;
        let native = Native {
            console: console.as_ref().and_then(|serial| serial.portal(vcpu.cpu)),
            console_failed: false,
            portals,
            kicks: self.kicks,
            ends: self.ends,
        };
        // SAFETY: the kernel has mapped the state page there; this is the only handle to it.
        let state = unsafe { StatePage::new(state as usize) };
        Ok((slot, portals, Vcpu::new(self.vm, number, state, native)))
    }
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
        syscall::map(chunk.selector, guest_space, program.selectors.one(), &parameters)
            .purpose("mapping the guest's memory for the guest")?;
        chunks.push((GuestPhys(chunk.guest_address), own));
    }
    GuestRam::new(chunks).map_err(SetupError::Layout)
}

fn file(view: &FileView) -> &'static [u8] {
    // SAFETY: the view comes from the environment, which the root task wrote.
    unsafe { view.bytes() }
}
