//! The console server's program: start-up, the handler threads and the main thread's loop.
#![no_std]
#![no_main]

extern crate alloc;

use abi::syscall::TriggerMode;
use abi::{Badge, PAGE_SIZE, Rights, Selector, Status};
use alloc::boxed::Box;
use alloc::vec::Vec;
use console::driver::{self, Driver};
use console::emulated::{Emulated, Ns16550, Pl011, Uart, Wires};
use console::server::{Client, Server, Sleep};
use rt::arch;
use rt::env::{ConsoleEnvironment, Role, UartEnvironment, UartModel, UartRegisters};
use rt::ipc::Message;
use rt::layout::{DOMAIN, SPACE};
use rt::mmio::Mmio;
use rt::program::Program;
use rt::protocol::console::{Request, encode_answer};
use rt::protocol::{Refusal, supervisor};
use rt::syscall::{self, Deadline, LOG_CHUNK, MapParameters};
use rt::thread::Stack;

rt::program!(main);

/// Bits of the main thread's notification.
const UART: u64 = 1 << 0;
const LOG: u64 = 1 << 1;
const CLIENT: u64 = 1 << 2;

/// Ports of a UART.
const PORTS: u64 = 8;
/// Bytes of a handler thread's stack.
const HANDLER_STACK: usize = 16 << 10;

/// A client's connections.
#[derive(Debug)]
struct Lines {
    interrupt: Selector,
    main: Selector,
}

impl Wires for Lines {
    fn interrupt(&self) {
        // The client may be gone; then nobody misses the signal.
        let _ = syscall::signal(self.interrupt);
    }

    fn wake(&self) {
        let _ = syscall::signal(self.main);
    }
}

/// Registers of the machine's UART behind I/O ports.
struct Ports {
    base: u16,
}

impl driver::Registers for Ports {
    fn read(&mut self, register: u16) -> u32 {
        // SAFETY: the root task gave the UART to this program alone.
        unsafe { arch::port_in(self.base.wrapping_add(register)).into() }
    }

    fn write(&mut self, register: u16, value: u32) {
        // SAFETY: as above; a UART does not access memory.
        unsafe { arch::port_out(self.base.wrapping_add(register), value as u8) }
    }
}

/// The same in memory.
struct Memory(Mmio);

impl driver::Registers for Memory {
    fn read(&mut self, register: u16) -> u32 {
        // All of a driver's registers are inside.
        self.0.read(usize::from(register) * 4).unwrap_or(0)
    }

    fn write(&mut self, register: u16, value: u32) {
        let _ = self.0.write(usize::from(register) * 4, value);
    }
}

/// Serves one register access of a monitor.
fn serve(uart: &&'static dyn Uart, message: &mut Message<'_>) {
    let answer = match Request::decode(message.words) {
        Some(Request::Read(register)) => Ok(uart.read(register.index())),
        Some(Request::Write(register, value)) => {
            uart.write(register.index(), value);
            Ok(0)
        }
        None => Err(Refusal::Malformed),
    };
    *message.words = encode_answer(answer);
    message.utcb_words = 0;
}

fn main(program: Program) {
    let program: &'static Program = Box::leak(Box::new(program));
    let Role::ConsoleServer(role) = &program.environment.role else {
        panic!("this is the console server, but the root task wants something else");
    };
    match run(program, role) {
        Ok(never) => match never {},
        Err(status) => panic!("a system call failed: {}", status.name()),
    }
}

fn run(
    program: &'static Program,
    role: &'static ConsoleEnvironment,
) -> Result<core::convert::Infallible, Status> {
    let notification = program.selectors.one();
    syscall::create_notification(DOMAIN, notification)?;
    let badged = |badge| {
        let dst = program.selectors.one();
        let rights = Rights::SIGNAL;
        syscall::delegate_notification(notification, DOMAIN, dst, rights, Badge(badge))?;
        Ok::<Selector, Status>(dst)
    };
    let wake = badged(CLIENT)?;
    let mut clients = Vec::with_capacity(role.clients.len());
    for client in &role.clients {
        let lines = Lines { interrupt: client.signal, main: wake };
        let uart: &'static dyn Uart = match client.model {
            UartModel::Ns16550 => Box::leak(Box::new(Emulated::<Ns16550, _>::new(lines))),
            UartModel::Pl011 => Box::leak(Box::new(Emulated::<Pl011, _>::new(lines))),
        };
        clients.push(Client { name: &client.name, uart });
    }
    // The kernel writes to the UART until here; what it wrote is not read again.
    let mut bytes = [0; LOG_CHUNK];
    let first = syscall::log_read(role.log, true, &mut bytes)?;
    let uart = match &role.uart {
        Some(uart) => open_uart(program, uart, badged(UART)?)?,
        None => None,
    };
    let mut server = Server::new(uart, clients, program.environment.counter_hz);
    server.log(&bytes[..first]);
    syscall::log_bind(role.log, badged(LOG)?)?;
    for (number, client) in (0..).zip(&role.clients) {
        let uart = Box::leak(Box::new(server.uart(number as usize)));
        for &cpu in &client.cpus {
            let stack = Stack::allocate(HANDLER_STACK);
            let entry = rt::handler::prepare(stack, program.utcbs.take(), uart, serve);
            report(supervisor::request(supervisor::Request::Export { client: number, cpu, entry }));
        }
    }
    report(supervisor::request(supervisor::Request::Ready));
    let interrupt = role.uart.as_ref().map(|uart| uart.interrupt);
    let is_level = role
        .uart
        .as_ref()
        .is_some_and(|uart| matches!(uart.registers, UartRegisters::Pl011 { .. }));
    let mut bits = LOG;
    let mut busy = true;
    loop {
        let interrupted = interrupt.filter(|_| bits & UART != 0);
        // An edge must find the line unmasked; a level that has been seen to is low again.
        if let Some(line) = interrupted
            && !is_level
        {
            syscall::acknowledge_interrupt(line)?;
        }
        let log_left = drain_log(role.log, &server)?;
        let sleep = server.work(arch::counter(), interrupted.is_some());
        if let Some(line) = interrupted
            && is_level
        {
            syscall::acknowledge_interrupt(line)?;
        }
        let idle = sleep == Sleep::Forever && !log_left;
        if core::mem::replace(&mut busy, !idle) && idle {
            syscall::signal(role.idle)?;
        }
        let deadline = match sleep {
            Sleep::No => Deadline::POLL,
            _ if log_left => Deadline::POLL,
            Sleep::Until(time) => Deadline(time),
            Sleep::Forever => Deadline::NEVER,
        };
        bits = match syscall::wait(notification, deadline) {
            Ok(bits) => bits,
            Err(Status::Timeout) => 0,
            Err(status) => return Err(status),
        };
    }
}

/// Takes over what the log holds, as far as there is room. Returns whether there may be more.
fn drain_log(log: Selector, server: &Server<'_>) -> Result<bool, Status> {
    let mut bytes = [0; LOG_CHUNK];
    while server.log_room() >= LOG_CHUNK {
        let count = syscall::log_read(log, false, &mut bytes)?;
        if count == 0 {
            return Ok(false);
        }
        server.log(&bytes[..count]);
    }
    Ok(true)
}

fn open_uart(
    program: &Program,
    uart: &UartEnvironment,
    signal: Selector,
) -> Result<Option<Box<dyn Driver>>, Status> {
    let driver: Option<Box<dyn Driver>> = match uart.registers {
        UartRegisters::Ns16550 { ports, base } => {
            let range =
                MapParameters { offset: 0, address: base.into(), size: PORTS, rights: Rights::RW };
            syscall::map(ports, SPACE, program.selectors.one(), &range)?;
            let driver = driver::ns16550::Ns16550::new(Ports { base });
            driver.map(|driver| Box::new(driver) as Box<dyn Driver>)
        }
        UartRegisters::Pl011 { memory } => {
            let (mapper, selectors) = (&program.mapper, &program.selectors);
            let registers = mapper.map_registers(selectors, memory, 0, PAGE_SIZE as u64)?;
            let driver = driver::pl011::Pl011::new(Memory(registers));
            driver.map(|driver| Box::new(driver) as Box<dyn Driver>)
        }
    };
    match driver {
        Some(_) => syscall::bind_interrupt(uart.interrupt, signal, TriggerMode::Default)?,
        None => log::warn!("the UART does not answer: consoles have no output"),
    }
    Ok(driver)
}

fn report(outcome: Result<(), supervisor::RequestError>) {
    if let Err(error) = outcome {
        log::error!("the supervisor refused a request: {error:?}");
    }
}
