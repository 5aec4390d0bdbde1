//! What happens when a program or a VM ends.
use super::{End, Kind, Supervisor};
use crate::arch::exception_name;
use crate::last_resort::LastResort;
use image::system::{After, ServerKind};
use rt::protocol::supervisor::{PANICKED, StopReason};

/// Times that a VM whose monitor died is started again.
const RESTARTS: u32 = 3;

impl Supervisor {
    pub(super) fn end(&mut self, at: usize, end: End) {
        let mut part = self.parts.swap_remove(at);
        let name = &part.name;
        let whose = if matches!(part.kind, Kind::Vm(_)) { "its monitor" } else { "it" };
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
                    Ok(last_resort) => {
                        self.last_resort = Some(last_resort);
                        self.log_left = true;
                    }
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
            state.ram.drain(..).for_each(|chunk| self.root.frames.give_back(chunk));
        }
    }
}
