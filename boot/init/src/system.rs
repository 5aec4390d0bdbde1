//! The system: its parts, how they start, and what happens when they end.
use crate::desk::{Event, Exception, ProgramId};
use crate::draft::{Draft, Remains};
use crate::frames::Chunk;
use crate::last_resort::LastResort;
use crate::power;
use crate::root::{Root, bits};
use abi::Selector;
use abi::boot::ROOT_LOG;
use alloc::string::String;
use alloc::vec::Vec;
use image::system::{System, Vm};
use rt::arch;
use rt::env::VcpuEnvironment;
use rt::protocol::supervisor::{Request, StopReason};
use rt::syscall::{self, Cpu, Deadline};

mod ends;
mod natives;
mod servers;
mod vms;

/// How long others have the CPU between two portions of a log that fills all the time, in milliseconds.
const LOG_PAUSE_MS: u64 = 30;
/// Portions of the log that are written at the end of the system.
const LAST_PORTIONS: u32 = 1024;

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
    /// The log may hold more for it.
    log_left: bool,
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
            log_left: false,
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
            let monitor = if self.vms[vm].stopped { None } else { self.draft_vm(vm) };
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
        if self.is_over() && self.vms.len() + self.system.natives.len() > 0 {
            // In the words that the `bulkhead` command looks for.
            let cause = format_args!("panic: nothing of the system could be started");
            rt::log::line(ROOT_LOG, "bulkhead", cause);
        }
        while !self.is_over() {
            self.step(Deadline::NEVER);
        }
        let consoles = self.parts.iter().filter(|p| matches!(p.kind, Kind::Server(_))).count();
        let last_resort = self.last_resort;
        power::off(&mut self.root, consoles, || {
            if let Some(last_resort) = last_resort {
                (0..LAST_PORTIONS).any(|_| !last_resort.drain());
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

    /// One round: what arrived, or what is due.
    fn step(&mut self, deadline: Deadline) {
        let due = self.parts.iter().filter_map(|part| part.fault_at).min();
        let mut until = due.map_or(deadline, |due| deadline.min(Deadline(due)));
        if self.log_left {
            until = until.min(Deadline::after(self.root.ticks(LOG_PAUSE_MS)));
        }
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
        self.log_left = self.last_resort.as_ref().is_some_and(LastResort::drain);
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

/// The CPUs of a VM's vCPUs, each once.
fn cpus(vm: &Vm) -> Vec<Cpu> {
    let mut cpus: Vec<Cpu> = vm.vcpus.as_slice().iter().map(|cpu| cpu.number()).collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}
