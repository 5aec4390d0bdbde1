//! The vCPUs' world on the machine: exits arrive as calls, and what they need is asked for by system calls.
use crate::arch::current::exits;
use crate::arch::current::vcpu::Vcpu;
use crate::arch::current::vm::Vm;
use crate::platform::Platform;
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Rights, Selector, Status};
use alloc::vec::Vec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU64, Ordering};
use rt::ipc::Message;
use rt::layout::DOMAIN;
use rt::program::Program;
use rt::protocol::console::{self, Register, Request};
use rt::protocol::supervisor::{self, StopReason};
use rt::syscall::Deadline;
use rt::{arch, syscall};

/// Portals of a kind of exit that can be widened.
#[derive(Clone, Copy)]
struct Pair {
    kind: ExitKind,
    usual: Selector,
    wide: Selector,
}

/// The portals of a vCPU's exits.
#[derive(Clone, Copy)]
pub struct ExitPortals {
    /// Where the kernel looks for the portal of kind 0.
    pub base: Selector,
    pairs: [Pair; exits::WIDENED.len()],
}

impl ExitPortals {
    /// Takes selectors for the portals.
    pub fn reserve(program: &Program) -> ExitPortals {
        ExitPortals {
            base: program.selectors.several(EXIT_KINDS),
            pairs: exits::WIDENED.map(|kind| Pair {
                kind,
                usual: program.selectors.one(),
                wide: program.selectors.one(),
            }),
        }
    }

    /// Creates the portals, served by `handler` as its vCPU number `place`.
    pub fn create(&self, handler: Selector, place: u32) -> syscall::Result {
        for code in 0..EXIT_KINDS as u8 {
            let kind = ExitKind::from_code(code).ok_or(Status::BadArgument)?;
            let create = |dst, groups: u64| {
                syscall::create_portal(DOMAIN, dst, handler, place.into(), groups)
            };
            let slot = self.base.offset(code.into());
            match self.pairs.iter().find(|pair| pair.kind == kind) {
                None => create(slot, exits::saved(kind).bits())?,
                Some(pair) => {
                    create(pair.usual, exits::saved(kind).bits())?;
                    create(pair.wide, exits::widened(kind).bits())?;
                    syscall::delegate(pair.usual, DOMAIN, slot, Rights::CALL)?;
                }
            }
        }
        Ok(())
    }

    fn exchange(&self, kind: ExitKind, wide: bool) -> syscall::Result {
        let Some(pair) = self.pairs.iter().find(|pair| pair.kind == kind) else {
            return Err(Status::BadArgument);
        };
        let place = self.base.offset(kind as u32);
        syscall::delete(place)?;
        let portal = if wide { pair.wide } else { pair.usual };
        syscall::delegate(portal, DOMAIN, place, Rights::CALL)
    }
}

/// How a vCPU's end reaches the supervisor, which only the main thread can call: from the CPU where it runs.
#[derive(Debug)]
pub struct Ends {
    notification: Selector,
    /// Code of the first reason plus 1; 0: the VM runs.
    reason: AtomicU64,
}

impl Ends {
    /// A VM that runs; `notification` wakes the main thread.
    pub fn new(notification: Selector) -> Ends {
        Ends { notification, reason: AtomicU64::new(0) }
    }

    fn end(&self, reason: StopReason) {
        // The first vCPU that stops says why.
        let _ =
            self.reason.compare_exchange(0, reason as u64 + 1, Ordering::AcqRel, Ordering::Acquire);
        if let Err(status) = syscall::signal(self.notification) {
            log::error!("the main thread cannot be woken: {}", status.name());
        }
    }
}

/// The main thread's work: tells the supervisor when the VM has ended.
pub fn supervise(ends: &Ends) -> ! {
    loop {
        if syscall::wait(ends.notification, Deadline::NEVER).is_err() {
            panic!("the main thread cannot wait");
        }
        let code = ends.reason.load(Ordering::Acquire);
        let Some(reason) = code.checked_sub(1).and_then(StopReason::from_code) else {
            continue;
        };
        log::info!("the VM stops: {reason}");
        match supervisor::request(supervisor::Request::VmStopped(reason)) {
            Ok(()) => await_end(ends.notification),
            Err(error) => log::error!("the supervisor does not take notice: {error:?}"),
        }
    }
}

/// Leaves the rest to the supervisor, which takes this program away piece by piece: the notification may be gone before
/// the thread that waits for it.
fn await_end(notification: Selector) -> ! {
    loop {
        let _ = syscall::wait(notification, Deadline::NEVER);
    }
}

/// The machine, as one vCPU reaches it.
pub struct Native {
    /// Portal of the console server, if the VM has a serial port.
    pub console: Option<Selector>,
    /// Whether the console server's failure was reported.
    pub console_failed: bool,
    /// The vCPU's portals.
    pub portals: ExitPortals,
    /// Kicks of the VM's vCPUs, in their order.
    pub kicks: &'static [Selector],
    /// Where the VM's end is reported.
    pub ends: &'static Ends,
}

impl Native {
    /// Makes a request of the console server; what it answers to a write is meaningless.
    fn serial(&mut self, request: impl FnOnce(Register) -> Request, register: u32) -> u32 {
        let (Some(portal), Some(register)) = (self.console, Register::new(register.into())) else {
            return u32::MAX;
        };
        match console::access(portal, request(register)) {
            Ok(value) => value,
            Err(error) => {
                if !core::mem::replace(&mut self.console_failed, true) {
                    log::error!("the console server does not answer: {error:?}");
                }
                u32::MAX
            }
        }
    }
}

impl Platform for Native {
    #[inline(always)]
    fn counter(&self) -> u64 {
        arch::counter()
    }

    fn serial_read(&mut self, register: u32) -> u32 {
        self.serial(Request::Read, register)
    }

    fn serial_write(&mut self, register: u32, value: u32) {
        self.serial(|register| Request::Write(register, value), register);
    }

    fn widen(&mut self, kind: ExitKind, wide: bool) {
        if let Err(status) = self.portals.exchange(kind, wide) {
            // The vCPU would run into the same exit for ever.
            panic!("the portal for exits of kind {kind:?} cannot be exchanged: {}", status.name());
        }
    }

    fn give_way(&mut self) {
        syscall::yield_turn();
    }

    fn kick(&mut self, vcpu: u32) {
        let Some(&kick) = self.kicks.get(vcpu as usize) else {
            return;
        };
        if let Err(status) = syscall::signal(kick) {
            // An interrupt of the guest would be late for ever.
            panic!("vCPU {vcpu} cannot be kicked: {}", status.name());
        }
    }

    fn stopped(&mut self, reason: StopReason) {
        self.ends.end(reason);
    }
}

/// The VM's vCPUs on one CPU, in the hands of their handler thread. They share it: a handler that spins on a lock of
/// the VM never waits for a thread of its own CPU.
pub struct Handler(UnsafeCell<Vec<Vcpu<Native>>>);

// SAFETY: only `serve` looks inside, which only the vCPUs' handler thread runs (see `serve`).
unsafe impl Sync for Handler {}

// The handler threads of a VM's CPUs share it.
const _: fn() = || {
    fn shared<T: Sync>() {}
    shared::<Vm>();
};

impl Handler {
    /// The service data of the handler thread of `vcpus`.
    pub fn new(vcpus: Vec<Vcpu<Native>>) -> Handler {
        Handler(UnsafeCell::new(vcpus))
    }
}

/// Serves the portals of the vCPUs' exits.
pub fn serve(handler: &Handler, message: &mut Message<'_>) {
    // SAFETY: `setup` gives each handler to one thread, which serves one message at a time.
    let vcpus = unsafe { &mut *handler.0.get() };
    let Some(vcpu) = vcpus.get_mut(message.identity as usize) else {
        unreachable!("a portal of no vCPU");
    };
    let groups = vcpu.exit(message.words);
    message.words[0] = groups.bits();
    message.utcb_words = 0;
}
