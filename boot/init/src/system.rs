//! The system: its parts, how they start, and what happens when they end.
use crate::desk::{Event, Exception, ProgramId};
use crate::draft::{Draft, Remains};
use crate::frames::Chunk;
use crate::guest_ram;
use crate::last_resort::LastResort;
use crate::power;
use crate::root::{Doing, Failure, Result, Root, bits};
use abi::boot::{ROOT_INTERRUPTS, ROOT_LOG, ROOT_MEMORY, ROOT_PORTS};
use abi::{Badge, Rights, Selector};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use image::system::{After, Native, Server, ServerKind, System, Uart, Vm};
use rt::arch;
use rt::env::{
    ConsoleClient, ConsoleEnvironment, GuestMemory, MonitorEnvironment, NativeEnvironment,
    PortalOnCpu, Role, SerialEnvironment, UartEnvironment, VcpuEnvironment,
};
use rt::handler::Entry;
use rt::protocol::supervisor::{PANICKED, Request, StopReason};
use rt::syscall::{self, Cpu, Deadline};

/// Alignment of guest RAM, for large pages.
const LARGE: u64 = 2 << 20;
/// How long servers may take until they are ready, in milliseconds.
const READY_MS: u64 = 5000;
/// Times that a VM whose monitor died is started again.
const RESTARTS: u32 = 3;
/// The serial port of a VM.
const SERIAL_PORT: u16 = 0x3f8;
const SERIAL_LINE: u32 = 4;

/// What a part of the system is; the number is its place in the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Server(usize),
    Vm(usize),
    Native(usize),
}

/// A handler that a server exported.
#[derive(Clone, Copy, Debug)]
struct Export {
    client: u32,
    cpu: Cpu,
    portal: Selector,
}

/// A program that runs.
#[derive(Debug)]
struct Part {
    id: ProgramId,
    kind: Kind,
    name: String,
    space: Selector,
    remains: Remains,
    ready: bool,
    exports: Vec<Export>,
    /// Where a server's clients' signals are in its table, by client.
    signals: Vec<Selector>,
    /// When its memory is taken away, for tests.
    fault_at: Option<u64>,
}

/// What the root task knows of a VM beyond its monitor's life.
#[derive(Debug, Default)]
struct VmState {
    ram: Vec<Chunk>,
    crashes: u32,
    stopped: bool,
}

/// The running system.
pub struct Supervisor {
    root: Root,
    system: System,
    parts: Vec<Part>,
    vms: Vec<VmState>,
    natives_stopped: usize,
    last_id: u32,
    last_resort: Option<LastResort>,
}

/// Why a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exit(u64),
    Exception(Exception),
    Stopped(StopReason),
}

/// A VM's monitor before it runs.
struct Monitor {
    draft: Draft,
    vcpus: Vec<VcpuEnvironment>,
    /// The first vCPU's kick, as the root task holds it.
    kick: Selector,
}

impl Supervisor {
    /// A supervisor of nothing yet.
    pub fn new(root: Root) -> Supervisor {
        let system = root.bundle.system().clone();
        let vms = system.vms.iter().map(|_| VmState::default()).collect();
        Supervisor {
            root,
            system,
            parts: Vec::new(),
            vms,
            natives_stopped: 0,
            last_id: 0,
            last_resort: None,
        }
    }

    fn next_id(&mut self) -> ProgramId {
        self.last_id += 1;
        ProgramId(self.last_id)
    }

    /// Builds the system, and supervises it until it ends.
    pub fn run(mut self) -> ! {
        self.take_guest_ram();
        let mut monitors: Vec<Option<Monitor>> = Vec::new();
        for vm in 0..self.vms.len() {
            let monitor = if self.vms[vm].stopped {
                None
            } else {
                self.draft_vm(vm)
            };
            monitors.push(monitor);
        }
        for server in 0..self.system.servers.len() {
            self.start_server(server, &monitors);
        }
        self.await_servers();
        for (vm, monitor) in monitors.into_iter().enumerate() {
            if let Some(monitor) = monitor {
                self.start_vm(vm, monitor);
            }
        }
        for native in 0..self.system.natives.len() {
            self.start_native(native);
        }
        while !self.is_over() {
            self.step(Deadline::NEVER);
        }
        let consoles = self
            .parts
            .iter()
            .filter(|p| matches!(p.kind, Kind::Server(_)))
            .count();
        let last_resort = self.last_resort;
        power::off(&mut self.root, consoles, || {
            if let Some(last_resort) = last_resort {
                last_resort.drain();
            }
        })
    }

    /// Whether all VMs have stopped, or, in a system without VMs, all native programs.
    fn is_over(&self) -> bool {
        if self.vms.is_empty() {
            self.natives_stopped == self.system.natives.len()
        } else {
            self.vms.iter().all(|vm| vm.stopped)
        }
    }

    /// RAM at fixed addresses first, then the rest.
    fn take_guest_ram(&mut self) {
        for fixed in [true, false] {
            for (vm, state) in self.system.vms.iter().zip(&mut self.vms) {
                if vm.memory_at.is_some() != fixed {
                    continue;
                }
                let size = vm.memory.bytes();
                let chunks = match vm.memory_at {
                    Some(at) => self
                        .root
                        .frames
                        .take_at(at.raw(), size)
                        .map(|c| Vec::from([c])),
                    None => self.root.frames.take_pieces(size, LARGE),
                };
                match chunks {
                    Some(chunks) => state.ram = chunks,
                    None => {
                        let left = self.root.frames.available() >> 20;
                        let size = size >> 20;
                        log::error!(
                            "{} cannot have its {size} MiB of RAM: {left} MiB are left",
                            vm.name
                        );
                        state.stopped = true;
                    }
                }
            }
        }
    }

    /// One round: what arrived, or what is due.
    fn step(&mut self, deadline: Deadline) {
        let due = self.parts.iter().filter_map(|part| part.fault_at).min();
        let until = due.map_or(deadline, |due| deadline.min(Deadline(due)));
        let happened = self.root.wait(until);
        if happened & bits::DESK != 0 {
            for (program, event) in self.root.desk.take() {
                self.handle(program, event);
            }
        }
        let now = arch::counter();
        for part in &mut self.parts {
            if part.fault_at.is_some_and(|at| at <= now) {
                part.fault_at = None;
                log::info!("{}: its memory is taken away, for a test", part.name);
                for &mapping in &part.remains.code {
                    let _ = syscall::delete(mapping);
                }
            }
        }
        if let Some(last_resort) = &self.last_resort {
            last_resort.drain();
        }
    }

    fn handle(&mut self, program: ProgramId, event: Event) {
        // A program that has ended may have left messages.
        let Some(at) = self.parts.iter().position(|part| part.id == program) else {
            return;
        };
        match event {
            Event::Request(Request::Ready) => self.parts[at].ready = true,
            Event::Request(Request::Export { client, cpu, entry }) => {
                if let Err(failure) = self.export(at, client, cpu, entry) {
                    log::error!("{}: export refused: {failure}", self.parts[at].name);
                }
            }
            Event::Request(Request::Exit(code)) => self.end(at, End::Exit(code)),
            Event::Request(Request::VmStopped(reason)) => match self.parts[at].kind {
                Kind::Vm(_) => self.end(at, End::Stopped(reason)),
                _ => log::error!("{}: it has no VM that could stop", self.parts[at].name),
            },
            Event::Exception(exception) => self.end(at, End::Exception(exception)),
        }
    }

    fn started(&self, name: &str, what: &str, bytes: u64, cpu: Cpu) {
        if bytes >= 1 << 20 {
            log::info!("started {name} ({what}, {} MiB, cpu {cpu})", bytes >> 20);
        } else {
            log::info!("started {name} ({what}, {} KiB, cpu {cpu})", bytes >> 10);
        }
    }

    fn add(&mut self, part: Part, fault_after_ms: Option<u32>) {
        let fault_at =
            fault_after_ms.map(|ms| arch::counter().saturating_add(self.root.ticks(ms.into())));
        self.parts.push(Part { fault_at, ..part });
    }
}

/// Device servers.
impl Supervisor {
    /// The VMs that a server serves.
    fn clients(&self, server: &Server) -> Vec<usize> {
        let vms = self.system.vms.iter().enumerate();
        let theirs = vms.filter(|(_, vm)| vm.console.as_ref() == Some(&server.name));
        theirs.map(|(number, _)| number).collect()
    }

    fn start_server(&mut self, number: usize, monitors: &[Option<Monitor>]) {
        let server = self.system.servers[number].clone();
        if let Err(failure) = self.try_start_server(number, &server, monitors) {
            log::error!("{} does not start: {failure}", server.name);
        }
    }

    fn try_start_server(
        &mut self,
        number: usize,
        server: &Server,
        monitors: &[Option<Monitor>],
    ) -> Result {
        let ServerKind::Console { uart } = server.kind;
        let clients = self.clients(server);
        let cpus: Vec<Cpu> = clients
            .iter()
            .flat_map(|&vm| cpus(&self.system.vms[vm]))
            .collect();
        let id = self.next_id();
        let name = server.name.as_str();
        let mut draft = Draft::new(&mut self.root, id, name, &server.compartment, &cpus)?;
        let role = self.console_role(&mut draft, uart, &clients, monitors);
        let (role, signals) = match role {
            Ok(role) => role,
            Err(failure) => {
                draft.abandon(&mut self.root);
                return Err(failure);
            }
        };
        let space = draft.space();
        let remains = draft.start(&mut self.root, Role::ConsoleServer(role))?;
        let compartment = &server.compartment;
        self.started(
            name,
            "console server",
            compartment.memory.bytes(),
            compartment.cpu.number(),
        );
        let part = Part {
            id,
            kind: Kind::Server(number),
            name: name.into(),
            space,
            remains,
            ready: false,
            exports: Vec::new(),
            signals,
            fault_at: None,
        };
        self.add(part, compartment.fault_after_ms);
        Ok(())
    }

    fn console_role(
        &mut self,
        draft: &mut Draft,
        uart: Uart,
        clients: &[usize],
        monitors: &[Option<Monitor>],
    ) -> Result<(ConsoleEnvironment, Vec<Selector>)> {
        let (port, count) = (u64::from(uart.port), u64::from(Uart::PORTS));
        let ports = draft.give_memory(ROOT_PORTS, Rights::RW, port, count)?;
        let interrupt = draft.give(ROOT_INTERRUPTS.offset(uart.gsi), Rights::CONTROL)?;
        let log = draft.give(ROOT_LOG, Rights::READ)?;
        let idle = draft.place();
        self.root
            .delegate_signal(draft.domain(), idle, bits::IDLE)?;
        let mut signals = Vec::new();
        let mut described = Vec::new();
        for &client in clients {
            let vm = &self.system.vms[client];
            let signal = draft.place();
            if let Some(Some(monitor)) = monitors.get(client) {
                connect_signal(monitor.kick, draft.domain(), signal)?;
            }
            signals.push(signal);
            described.push(ConsoleClient {
                name: vm.name.to_string(),
                cpus: cpus(vm),
                signal,
            });
        }
        let uart = UartEnvironment {
            ports,
            base: uart.port,
            interrupt,
        };
        Ok((
            ConsoleEnvironment {
                uart: Some(uart),
                log,
                idle,
                clients: described,
            },
            signals,
        ))
    }

    /// Lets servers come up before those start who need them.
    fn await_servers(&mut self) {
        let deadline = Deadline::after(self.root.ticks(READY_MS));
        while self.parts.iter().any(|part| !part.ready) {
            if arch::counter() >= deadline.0 {
                for part in self.parts.iter().filter(|part| !part.ready) {
                    log::error!("{} is not ready after {READY_MS} ms", part.name);
                }
                return;
            }
            self.step(deadline);
        }
    }

    fn export(&mut self, at: usize, client: u32, cpu: Cpu, entry: Entry) -> Result {
        let Kind::Server(server) = self.parts[at].kind else {
            return Err(Failure("it is no server".into()));
        };
        let clients = self.clients(&self.system.servers[server]);
        let vm = clients.get(client as usize).map(|&vm| &self.system.vms[vm]);
        if !vm.is_some_and(|vm| cpus(vm).contains(&cpu)) {
            return Err(Failure(format!("it has no client {client} on CPU {cpu}")));
        }
        let part = &mut self.parts[at];
        if part
            .exports
            .iter()
            .any(|export| (export.client, export.cpu) == (client, cpu))
        {
            return Err(Failure(format!(
                "client {client} has a handler on CPU {cpu}"
            )));
        }
        let (space, remains) = (part.space, &mut part.remains);
        let portal = Draft::export(&mut self.root, remains, space, cpu, entry, client.into())?;
        part.exports.push(Export {
            client,
            cpu,
            portal,
        });
        Ok(())
    }

    /// The server of a VM's console, and the VM's number there.
    fn console_of(&self, vm: usize) -> Option<(&Part, usize)> {
        self.parts.iter().find_map(|part| {
            let Kind::Server(server) = part.kind else {
                return None;
            };
            let clients = self.clients(&self.system.servers[server]);
            Some((part, clients.iter().position(|&client| client == vm)?))
        })
    }
}

/// VMs.
impl Supervisor {
    fn draft_vm(&mut self, number: usize) -> Option<Monitor> {
        let vm = self.system.vms[number].clone();
        let id = self.next_id();
        let cpus = cpus(&vm);
        let drafted = Draft::new(&mut self.root, id, vm.name.as_str(), &vm.monitor, &cpus);
        let drafted = drafted.and_then(|mut draft| match self.make_vcpus(&mut draft, &vm) {
            Ok((vcpus, kick)) => Ok(Monitor { draft, vcpus, kick }),
            Err(failure) => {
                draft.abandon(&mut self.root);
                Err(failure)
            }
        });
        drafted
            .map_err(|failure| self.vm_failed(number, &failure))
            .ok()
    }

    fn vm_failed(&mut self, number: usize, failure: &Failure) {
        log::error!("{} does not start: {failure}", self.system.vms[number].name);
        self.vms[number].stopped = true;
    }

    fn make_vcpus(
        &mut self,
        draft: &mut Draft,
        vm: &Vm,
    ) -> Result<(Vec<VcpuEnvironment>, Selector)> {
        let mut vcpus = Vec::new();
        let mut first = Selector::NULL;
        for cpu in vm.vcpus.as_slice() {
            let cpu = cpu.number();
            let sched = draft.make_sched(&mut self.root, cpu)?;
            let sched = draft.give(sched, Rights::CONTROL)?;
            let (own, kick) = draft.make_notification(&mut self.root)?;
            if vcpus.is_empty() {
                first = own;
            }
            vcpus.push(VcpuEnvironment { cpu, sched, kick });
        }
        Ok((vcpus, first))
    }

    fn start_vm(&mut self, number: usize, monitor: Monitor) {
        let vm = self.system.vms[number].clone();
        let Monitor {
            mut draft, vcpus, ..
        } = monitor;
        let role = match self.monitor_role(number, &vm, &mut draft, vcpus) {
            Ok(role) => role,
            Err(failure) => {
                draft.abandon(&mut self.root);
                return self.vm_failed(number, &failure);
            }
        };
        let (id, space) = (draft.id, draft.space());
        let remains = match draft.start(&mut self.root, Role::Monitor(role)) {
            Ok(remains) => remains,
            Err(failure) => return self.vm_failed(number, &failure),
        };
        self.started(
            vm.name.as_str(),
            "VM",
            vm.memory.bytes(),
            vm.monitor.cpu.number(),
        );
        let part = Part {
            id,
            kind: Kind::Vm(number),
            name: vm.name.to_string(),
            space,
            remains,
            ready: true,
            exports: Vec::new(),
            signals: Vec::new(),
            fault_at: None,
        };
        self.add(part, vm.monitor.fault_after_ms);
    }

    fn monitor_role(
        &mut self,
        number: usize,
        vm: &Vm,
        draft: &mut Draft,
        vcpus: Vec<VcpuEnvironment>,
    ) -> Result<MonitorEnvironment> {
        let mut memory = Vec::new();
        for part in guest_ram::lay_out(&self.vms[number].ram) {
            let (chunk, guest_address) = (part.chunk, part.guest_address);
            let ram = ROOT_MEMORY.offset(chunk.region);
            let rights = Rights::RW | Rights::EXEC;
            let selector = draft.give_memory(ram, rights, chunk.offset, chunk.size)?;
            memory.push(GuestMemory {
                selector,
                guest_address,
                size: chunk.size,
            });
        }
        let kernel = draft.map_file(&mut self.root, &vm.kernel)?;
        let initrd = match &vm.initrd {
            Some(initrd) => Some(draft.map_file(&mut self.root, initrd)?),
            None => None,
        };
        let mut portals = Vec::new();
        if let Some((server, client)) = self.console_of(number) {
            for export in server
                .exports
                .iter()
                .filter(|e| e.client as usize == client)
            {
                let portal = draft.give(export.portal, Rights::CALL)?;
                portals.push(PortalOnCpu {
                    cpu: export.cpu,
                    portal,
                });
            }
        }
        let console = (!portals.is_empty()).then_some(SerialEnvironment {
            portals,
            port_base: SERIAL_PORT,
            line: SERIAL_LINE,
        });
        Ok(MonitorEnvironment {
            memory,
            kernel,
            initrd,
            cmdline: vm.cmdline.as_str().into(),
            vcpus,
            console,
            virtualization: self.root.info.virtualization,
            xcr0_mask: self.root.info.xcr0_mask,
        })
    }

    /// Starts a VM again that has run before.
    fn restart_vm(&mut self, number: usize) {
        let Some(monitor) = self.draft_vm(number) else {
            return;
        };
        if let Some((server, client)) = self.console_of(number)
            && let (Some(domain), Some(&signal)) =
                (server.remains.domain, server.signals.get(client))
            && let Err(failure) = connect_signal(monitor.kick, domain, signal)
        {
            log::error!("{}: no console: {failure}", self.system.vms[number].name);
        }
        self.start_vm(number, monitor);
    }
}

/// Native programs.
impl Supervisor {
    fn start_native(&mut self, number: usize) {
        let native = self.system.natives[number].clone();
        if let Err(failure) = self.try_start_native(number, &native) {
            log::error!("{} does not start: {failure}", native.name);
            self.natives_stopped += 1;
        }
    }

    fn try_start_native(&mut self, number: usize, native: &Native) -> Result {
        let id = self.next_id();
        let name = native.name.as_str();
        let compartment = &native.compartment;
        let draft = Draft::new(&mut self.root, id, name, compartment, &[])?;
        let args = native
            .args
            .as_str()
            .split_whitespace()
            .map(String::from)
            .collect();
        let space = draft.space();
        let role = Role::Native(NativeEnvironment { args });
        let remains = draft.start(&mut self.root, role)?;
        self.started(
            name,
            "program",
            compartment.memory.bytes(),
            compartment.cpu.number(),
        );
        let part = Part {
            id,
            kind: Kind::Native(number),
            name: name.into(),
            space,
            remains,
            ready: true,
            exports: Vec::new(),
            signals: Vec::new(),
            fault_at: None,
        };
        self.add(part, compartment.fault_after_ms);
        Ok(())
    }
}

/// Ends.
impl Supervisor {
    fn end(&mut self, at: usize, end: End) {
        let mut part = self.parts.swap_remove(at);
        let name = &part.name;
        let whose = if matches!(part.kind, Kind::Vm(_)) {
            "its monitor"
        } else {
            "it"
        };
        match end {
            End::Exit(0) => log::info!("{name}: {whose} ended"),
            End::Exit(PANICKED) => log::error!("{name}: {whose} panicked"),
            End::Exit(code) => log::error!("{name}: {whose} ended with code {code}"),
            End::Stopped(reason) => log::info!("{name}: {reason}"),
            End::Exception(e) => log::error!(
                "{name}: {whose} died: {} at {:#x}, address {:#x}, error {:#x}",
                exception_name(e.vector),
                e.ip,
                e.address,
                e.error
            ),
        }
        part.remains.destroy(&mut self.root);
        match part.kind {
            Kind::Server(server) => {
                let ServerKind::Console { uart } = self.system.servers[server].kind;
                match LastResort::new(&mut self.root, uart) {
                    Ok(last_resort) => self.last_resort = Some(last_resort),
                    Err(failure) => log::error!("{failure}"),
                }
            }
            Kind::Vm(vm) => self.vm_ended(vm, end),
            Kind::Native(_) => self.natives_stopped += 1,
        }
    }

    fn vm_ended(&mut self, number: usize, end: End) {
        let vm = &self.system.vms[number];
        let state = &mut self.vms[number];
        let again = match end {
            End::Stopped(StopReason::PowerOff | StopReason::GuestPanic) => false,
            End::Stopped(StopReason::Reset | StopReason::TripleFault) => {
                vm.on_reset == After::Restart
            }
            End::Stopped(StopReason::MonitorError) | End::Exit(_) | End::Exception(_) => {
                state.crashes += 1;
                vm.on_crash == After::Restart && state.crashes <= RESTARTS
            }
        };
        if again {
            log::info!("{}: starting again", vm.name);
            self.restart_vm(number);
        } else {
            state.stopped = true;
            state
                .ram
                .drain(..)
                .for_each(|chunk| self.root.frames.give_back(chunk));
        }
    }
}

/// The CPUs of a VM's vCPUs, each once.
fn cpus(vm: &Vm) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = vm.vcpus.as_slice().iter().map(|cpu| cpu.number()).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// Gives a console server the means to raise the serial port's interrupt line of a VM.
fn connect_signal(kick: Selector, domain: Selector, dst: Selector) -> Result {
    let badge = Badge(1 << SERIAL_LINE);
    syscall::delegate_notification(kick, domain, dst, Rights::SIGNAL, badge)
        .doing("delegate a notification")
}

fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "division error",
        1 => "debug exception",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound exceeded",
        6 => "invalid opcode",
        7 => "no vector unit",
        12 => "stack fault",
        13 => "general protection fault",
        14 => "page fault",
        16 | 19 => "floating-point error",
        17 => "alignment error",
        _ => "exception",
    }
}
