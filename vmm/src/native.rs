//! The vCPU's world on the machine: exits arrive as calls, and what they need is asked for by system calls.
use abi::vcpu::x86_64::Groups;
use abi::vcpu::{EXIT_KINDS, ExitKind};
use abi::{Rights, Selector, Status};
use core::cell::UnsafeCell;
use rt::ipc::Message;
use rt::layout::DOMAIN;
use rt::program::Program;
use rt::protocol::console::{self, Request};
use rt::protocol::supervisor::{self, StopReason};
use rt::{arch, syscall};
use vmm::exits;
use vmm::vcpu::{Platform, Vcpu};

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

    /// Creates the portals, served by `handler`.
    pub fn create(&self, handler: Selector) -> syscall::Result {
        for code in 0..EXIT_KINDS as u8 {
            let kind = ExitKind::from_code(code).ok_or(Status::BadArgument)?;
            let create = |dst, groups: Groups| {
                syscall::create_portal(DOMAIN, dst, handler, code.into(), groups.bits())
            };
            let place = self.base.offset(code.into());
            match self.pairs.iter().find(|pair| pair.kind == kind) {
                None => create(place, exits::saved(kind))?,
                Some(pair) => {
                    create(pair.usual, exits::saved(kind))?;
                    create(pair.wide, exits::widened(kind))?;
                    syscall::delegate(pair.usual, DOMAIN, place, Rights::CALL)?;
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

/// The machine.
pub struct Native {
    /// Portal of the console server, if the VM has a serial port.
    pub console: Option<Selector>,
    /// Whether the console server's failure was reported.
    pub console_failed: bool,
    /// The vCPU's portals.
    pub portals: ExitPortals,
}

impl Platform for Native {
    #[inline(always)]
    fn counter(&self) -> u64 {
        arch::counter()
    }

    fn serial(&mut self, request: Request) -> u8 {
        let Some(portal) = self.console else {
            return 0xff;
        };
        match console::access(portal, request) {
            Ok(value) => value as u8,
            Err(error) => {
                if !core::mem::replace(&mut self.console_failed, true) {
                    log::error!("the console server does not answer: {error:?}");
                }
                0xff
            }
        }
    }

    fn widen(&mut self, kind: ExitKind, wide: bool) {
        if let Err(status) = self.portals.exchange(kind, wide) {
            // The vCPU would run into the same exit for ever.
            panic!(
                "the portal for exits of kind {kind:?} cannot be exchanged: {}",
                status.name()
            );
        }
    }

    fn stopped(&mut self, reason: StopReason) {
        log::info!("the VM stops: {reason}");
        if let Err(error) = supervisor::request(supervisor::Request::VmStopped(reason)) {
            log::error!("the supervisor does not take notice: {error:?}");
        }
    }
}

/// A vCPU in the hands of its handler thread.
pub struct Handler(UnsafeCell<Vcpu<Native>>);

// SAFETY: only `serve` looks inside, which only the vCPU's handler thread runs (see `serve`).
unsafe impl Sync for Handler {}

impl Handler {
    /// The service data of the handler thread of `vcpu`.
    pub fn new(vcpu: Vcpu<Native>) -> Handler {
        Handler(UnsafeCell::new(vcpu))
    }
}

/// Serves the portals of a vCPU's exits.
pub fn serve(handler: &Handler, message: &mut Message<'_>) {
    // SAFETY: `setup` gives each handler to one thread, which serves one message at a time.
    let vcpu = unsafe { &mut *handler.0.get() };
    let groups = vcpu.exit(message.words);
    message.words[0] = groups.bits();
    message.utcb_words = 0;
}
