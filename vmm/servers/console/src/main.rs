//! The console server's program: start-up, the handler threads and the main thread's loop.
#![no_std]
#![no_main]

extern crate alloc;

use abi::syscall::TriggerMode;
use abi::{Badge, Rights, Selector, Status};
use alloc::boxed::Box;
use alloc::vec::Vec;
use console::driver::{Driver, Ports};
use console::emulated::{EmulatedUart, Wires};
use console::server::{Client, Server, Sleep};
use rt::arch;
use rt::env::{ConsoleEnvironment, Role, UartEnvironment, UartRegisters};
use rt::ipc::Message;
use rt::layout::{DOMAIN, SPACE};
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

/// The machine's UART.
struct UartPorts {
    base: u16,
}

impl Ports for UartPorts {
    fn read(&mut self, register: u8) -> u8 {
        // SAFETY: the root task gave the UART to this program alone.
        unsafe { arch::port_in(self.base.wrapping_add(register.into())) }
    }

    fn write(&mut self, register: u8, value: u8) {
        // SAFETY: as above; a UART does not access memory.
        unsafe { arch::port_out(self.base.wrapping_add(register.into()), value) }
    }
}

/// Serves one register access of a monitor.
fn serve(uart: &EmulatedUart<Lines>, message: &mut Message<'_>) {
    let answer = match Request::decode(message.words) {
        Some(Request::Read(register)) => Ok(uart.read(register.index() as u8).into()),
        Some(Request::Write(register, value)) => {
            uart.write(register.index() as u8, value as u8);
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
        let lines = Lines {
            interrupt: client.signal,
            main: wake,
        };
        let uart: &'static EmulatedUart<Lines> = Box::leak(Box::new(EmulatedUart::new(lines)));
        clients.push(Client {
            name: &client.name,
            uart,
        });
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
        let uart = server.uart(number as usize);
        for &cpu in &client.cpus {
            let stack = Stack::allocate(HANDLER_STACK);
            let entry = rt::handler::prepare(stack, program.utcbs.take(), uart, serve);
            report(supervisor::request(supervisor::Request::Export {
                client: number,
                cpu,
                entry,
            }));
        }
    }
    report(supervisor::request(supervisor::Request::Ready));
    let interrupt = role.uart.as_ref().map(|uart| uart.interrupt);
    let mut bits = LOG;
    let mut busy = true;
    loop {
        if let (true, Some(line)) = (bits & UART != 0, interrupt) {
            // Unmasked before the cause is looked for: an edge in between is not lost.
            syscall::acknowledge_interrupt(line)?;
        }
        let log_left = drain_log(role.log, &server)?;
        let sleep = server.work(arch::counter(), bits & UART != 0);
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
fn drain_log<W: Wires, P: Ports>(log: Selector, server: &Server<'_, W, P>) -> Result<bool, Status> {
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
) -> Result<Option<Driver<UartPorts>>, Status> {
    let UartRegisters::Ns16550 { ports, base } = uart.registers else {
        return Ok(None);
    };
    let range = MapParameters {
        offset: 0,
        address: base.into(),
        size: PORTS,
        rights: Rights::RW,
    };
    syscall::map(ports, SPACE, program.selectors.one(), &range)?;
    let driver = Driver::new(UartPorts { base });
    match driver {
        Some(_) => syscall::bind_interrupt(uart.interrupt, signal, TriggerMode::Default)?,
        None => log::warn!("no UART at {base:#x}: consoles have no output"),
    }
    Ok(driver)
}

fn report(outcome: Result<(), supervisor::RequestError>) {
    if let Err(error) = outcome {
        log::error!("the supervisor refused a request: {error:?}");
    }
}
