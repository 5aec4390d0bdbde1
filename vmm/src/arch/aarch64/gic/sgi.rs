//! Software-generated interrupts.
use super::{Gic, Kicks, MAX_VCPUS, Version};

/// A write that sends an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sgi {
    /// INTID, 0 to 15.
    pub intid: u8,
    /// Who gets it.
    pub targets: Targets,
    /// Interrupts of group 1 as well, not those of group 0 alone.
    pub group1: bool,
}

/// vCPUs that an SGI is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// A bit for each.
    List(u16),
    /// All but the sender.
    Others,
    /// The sender.
    Own,
}

impl Sgi {
    /// A write to a GICv2's GICD_SGIR (IHI 0048, 4.3.15).
    pub fn from_distributor(value: u32) -> Option<Sgi> {
        let targets = match value >> 24 & 3 {
            0 => Targets::List((value >> 16 & 0xff) as u16),
            1 => Targets::Others,
            2 => Targets::Own,
            _ => return None,
        };
        Some(Sgi { intid: (value & 15) as u8, targets, group1: true })
    }

    /// A write to a GICv3's ICC_SGI1R_EL1 or, with `group1` false, ICC_SGI0R_EL1 or ICC_ASGI1R_EL1 (IHI 0069,
    /// 12.2.20). vCPU `n` has affinity 0.0.0.n.
    pub fn from_system_register(value: u64, group1: bool) -> Sgi {
        const HIGHER_LEVELS: u64 = 0xff << 48 | 0xf << 44 | 0xff << 32 | 0xff << 16;
        let targets = if value & 1 << 40 != 0 {
            Targets::Others
        } else if value & HIGHER_LEVELS != 0 {
            Targets::List(0)
        } else {
            Targets::List(value as u16)
        };
        Sgi { intid: (value >> 24 & 15) as u8, targets, group1 }
    }
}

impl Gic {
    /// Sends an SGI from `sender`.
    pub fn send(&mut self, sender: usize, sgi: Sgi, kicks: &mut Kicks) {
        if sender >= MAX_VCPUS {
            return;
        }
        let own = 1u16 << sender;
        let targets = match sgi.targets {
            Targets::List(list) => list,
            Targets::Others => !own,
            Targets::Own => own,
        };
        let intid = usize::from(sgi.intid & 15);
        for (vcpu, private) in self.private.iter_mut().enumerate().take(self.vcpus) {
            let group1 = private.bank.group1 & 1 << intid != 0;
            if targets & 1 << vcpu == 0 || group1 && !sgi.group1 {
                continue;
            }
            private.bank.pending |= 1 << intid;
            if self.version == Version::V2 {
                private.sources[intid] |= 1 << sender;
            }
            kicks.add(vcpu);
        }
    }

    /// GICv2: GICD_CPENDSGIR or GICD_SPENDSGIR of one vCPU (IHI 0048, 4.3.16): a byte of sources for each of four
    /// SGIs.
    pub(super) fn change_sources(&mut self, vcpu: usize, first: usize, value: u32, set: bool) {
        let private = &mut self.private[vcpu % MAX_VCPUS];
        for (i, bits) in value.to_le_bytes().into_iter().enumerate() {
            let sgi = (first + i) % 16;
            if set {
                private.sources[sgi] |= bits & ((1u32 << self.vcpus) - 1) as u8;
            } else {
                private.sources[sgi] &= !bits;
            }
            if private.sources[sgi] != 0 {
                private.bank.pending |= 1 << sgi;
            } else {
                private.bank.pending &= !(1 << sgi);
            }
        }
    }

    /// GICv2: the word of GICD_SPENDSGIR from SGI `first` on.
    pub(super) fn sources(&self, vcpu: usize, first: usize) -> u32 {
        let sources = &self.private[vcpu % MAX_VCPUS].sources;
        u32::from_le_bytes(core::array::from_fn(|i| sources[(first + i) % 16]))
    }
}
