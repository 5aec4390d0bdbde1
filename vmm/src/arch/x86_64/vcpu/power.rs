//! Reset, start and end of vCPUs.
use super::{Platform, Vcpu};
use abi::vcpu::x86_64::Groups;
use core::sync::atomic::Ordering;
use rt::protocol::supervisor::StopReason;

impl<P: Platform> Vcpu<P> {
    /// Whether the VM has ended.
    pub(super) fn ended(&self) -> bool {
        self.vm.stopped.load(Ordering::Relaxed)
    }

    /// INIT, and the start that came after it, if one did.
    #[cold]
    pub(super) fn init(&mut self, startup: Option<u8>) -> Groups {
        if self.id == 0 {
            // The bootstrap processor would go on in the firmware, which there is none of.
            log::warn!("the guest resets its first vCPU");
            return self.stop(StopReason::Reset);
        }
        self.waiting = true;
        self.apic.init();
        self.lines().publish();
        // The guest enables what belongs to the KVM interface anew.
        self.system_time = 0;
        self.pv_eoi = 0;
        self.pv_eoi_armed = false;
        match startup {
            Some(page) => self.start(page),
            None => self.wait(),
        }
    }

    /// Halts a vCPU that waits for its start.
    pub(super) fn wait(&mut self) -> Groups {
        self.rest() | self.park()
    }

    /// Starts a vCPU after INIT, in real mode at the beginning of a page of the first MiB.
    #[cold]
    pub(super) fn start(&mut self, page: u8) -> Groups {
        self.waiting = false;
        self.halted = false;
        self.nmi_pending = false;
        self.nmi_blocked = false;
        self.window = false;
        self.deadline = u64::MAX;
        self.reset_state(page)
    }

    /// The vCPU runs again, or finds out whether it can.
    #[inline]
    pub(super) fn rouse(&mut self) {
        if self.asleep {
            self.asleep = false;
            // Before the mailbox is emptied: see `rest`.
            self.vm.alive.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Nothing but another vCPU can wake this one. When that is so for every vCPU, the VM has ended.
    #[cold]
    pub(super) fn rest(&mut self) -> Groups {
        if core::mem::replace(&mut self.asleep, true) {
            return Groups::empty();
        }
        let vm = self.vm;
        let nobody = vm.alive.fetch_sub(1, Ordering::SeqCst) == 1
            // A message may be on its way to one that sleeps. It wakes before it empties its mailbox: if that
            // was between these looks, the last one finds it awake.
            && (0..vm.vcpus).all(|vcpu| vm.mailbox(vcpu).is_empty())
            && vm.alive.load(Ordering::SeqCst) == 0;
        if nobody {
            log::warn!("halted with interrupts off (guest panic?)");
            return self.stop(StopReason::GuestPanic);
        }
        Groups::empty()
    }
}
