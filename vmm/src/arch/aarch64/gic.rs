//! The guest's interrupt controller: a GICv2 or GICv3, as the machine has.
//!
//! The virtual CPU interface is the machine's: guests acknowledge and end interrupts there without an exit, as far
//! as the list registers hold them. Here is the rest: distributor and redistributors ([`registers`]), SGIs
//! ([`sgi`]), and what is put into the list registers and taken back from them ([`lists`]).
//!
//! The controller sees rising edges only: device servers report no others, and the virtual timer's line is
//! reported once each time that it rises. An interrupt that the guest configures as level-sensitive is pending from the
//! edge until it is taken, too.

mod bank;
pub mod lists;
pub mod registers;
pub mod sgi;

#[cfg(test)]
mod model;

use crate::bits::ones;
use abi::vcpu::aarch64::LIST_REGISTERS;
use bank::Bank;

/// Most vCPUs: what a GICv2 can address.
pub const MAX_VCPUS: usize = 8;
/// Shared interrupts: one for each bit of a kick, and one more.
pub const SPIS: u32 = 64;
/// INTID of the first shared interrupt.
pub const FIRST_SPI: u32 = 32;
/// INTID of the virtual timer (Arm BSA, 3.8.1: PPI 11).
pub const VIRTUAL_TIMER: u32 = 27;

/// Which controller the guest sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2 (IHI 0048).
    V2,
    /// GICv3 (IHI 0069), without a second security state, legacy mode or message-based interrupts.
    V3,
}

/// vCPUs that have to look at their interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kicks(u8);

impl Kicks {
    /// Adds a vCPU.
    pub fn add(&mut self, vcpu: usize) {
        if vcpu < MAX_VCPUS {
            self.0 |= 1 << vcpu;
        }
    }

    /// Takes a vCPU out.
    pub fn remove(&mut self, vcpu: usize) {
        self.0 &= !(1u8.checked_shl(vcpu as u32).unwrap_or(0));
    }

    /// The vCPUs, ascending.
    pub fn each(self) -> impl Iterator<Item = usize> {
        ones(self.0.into()).map(|vcpu| vcpu as usize)
    }
}

/// A list register's interrupt: none.
const EMPTY: u16 = u16::MAX;

/// What belongs to one vCPU.
#[derive(Debug)]
struct Private {
    /// SGIs and PPIs.
    bank: Bank,
    /// GICv2: vCPUs that have sent each SGI and not been heard.
    sources: [u8; 16],
    /// GICv2: vCPU whose SGI is active.
    active_source: [u8; 16],
    /// INTID in each list register.
    slots: [u16; LIST_REGISTERS],
    /// INTID that was in each list register before.
    before: [u16; LIST_REGISTERS],
    /// GICv3: GICR_WAKER.ProcessorSleep.
    asleep: bool,
}

/// The interrupt controller of a VM.
#[derive(Debug)]
pub struct Gic {
    version: Version,
    vcpus: usize,
    list_registers: usize,
    /// GICD_CTLR: bits 0 and 1, the enables of groups 0 and 1.
    groups: u32,
    private: [Private; MAX_VCPUS],
    shared: [Bank; (SPIS / 32) as usize],
    /// GICv2: GICD_ITARGETSR.
    targets: [u8; SPIS as usize],
    /// GICv3: GICD_IROUTER.
    routes: [u64; SPIS as usize],
}

/// An interrupt's bank and bit, from the view of a vCPU.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// 0: the vCPU's own; others: shared.
    bank: usize,
    bit: u32,
}

impl Place {
    fn of(intid: u32) -> Option<Place> {
        (intid < FIRST_SPI + SPIS).then_some(Place { bank: (intid / 32) as usize, bit: intid % 32 })
    }

    fn mask(self) -> u32 {
        1 << self.bit
    }
}

impl Gic {
    /// A controller after reset, for up to [`MAX_VCPUS`] vCPUs, on a machine with so many list registers.
    pub fn new(version: Version, vcpus: u32, list_registers: u32) -> Gic {
        let private = || Private {
            // SGIs are edges, and on a GICv2 always enabled (IHI 0048, 4.3.5).
            bank: Bank::new(if version == Version::V2 { 0xffff } else { 0 }, 0xffff),
            sources: [0; 16],
            active_source: [0; 16],
            slots: [EMPTY; LIST_REGISTERS],
            before: [EMPTY; LIST_REGISTERS],
            asleep: true,
        };
        Gic {
            version,
            vcpus: (vcpus as usize).clamp(1, MAX_VCPUS),
            list_registers: (list_registers as usize).clamp(1, LIST_REGISTERS),
            groups: 0,
            private: core::array::from_fn(|_| private()),
            shared: core::array::from_fn(|_| Bank::new(0, 0)),
            targets: [0; SPIS as usize],
            routes: [0; SPIS as usize],
        }
    }

    /// Which controller it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// List registers that are used.
    pub fn list_registers(&self) -> usize {
        self.list_registers
    }

    /// A rising edge of shared interrupt `spi`.
    pub fn pulse(&mut self, spi: u32, kicks: &mut Kicks) {
        if spi >= SPIS {
            return;
        }
        let (bank, bit) = ((spi / 32) as usize, spi % 32);
        self.shared[bank].pending |= 1 << bit;
        self.affected(bank + 1, 1 << bit, kicks);
    }

    /// A rising edge of a vCPU's own interrupt.
    pub fn pulse_private(&mut self, vcpu: usize, intid: u32) {
        if let (Some(private), 16..32) = (self.private.get_mut(vcpu), intid) {
            private.bank.pending |= 1 << intid;
        }
    }

    /// The bank that vCPU `vcpu` sees as number `bank`.
    fn bank(&mut self, vcpu: usize, bank: usize) -> &mut Bank {
        match bank {
            0 => &mut self.private[vcpu % MAX_VCPUS].bank,
            n => &mut self.shared[(n - 1) % (SPIS / 32) as usize],
        }
    }

    /// The vCPU that takes a shared interrupt.
    fn target(&self, spi: usize) -> Option<usize> {
        match self.version {
            // Of several the first.
            Version::V2 => {
                let targets = u32::from(*self.targets.get(spi)?) & ((1 << self.vcpus) - 1);
                (targets != 0).then(|| targets.trailing_zeros() as usize)
            }
            Version::V3 => {
                let route = *self.routes.get(spi)?;
                (route < self.vcpus as u64).then_some(route as usize)
            }
        }
    }

    /// Shared interrupts of bank `bank` have changed: names those who have to know.
    fn affected(&mut self, bank: usize, bits: u32, kicks: &mut Kicks) {
        let index = (bank - 1) % (SPIS / 32) as usize;
        let (loaded, pending) = (self.shared[index].loaded, self.shared[index].pending);
        for bit in ones((bits & (loaded | pending)).into()) {
            if loaded & 1 << bit != 0 {
                kicks.add(self.shared[index].holder[bit as usize].into());
            } else if let Some(target) = self.target(index * 32 + bit as usize) {
                kicks.add(target);
            }
        }
    }
}
