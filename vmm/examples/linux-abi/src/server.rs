//! The personality on the machine.

use crate::arch;
use crate::calls::{self, Outcome, World};
use crate::loader::{self, LoadError};
use crate::output::{Lines, Output};
use crate::process::{Backing, Process, REGIONS};
use abi::syscall::{SpaceKind, ThreadFlags};
use abi::{PAGE_SIZE, Rights, Selector, Status};
use rt::exception::{self, Exception, ExceptionReply};
use rt::ipc::Message;
use rt::shared::SharedMemory;
use rt::syscall::{self, Cpu, MapParameters, ThreadParameters, Time};

/// Selectors that a server needs beside those of what it holds.
pub const SELECTORS: u32 = 5 + REGIONS as u32;
/// Kernel memory of the program's domain, in pages: its space's tables, its thread.
const QUOTA: u64 = 32;
/// Slots of the program's capability table.
const SLOTS: u64 = 4;
/// The one capability in it: the portal that its thread's system calls and exceptions go to.
const CALLS: Selector = Selector(1);
/// Where the page lies that the kernel maps for every thread. Foreign threads do not use theirs.
const UTCB: u64 = abi::USER_END - PAGE_SIZE as u64;

/// What a server holds.
#[derive(Debug)]
pub struct Resources {
    /// Its own domain, which pays for the program's.
    pub domain: Selector,
    /// Its thread that will serve, with the right to control it.
    pub thread: Selector,
    /// The CPU of that.
    pub cpu: Cpu,
    /// Memory for the program, with the rights to read, write and execute.
    pub memory: Selector,
    /// The same, mapped in its own space.
    pub frames: SharedMemory,
    /// The log, with the right to write.
    pub log: Selector,
    /// The first of [`SELECTORS`] empty selectors.
    pub selectors: Selector,
    /// Time that a scheduling context for the program can be made from.
    pub time_source: Selector,
    /// The program's time.
    pub time: Time,
}

/// Why a program does not start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Its file.
    File(LoadError),
    /// The kernel's answer.
    Kernel(Status),
}

impl From<Status> for StartError {
    fn from(status: Status) -> StartError {
        StartError::Kernel(status)
    }
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With this code.
    Exit(i32),
    /// By an exception.
    Exception(Exception),
}

/// Where the program's memory comes from.
#[derive(Debug)]
struct Memory {
    memory: Selector,
    space: Selector,
    mappings: Selector,
}

impl Backing for Memory {
    fn map(
        &mut self,
        number: usize,
        offset: u64,
        address: u64,
        size: u64,
        rights: Rights,
    ) -> Result<(), Status> {
        let parameters = MapParameters { offset, address, size, rights };
        let dst = self.mappings.offset(number as u32);
        let answer = syscall::map(self.memory, self.space, dst, &parameters);
        if answer.is_err() {
            // What was mapped before it failed.
            let _ = syscall::delete(dst);
        }
        answer
    }
}

/// Where its output goes.
#[derive(Debug)]
struct Log(Selector);

impl Lines for Log {
    fn line(&mut self, text: &str) {
        rt::log::line(self.0, "linux", format_args!("{text}"));
    }
}

/// A server whose program runs.
#[derive(Debug)]
pub struct Server {
    domain: Selector,
    process: Process,
    memory: Memory,
    output: Output,
    log: Log,
    calls: u64,
}

impl Server {
    /// Starts the program in `file` with `arguments`, of which the first is its name. It runs, and its calls wait, until the
    /// thread of `resources` serves.
    pub fn start(
        resources: Resources,
        file: &[u8],
        arguments: &[&str],
    ) -> Result<Server, StartError> {
        let domain = resources.selectors;
        syscall::create_domain(resources.domain, domain, QUOTA, SLOTS)?;
        // All that is made here ends with the program's domain.
        Server::start_in(domain, resources, file, arguments).inspect_err(|_| {
            let _ = syscall::delete(domain);
        })
    }

    fn start_in(
        domain: Selector,
        resources: Resources,
        file: &[u8],
        arguments: &[&str],
    ) -> Result<Server, StartError> {
        let [space, portal, thread, sched] = [1, 2, 3, 4].map(|i| domain.offset(i));
        syscall::create_space(domain, space, SpaceKind::Host)?;
        let mut memory = Memory { memory: resources.memory, space, mappings: domain.offset(5) };
        let mut process = Process::new(resources.frames);
        let start =
            loader::load(file, arguments, &mut process, &mut memory).map_err(StartError::File)?;
        syscall::create_portal(domain, portal, resources.thread, 0, 0)?;
        syscall::delegate(portal, domain, CALLS, Rights::CALL)?;
        let parameters = ThreadParameters {
            domain,
            space,
            cpu: resources.cpu,
            utcb: UTCB,
            ip: start.ip,
            sp: start.sp,
            exceptions: CALLS,
            flags: ThreadFlags::FOREIGN,
        };
        syscall::create_thread(domain, thread, &parameters)?;
        syscall::create_sched(domain, sched, resources.time_source, resources.cpu, resources.time)?;
        syscall::bind_sched(sched, thread)?;
        Ok(Server {
            domain,
            process,
            memory,
            output: Output::new(),
            log: Log(resources.log),
            calls: 0,
        })
    }

    /// Answers a system call or exception of the program; says how it has ended, if it has.
    pub fn serve(&mut self, message: &mut Message<'_>) -> Option<End> {
        message.utcb_words = 0;
        let exception = Exception::from_words(message.words);
        let end = if exception.is_system_call() {
            self.calls += 1;
            let (number, arguments) = arch::decode(message.utcb);
            let mut world = World {
                process: &mut self.process,
                backing: &mut self.memory,
                output: &mut self.output,
                lines: &mut self.log,
            };
            match calls::call(number, arguments, &mut world) {
                Outcome::Exit(code) => End::Exit(code),
                outcome => {
                    arch::set_result(message.utcb, outcome.result().unwrap_or_default());
                    exception::resume(message.words, ExceptionReply::SET_GPRS);
                    return None;
                }
            }
        } else {
            End::Exception(exception)
        };
        exception::stop(message.words);
        self.output.finish(&mut self.log);
        Some(end)
    }

    /// System calls that the program has made.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Ends the program and all that it had.
    pub fn destroy(&self) -> syscall::Result {
        syscall::delete(self.domain)
    }
}
