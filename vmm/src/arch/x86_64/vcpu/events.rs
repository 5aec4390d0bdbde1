//! Interrupts of a vCPU: what reaches its local APIC, and when the guest takes it.
use super::{Platform, Vcpu};
use crate::arch::x86_64::apic::io::PINS;
use crate::arch::x86_64::apic::local::{Effect, LocalApic};
use crate::arch::x86_64::apic::message::{Delivery, Message};
use crate::arch::x86_64::vm::Vm;
use crate::bits::ones;
use crate::memory::GuestPhys;
use crate::platform::KICK_VCPU;
use abi::vcpu::x86_64::{
    CONTROL_HALT, EVENT_INTERRUPT, EVENT_NMI, EVENT_SOFTWARE, EVENT_TYPE, EVENT_VALID, Groups,
    SHADOW_INTERRUPT, SHADOW_NMI,
};

/// RFLAGS.IF.
const INTERRUPTS_ON: u64 = 1 << 9;
/// MSR of PV EOI: enabled.
pub(super) const PV_EOI_ENABLED: u64 = 1 << 0;

/// The interrupt controllers, as a vCPU reaches them.
pub(super) struct Lines<'a, P> {
    pub vm: &'a Vm,
    pub id: u32,
    pub platform: &'a mut P,
    pub apic: &'a mut LocalApic,
    pub nmi_pending: &'a mut bool,
}

impl<P: Platform> Lines<'_, P> {
    /// Carries out what a write to the local APIC asks for.
    #[inline]
    pub fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None | Effect::Interrupts | Effect::Timer => {}
            Effect::EndOfLevel(vector) => self.end_of_level(vector),
            Effect::Send(message) => self.send(message, true),
        }
    }

    /// Tells the other vCPUs how the local APIC is addressed.
    pub fn publish(&self) {
        self.vm.mailbox(self.id).publish(self.apic.address());
    }

    #[cold]
    fn end_of_level(&mut self, vector: u8) {
        // Several pins may share the vector.
        let mut messages = [None; PINS];
        let mut count = 0;
        self.vm.io_apic.lock().end_of_interrupt(vector, |message| {
            if let Some(slot) = messages.get_mut(count) {
                *slot = Some(message);
                count += 1;
            }
        });
        for message in messages.into_iter().flatten() {
            self.send(message, false);
        }
    }

    /// A rising edge of a line of the I/O APIC.
    fn pulse(&mut self, pin: usize) {
        let mut message = None;
        self.vm.io_apic.lock().pulse(pin, |m| message = Some(m));
        if let Some(message) = message {
            self.send(message, false);
        }
    }

    /// Writes a register of the I/O APIC.
    pub fn write_io_apic(&mut self, offset: u64, value: u32) {
        let mut message = None;
        self.vm.io_apic.lock().write(offset, value, |m| message = Some(m));
        if let Some(message) = message {
            self.send(message, false);
        }
    }

    /// Brings an interrupt message to whom it is for. `own`: the local APIC is its sender.
    fn send(&mut self, message: Message, own: bool) {
        let sender = own.then_some(self.id);
        for target in ones(self.vm.destinations(&message, sender).into()) {
            if target == self.id && self.take(&message) {
                continue;
            }
            if self.vm.mailbox(target).post(message) {
                self.platform.kick(target);
            }
        }
    }

    /// Takes a message for this vCPU. Returns whether it could: a reset has to wait for an exit that it may end.
    fn take(&mut self, message: &Message) -> bool {
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                self.apic.accept(message.vector, message.level);
            }
            Delivery::Nmi => *self.nmi_pending = true,
            Delivery::Init | Delivery::StartUp => return false,
            // There is no SMM and no 8259.
            Delivery::Smi | Delivery::Reserved | Delivery::External => {}
        }
        true
    }
}

impl<P: Platform> Vcpu<P> {
    /// The interrupt controllers.
    pub(super) fn lines(&mut self) -> Lines<'_, P> {
        Lines {
            vm: self.vm,
            id: self.id,
            platform: &mut self.platform,
            apic: &mut self.apic,
            nmi_pending: &mut self.nmi_pending,
        }
    }

    /// Carries out what a write to the local APIC asks for.
    #[inline]
    pub(super) fn apply(&mut self, effect: Effect) {
        if !matches!(effect, Effect::None | Effect::Interrupts | Effect::Timer) {
            self.lines().apply(effect);
        }
    }

    /// The guest's TSC.
    #[inline]
    pub(super) fn tsc(&self) -> u64 {
        self.platform.counter().wrapping_add(self.tsc_offset)
    }

    /// A device server or another vCPU has signalled, or the deadline has passed.
    pub(super) fn kick(&mut self, bits: u64, expired: u64) -> Groups {
        self.rouse();
        self.wide.tick(&mut self.platform);
        if expired != 0 {
            // The kernel has forgotten it.
            self.deadline = u64::MAX;
            let now = self.tsc();
            self.apic.expire(now);
        }
        for pin in ones(bits & ((1 << PINS) - 1)) {
            self.lines().pulse(pin as usize);
        }
        if bits & KICK_VCPU != 0
            && let Some(groups) = self.receive()
        {
            return groups;
        }
        if self.waiting {
            return self.wait();
        }
        let groups = self.deliver() | self.update_deadline();
        groups | self.rest_if_deaf()
    }

    /// Empties the mailbox; returns what changed, if the vCPU was reset or started.
    fn receive(&mut self) -> Option<Groups> {
        let mail = self.vm.mailbox(self.id).take();
        if mail.init {
            return Some(self.init(mail.startup));
        }
        if self.waiting {
            // What else comes is lost: the local APIC is disabled, and NMIs are not kept.
            return mail.startup.map(|page| self.start(page));
        }
        self.nmi_pending |= mail.nmi;
        let mut vectors = mail.vectors;
        while let Some(vector) = vectors.highest() {
            vectors.remove(vector);
            self.apic.accept(vector, mail.level.contains(vector));
        }
        None
    }

    /// HLT.
    pub(super) fn halt(&mut self, length: u64) -> Groups {
        // Interrupts were off before HLT: STI's shadow ends with it.
        self.halted = true;
        self.state.set_interrupt_shadow(self.state.interrupt_shadow() & SHADOW_NMI);
        let groups = self.skip(length) | self.deliver_always();
        groups | self.rest_if_deaf()
    }

    /// A vCPU that is halted with interrupts off rests.
    fn rest_if_deaf(&mut self) -> Groups {
        let deaf = self.halted && self.state.rflags() & INTERRUPTS_ON == 0;
        if !deaf || self.nmi_pending {
            return Groups::empty();
        }
        self.rest()
    }

    /// The guest can take an NMI. Some processors find so behind STI too, at once and for ever (Intel SDM 3C 26.2, "NMI-window
    /// exiting"); an NMI that comes there ends what STI holds back.
    pub(super) fn nmi_window(&mut self) -> Groups {
        if self.nmi_pending {
            self.state.set_interrupt_shadow(self.state.interrupt_shadow() & SHADOW_NMI);
        }
        self.deliver()
    }

    /// Decides what the guest takes now; for exits with groups `EVENTS` and `RSP_RFLAGS`.
    pub(super) fn deliver(&mut self) -> Groups {
        let (pending, controls) = (self.state.interrupted(), self.state.controls());
        let groups = self.deliver_always();
        let unchanged = pending & EVENT_VALID == 0
            && self.state.inject() & EVENT_VALID == 0
            && self.state.controls() == controls;
        if unchanged { Groups::empty() } else { groups }
    }

    /// As [`Vcpu::deliver`], where the shadow or more of the group has changed.
    pub(super) fn deliver_always(&mut self) -> Groups {
        self.sync_pv_eoi();
        let shadow = self.state.interrupt_shadow();
        self.nmi_blocked = shadow & SHADOW_NMI != 0;
        let mut inject = self.state.interrupted();
        if inject & EVENT_TYPE == EVENT_SOFTWARE {
            // Its instruction is executed again.
            inject = 0;
        }
        if inject & EVENT_VALID == 0 {
            inject = 0;
            if self.nmi_pending && shadow == 0 {
                self.nmi_pending = false;
                inject = EVENT_VALID | EVENT_NMI | 2;
            } else if self.state.rflags() & INTERRUPTS_ON != 0
                && shadow & SHADOW_INTERRUPT == 0
                && let Some(vector) = self.apic.acknowledge()
            {
                inject = EVENT_VALID | EVENT_INTERRUPT | u64::from(vector);
                self.arm_pv_eoi(vector);
            }
        }
        if inject != 0 {
            self.halted = false;
        }
        if inject & EVENT_TYPE == EVENT_NMI {
            // Until IRET, which is an exit then. Before it, events may be loaded at exits that do not tell this.
            self.nmi_blocked = true;
        }
        self.window = self.apic.pending().is_some();
        let mut controls = self.controls();
        if self.halted {
            controls |= CONTROL_HALT;
        }
        self.state.set_inject(inject);
        self.state.set_controls(controls);
        Groups::EVENTS
    }

    /// Asks for an exit as soon as the guest can take an interrupt, if one waits; for exits without group
    /// `EVENTS`.
    #[inline]
    pub(super) fn request_window(&mut self) -> Groups {
        let wanted = self.apic.pending().is_some() && !self.window;
        if !wanted && !self.nmi_pending {
            return Groups::empty();
        }
        self.window |= wanted;
        self.load_event(0)
    }

    /// Tells the kernel when the timer fires next, if that has changed.
    #[inline]
    pub(super) fn update_deadline(&mut self) -> Groups {
        let deadline = match self.apic.timer().next() {
            None => u64::MAX,
            // The counter does not get so far.
            Some(tsc) if tsc >> 63 != 0 => u64::MAX,
            Some(tsc) => match (tsc as i64).checked_sub(self.tsc_offset as i64) {
                None => u64::MAX,
                // Before the machine's counter was 0: long past.
                Some(ticks) => ticks.max(1) as u64,
            },
        };
        if deadline == self.deadline {
            return Groups::empty();
        }
        self.deadline = deadline;
        self.state.set_deadline(deadline);
        Groups::DEADLINE
    }

    /// Lets the guest end `vector` without an exit, if it has asked for that and nothing else waits.
    fn arm_pv_eoi(&mut self, vector: u8) {
        if self.pv_eoi & PV_EOI_ENABLED == 0 || !self.apic.eoi_is_simple(vector) {
            return;
        }
        let at = GuestPhys(self.pv_eoi & !PV_EOI_ENABLED);
        // Without RAM there the guest gets no shortcut.
        self.pv_eoi_armed = self.vm.ram.write(at, &1u32.to_le_bytes()).is_ok();
    }

    /// Takes notice of an EOI without an exit; when an interrupt waits, has the guest exit for its EOI. Comes
    /// before every look at the local APIC's state.
    #[inline]
    pub(super) fn sync_pv_eoi(&mut self) {
        if self.pv_eoi_armed {
            self.sync_armed_pv_eoi();
        }
    }

    fn sync_armed_pv_eoi(&mut self) {
        let at = GuestPhys(self.pv_eoi & !PV_EOI_ENABLED);
        let word = self.vm.ram.read_u32(at).unwrap_or(0);
        if word & 1 == 0 {
            self.pv_eoi_armed = false;
            let effect = self.apic.end_of_interrupt();
            self.apply(effect);
        } else if self.apic.has_requests() {
            self.pv_eoi_armed = false;
            let _ = self.vm.ram.write(at, &(word & !1).to_le_bytes());
        }
    }
}
