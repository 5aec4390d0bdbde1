//! Device servers: how they start, and the handlers that they export.
use super::{Export, Kind, Monitor, Part, Supervisor, cpus};
use crate::draft::Draft;
use crate::root::{Failure, Result, UartAccess, bits};
use abi::boot::{ROOT_INTERRUPTS, ROOT_LOG, ROOT_PORTS};
use abi::{Rights, Selector};
use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;
use image::system::{Server, ServerKind, Uart};
use rt::arch;
use rt::env::{ConsoleClient, ConsoleEnvironment, Role, UartEnvironment, UartModel, UartRegisters};
use rt::handler::Entry;
use rt::syscall::{Cpu, Deadline};

/// How long servers may take until they are ready, in milliseconds.
const READY_MS: u64 = 5000;

impl Supervisor {
    /// The VMs that a server serves.
    fn clients(&self, server: &Server) -> Vec<usize> {
        let vms = self.system.vms.iter().enumerate();
        let theirs = vms.filter(|(_, vm)| vm.console.as_ref() == Some(&server.name));
        theirs.map(|(number, _)| number).collect()
    }

    pub(super) fn start_server(&mut self, number: usize, monitors: &[Option<Monitor>]) {
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
        let cpus: Vec<Cpu> = clients.iter().flat_map(|&vm| cpus(&self.system.vms[vm])).collect();
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
        self.started(name, "console server", compartment.memory.bytes(), compartment.cpu.number());
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
        let uart = self.give_uart(draft, uart)?;
        let log = draft.give(ROOT_LOG, Rights::READ)?;
        let idle = draft.place();
        self.root.delegate_signal(draft.domain(), idle, bits::IDLE)?;
        let mut signals = Vec::new();
        let mut described = Vec::new();
        for &client in clients {
            let vm = &self.system.vms[client];
            let signal = draft.place();
            if let Some(Some(monitor)) = monitors.get(client) {
                super::vms::connect_signal(vm, monitor.kick, draft.domain(), signal)?;
            }
            signals.push(signal);
            described.push(ConsoleClient {
                name: vm.name.to_string(),
                cpus: cpus(vm),
                model: match vm.serial.model {
                    image::system::UartModel::Ns16550 => UartModel::Ns16550,
                    image::system::UartModel::Pl011 => UartModel::Pl011,
                },
                signal,
            });
        }
        Ok((ConsoleEnvironment { uart: Some(uart), log, idle, clients: described }, signals))
    }

    fn give_uart(&mut self, draft: &mut Draft, uart: Uart) -> Result<UartEnvironment> {
        let uart = self.root.uart(uart);
        if uart.line >= self.root.info.interrupts {
            return Err(Failure(format!("there is no interrupt line {}", uart.line)));
        }
        let registers = match UartAccess::of(uart)? {
            UartAccess::Ports(base) => UartRegisters::Ns16550 {
                ports: draft.give_memory(ROOT_PORTS, Rights::RW, base.into(), uart.size())?,
                base,
            },
            UartAccess::Memory(address) => {
                let (memory, offset) = self.root.device(address, uart.size())?;
                let memory = draft.give_memory(memory, Rights::RW, offset, uart.size())?;
                UartRegisters::Pl011 { memory }
            }
        };
        let interrupt = draft.give(ROOT_INTERRUPTS.offset(uart.line), Rights::CONTROL)?;
        Ok(UartEnvironment { registers, interrupt })
    }

    /// Lets servers come up before those start who need them.
    pub(super) fn await_servers(&mut self) {
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

    pub(super) fn export(&mut self, at: usize, client: u32, cpu: Cpu, entry: Entry) -> Result {
        let Kind::Server(server) = self.parts[at].kind else {
            return Err(Failure("it is no server".into()));
        };
        let clients = self.clients(&self.system.servers[server]);
        let vm = clients.get(client as usize).map(|&vm| &self.system.vms[vm]);
        if !vm.is_some_and(|vm| cpus(vm).contains(&cpu)) {
            return Err(Failure(format!("it has no client {client} on CPU {cpu}")));
        }
        let part = &mut self.parts[at];
        if part.exports.iter().any(|export| (export.client, export.cpu) == (client, cpu)) {
            return Err(Failure(format!("client {client} has a handler on CPU {cpu}")));
        }
        let (space, remains) = (part.space, &mut part.remains);
        let portal = Draft::export(&mut self.root, remains, space, cpu, entry, client.into())?;
        part.exports.push(Export { client, cpu, portal });
        Ok(())
    }

    /// The server of a VM's console, and the VM's number there.
    pub(super) fn console_of(&self, vm: usize) -> Option<(&Part, usize)> {
        self.parts.iter().find_map(|part| {
            let Kind::Server(server) = part.kind else {
                return None;
            };
            let clients = self.clients(&self.system.servers[server]);
            Some((part, clients.iter().position(|&client| client == vm)?))
        })
    }
}
