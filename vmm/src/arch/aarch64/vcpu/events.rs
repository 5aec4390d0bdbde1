//! Interrupts of a vCPU: what reaches it, and what its list registers hold.
use super::Vcpu;
use crate::arch::aarch64::gic::lists::List;
use crate::arch::aarch64::gic::{Gic, Kicks, SPIS, VIRTUAL_TIMER};
use crate::bits::ones;
use crate::platform::{KICK_VCPU, Platform};
use abi::vcpu::aarch64::{CONTROL_HALT, Groups, LIST_EOI, LIST_REGISTERS, LIST_STATE};
use rt::protocol::supervisor::StopReason;

impl<P: Platform> Vcpu<P> {
    /// A device server or a vCPU has signalled.
    pub(super) fn kick(&mut self, bits: u64) -> Groups {
        self.wide.tick(&mut self.platform);
        let lines = bits & !KICK_VCPU;
        let pulses = |gic: &mut Gic, kicks: &mut Kicks| {
            for spi in ones(lines & (u64::MAX >> (64 - SPIS))) {
                gic.pulse(spi, kicks);
            }
        };
        if self.leaving {
            self.leave();
        }
        if !self.on {
            let mut kicks = Kicks::default();
            pulses(&mut self.vm.gic.lock(), &mut kicks);
            kicks.remove(self.id as usize);
            self.send(kicks);
            return match self.start_if_asked() {
                Some(groups) => groups,
                None => self.park(),
            };
        }
        self.interrupts(pulses)
    }

    /// The virtual timer has fired.
    pub(super) fn virtual_timer(&mut self) -> Groups {
        self.wide.tick(&mut self.platform);
        let vcpu = self.id as usize;
        self.interrupts(|gic, _| gic.pulse_private(vcpu, VIRTUAL_TIMER))
    }

    /// The virtual CPU interface needs more, or the guest has ended an interrupt that somebody waits for.
    pub(super) fn interrupt_controller(&mut self) -> Groups {
        // What asked for it is off, and list registers whose end was reported have to be cleared.
        self.interrupts(|_, _| {}) | self.load_interface()
    }

    /// WFI.
    pub(super) fn halt(&mut self, length: u64) -> Groups {
        self.halted = true;
        self.skip(length) | self.interrupts(|_, _| {})
    }

    /// Takes the interrupts back from the list registers, acts, and fills them again; for exits that save group
    /// `GIC`. A vCPU in WFI goes on if an interrupt waits for it then, or stays halted.
    pub(super) fn interrupts(&mut self, act: impl FnOnce(&mut Gic, &mut Kicks)) -> Groups {
        let vcpu = self.id as usize;
        if !self.on {
            return self.park();
        }
        let (mut old, mut new): (List, List) = ([0; LIST_REGISTERS], [0; LIST_REGISTERS]);
        let mut kicks = Kicks::default();
        let mut gic = self.vm.gic.lock();
        let used = gic.list_registers();
        for (i, value) in old.iter_mut().enumerate().take(used) {
            // What has ended leaves its number behind: as good as empty.
            let content = self.state.list(i);
            if content & (LIST_STATE | LIST_EOI) != 0 {
                *value = content;
            }
        }
        gic.fold(vcpu, &old);
        act(&mut gic, &mut kicks);
        let control = gic.fill(vcpu, &mut new, &mut kicks);
        drop(gic);
        kicks.remove(vcpu);
        self.send(kicks);

        let mut groups = Groups::empty();
        if old != new || control != 0 || self.gic_control != 0 {
            for (i, value) in new.into_iter().enumerate() {
                self.state.set_list(i, value);
            }
            self.gic_control = control;
            groups |= self.load_interface();
        }
        if self.halted {
            self.halted = !Gic::wakes(&new, self.state.vmcr());
        }
        if self.halted {
            self.state.set_controls(CONTROL_HALT);
            groups |= Groups::CONTROLS;
        }
        groups
    }

    /// The end of CPU_OFF: takes the interrupts back, for whoever gets them next.
    fn leave(&mut self) {
        let mut list: List = [0; LIST_REGISTERS];
        for (i, value) in list.iter_mut().enumerate() {
            *value = self.state.list(i);
        }
        self.vm.gic.lock().fold(self.id as usize, &list);
        self.leaving = false;
        self.on = false;
        if self.vm.powers.lock().off(self.id) {
            // Nothing could ever wake it.
            log::warn!("the guest has switched its last vCPU off");
            self.stop(StopReason::PowerOff);
        }
    }

    /// Has the kernel load the virtual CPU interface; for exits that save it.
    fn load_interface(&mut self) -> Groups {
        self.state.set_gic_control(self.gic_control);
        Groups::GIC
    }

    /// Has vCPUs look at their interrupts, this one too: after its exit.
    pub(super) fn send(&mut self, kicks: Kicks) {
        for vcpu in kicks.each() {
            self.platform.kick(vcpu as u32);
        }
    }
}
