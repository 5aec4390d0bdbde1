//! What vCPUs tell each other: how a local APIC is addressed, and the messages on their way to it.
//!
//! A local APIC belongs to the handler of its vCPU. Others see its [`Address`], and leave messages in its
//! [`Mailbox`], without a lock: whoever is interrupted there keeps nobody waiting.
use super::VectorSet;
use super::message::{Delivery, Destination, Message};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What decides whether a message is for a local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its logical ID as the register shows it.
    pub logical: u32,
    /// It is in x2APIC mode.
    pub x2apic: bool,
    /// Logical destinations of an xAPIC are in the flat format.
    pub flat: bool,
    /// IA32_APIC_BASE enables it. Otherwise nothing reaches it.
    pub present: bool,
    /// It is enabled by software, too: takes interrupts with vectors.
    pub enabled: bool,
}

impl Address {
    const X2APIC: u64 = 1 << 32;
    const FLAT: u64 = 1 << 33;
    const PRESENT: u64 = 1 << 34;
    const ENABLED: u64 = 1 << 35;

    fn pack(self) -> u64 {
        let flag = |set, bit| if set { bit } else { 0 };
        u64::from(self.logical)
            | flag(self.x2apic, Address::X2APIC)
            | flag(self.flat, Address::FLAT)
            | flag(self.present, Address::PRESENT)
            | flag(self.enabled, Address::ENABLED)
    }

    fn unpack(value: u64) -> Address {
        Address {
            logical: value as u32,
            x2apic: value & Address::X2APIC != 0,
            flat: value & Address::FLAT != 0,
            present: value & Address::PRESENT != 0,
            enabled: value & Address::ENABLED != 0,
        }
    }

    /// Whether a message is for the APIC `id` with this address; `sender` says whether that APIC sent the message.
    pub fn is_destination(&self, id: u32, destination: Destination, sender: bool) -> bool {
        if !self.present {
            return false;
        }
        match destination {
            Destination::Itself => sender,
            Destination::All => true,
            Destination::Others => !sender,
            Destination::Physical(target) if self.x2apic => {
                // The I/O APIC and xAPIC senders have eight bits, of which all ones is everyone.
                target == id || target == u32::MAX || target == 0xff
            }
            Destination::Physical(target) => target == id || target & 0xff == 0xff,
            Destination::Logical(set) if self.x2apic => {
                set >> 16 == self.logical >> 16 && set & self.logical & 0xffff != 0
                    || set == u32::MAX
            }
            Destination::Logical(set) => {
                let own = self.logical >> 24;
                if self.flat {
                    set & own & 0xff != 0
                } else {
                    set & 0xff == 0xff || set >> 4 & 0xf == own >> 4 && set & own & 0xf != 0
                }
            }
        }
    }
}

/// Flags of a mailbox: what came since it was emptied.
mod flag {
    pub const VECTORS: u32 = 1 << 0;
    pub const NMI: u32 = 1 << 1;
    pub const INIT: u32 = 1 << 2;
    /// With the page from [`PAGE_SHIFT`] on.
    pub const STARTUP: u32 = 1 << 3;
    pub const PAGE_SHIFT: u32 = 8;
    pub const PAGE: u32 = 0xff << PAGE_SHIFT;
}

/// A vCPU's messages from others.
#[derive(Debug, Default)]
pub struct Mailbox {
    address: AtomicU64,
    flags: AtomicU32,
    vectors: [AtomicU64; 4],
    /// Which vectors were level-triggered when they came last.
    level: [AtomicU64; 4],
}

/// What was in a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mail {
    /// The vCPU is to be reset; what else is here but `startup` came before that or is lost with it.
    pub init: bool,
    /// The vCPU is to start at this page, if it waits for that.
    pub startup: Option<u8>,
    /// NMI.
    pub nmi: bool,
    /// Interrupts.
    pub vectors: VectorSet,
    /// Those of them that are level-triggered.
    pub level: VectorSet,
}

impl Mailbox {
    /// The address of its owner.
    pub fn address(&self) -> Address {
        Address::unpack(self.address.load(Ordering::Acquire))
    }

    /// Tells the address; by the owner alone.
    #[inline]
    pub fn publish(&self, address: Address) {
        let value = address.pack();
        if self.address.load(Ordering::Relaxed) != value {
            self.address.store(value, Ordering::Release);
        }
    }

    /// Leaves a message; returns whether the owner has to be told.
    pub fn post(&self, message: Message) -> bool {
        let change = |change: fn(u32, u32) -> u32| {
            let page = u32::from(message.vector) << flag::PAGE_SHIFT;
            let update = |flags| Some(change(flags, page));
            self.flags.fetch_update(Ordering::SeqCst, Ordering::SeqCst, update)
        };
        let before = match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => {
                let (word, bit) = (message.vector as usize / 64, 1 << (message.vector % 64));
                if message.level {
                    self.level[word].fetch_or(bit, Ordering::SeqCst);
                } else {
                    self.level[word].fetch_and(!bit, Ordering::SeqCst);
                }
                self.vectors[word].fetch_or(bit, Ordering::SeqCst);
                self.flags.fetch_or(flag::VECTORS, Ordering::SeqCst)
            }
            Delivery::Nmi => self.flags.fetch_or(flag::NMI, Ordering::SeqCst),
            // A start before the reset is void.
            Delivery::Init => {
                change(|flags, _| flags & !(flag::STARTUP | flag::PAGE) | flag::INIT).unwrap_or(0)
            }
            // The first one starts, the second finds a vCPU that runs.
            Delivery::StartUp => change(|flags, page| match flags & flag::STARTUP {
                0 => flags | flag::STARTUP | page,
                _ => flags,
            })
            .unwrap_or(0),
            // There is no SMM and no 8259.
            Delivery::Smi | Delivery::Reserved | Delivery::External => return false,
        };
        // Who left the first message tells the owner of them all.
        before == 0
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.flags.load(Ordering::SeqCst) == 0
    }

    /// Empties it; by the owner alone.
    pub fn take(&self) -> Mail {
        let flags = self.flags.swap(0, Ordering::SeqCst);
        let mut mail = Mail {
            init: flags & flag::INIT != 0,
            nmi: flags & flag::NMI != 0,
            startup: (flags & flag::STARTUP != 0).then_some((flags >> flag::PAGE_SHIFT) as u8),
            ..Mail::default()
        };
        if flags & flag::VECTORS != 0 {
            let words = core::array::from_fn(|i| self.vectors[i].swap(0, Ordering::SeqCst));
            mail.vectors = VectorSet::new(words);
            let words = core::array::from_fn(|i| self.level[i].load(Ordering::SeqCst));
            mail.level = VectorSet::new(words);
        }
        mail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(delivery: Delivery, vector: u8, level: bool) -> Message {
        Message { destination: Destination::All, delivery, vector, level }
    }

    #[test]
    fn an_address_survives_its_packing() {
        for bits in 0..16 {
            let address = Address {
                logical: 0x8765_4321,
                x2apic: bits & 1 != 0,
                flat: bits & 2 != 0,
                present: bits & 4 != 0,
                enabled: bits & 8 != 0,
            };
            let mailbox = Mailbox::default();
            assert!(!mailbox.address().present);
            mailbox.publish(address);
            assert_eq!(mailbox.address(), address);
        }
    }

    #[test]
    fn the_first_message_rings() {
        let mailbox = Mailbox::default();
        assert!(mailbox.post(message(Delivery::Fixed, 0xfe, true)));
        assert!(!mailbox.post(message(Delivery::Fixed, 0x30, false)));
        assert!(!mailbox.post(message(Delivery::Nmi, 0, false)));
        assert!(!mailbox.post(message(Delivery::Smi, 0, false)));
        let mail = mailbox.take();
        assert!(mail.nmi && !mail.init && mail.startup.is_none());
        assert!(mail.vectors.contains(0xfe) && mail.level.contains(0xfe));
        assert!(mail.vectors.contains(0x30) && !mail.level.contains(0x30));
        assert!(mailbox.is_empty());
        assert_eq!(mailbox.take(), Mail::default());
        assert!(!mailbox.post(message(Delivery::External, 0, false)));
        // The trigger mode is that of the last one.
        assert!(mailbox.post(message(Delivery::Fixed, 0xfe, false)));
        assert!(!mailbox.take().level.contains(0xfe));
    }

    #[test]
    fn the_first_start_after_the_last_reset_counts() {
        let mailbox = Mailbox::default();
        mailbox.post(message(Delivery::StartUp, 0x11, false));
        mailbox.post(message(Delivery::Init, 0, false));
        mailbox.post(message(Delivery::StartUp, 0x9a, false));
        mailbox.post(message(Delivery::StartUp, 0x9b, false));
        let mail = mailbox.take();
        assert_eq!((mail.init, mail.startup), (true, Some(0x9a)));
        mailbox.post(message(Delivery::StartUp, 0, false));
        let mail = mailbox.take();
        assert_eq!((mail.init, mail.startup), (false, Some(0)));
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        const ROUNDS: u32 = 2000;
        let mailbox = Mailbox::default();
        let rung = AtomicU32::new(0);
        let seen = std::thread::scope(|scope| {
            for sender in 0..2u8 {
                let (mailbox, rung) = (&mailbox, &rung);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let vector = 32 + sender * 100 + (round % 100) as u8;
                        if mailbox.post(message(Delivery::Fixed, vector, false)) {
                            rung.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                    if mailbox.post(message(Delivery::Fixed, 254 + sender, false)) {
                        rung.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            // Looks only when it was told to.
            let (mut looks, mut seen) = (0, std::collections::BTreeSet::new());
            while !(seen.contains(&254) && seen.contains(&255)) {
                if rung.load(Ordering::SeqCst) == looks {
                    std::thread::yield_now();
                    continue;
                }
                looks += 1;
                let mut vectors = mailbox.take().vectors;
                while let Some(vector) = vectors.highest() {
                    vectors.remove(vector);
                    seen.insert(vector);
                }
            }
            seen
        });
        assert_eq!(seen.len(), 202);
    }
}
