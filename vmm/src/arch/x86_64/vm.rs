//! What the vCPUs of a VM share.
use crate::arch::x86_64::acpi::Serial;
use crate::arch::x86_64::apic::io::IoApic;
use crate::arch::x86_64::apic::mailbox::Mailbox;
use crate::arch::x86_64::apic::message::{Delivery, Message};
use crate::arch::x86_64::boot::load::Start;
use crate::arch::x86_64::clock::Clock;
use crate::arch::x86_64::cpuid;
use crate::memory::GuestRam;
use core::sync::atomic::{AtomicBool, AtomicU32};
use spin::Mutex;

/// Most vCPUs: what an xAPIC can address by flat logical IDs.
pub const MAX_VCPUS: usize = 8;

/// A virtual machine.
#[derive(Debug)]
pub struct Vm {
    /// Its RAM, with the guest loaded.
    pub ram: GuestRam,
    /// How its first vCPU starts.
    pub start: Start,
    /// What CPUID answers.
    pub cpuid: cpuid::Table,
    /// Its clock.
    pub clock: Clock,
    /// Its serial port.
    pub serial: Option<Serial>,
    /// Its I/O APIC.
    pub io_apic: Mutex<IoApic>,
    /// What its vCPUs have for each other.
    pub mailboxes: [Mailbox; MAX_VCPUS],
    /// Number of its vCPUs: 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// Number of its vCPUs that run, or that an interrupt could wake. The others wait for an INIT, a start or an NMI of
    /// these.
    pub alive: AtomicU32,
    /// Guest's TSC minus the machine's when the VM starts: one for all vCPUs.
    pub tsc_offset: u64,
    /// It has ended.
    pub stopped: AtomicBool,
}

impl Vm {
    /// The mailbox of a vCPU.
    #[inline]
    pub fn mailbox(&self, vcpu: u32) -> &Mailbox {
        &self.mailboxes[vcpu as usize % MAX_VCPUS]
    }

    /// The vCPUs that a message is for, as bits. `sender`: the vCPU whose local APIC sends it.
    pub fn destinations(&self, message: &Message, sender: Option<u32>) -> u32 {
        let lowest = message.delivery == Delivery::LowestPriority;
        let mut targets = 0;
        for (id, mailbox) in (0..self.vcpus).zip(&self.mailboxes) {
            let address = mailbox.address();
            let own = sender == Some(id);
            if address.is_destination(id, message.destination, own) && (!lowest || address.enabled)
            {
                targets |= 1 << id;
            }
        }
        if lowest && targets != 0 {
            // Who has the lowest priority is up to the machine: here the vectors are shared out.
            let skipped = u32::from(message.vector) % u32::count_ones(targets);
            for _ in 0..skipped {
                targets &= targets - 1;
            }
            targets &= targets.wrapping_neg();
        }
        targets
    }
}
