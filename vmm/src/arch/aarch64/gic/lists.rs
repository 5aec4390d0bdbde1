//! What the list registers of a vCPU hold.
//!
//! With each look at its interrupts a vCPU takes everything back from its list registers ([`Gic::fold`]) and
//! puts into them what comes first ([`Gic::fill`]): active interrupts, so that the guest can end them, then pending
//! ones by priority. If there are more, the virtual CPU interface is asked for an exit when there is a place.
use super::{EMPTY, Gic, Kicks, MAX_VCPUS, Place, Version};
use crate::bits::ones;
use abi::vcpu::aarch64::{
    GIC_NO_PENDING, LIST_ACTIVE, LIST_EOI, LIST_GROUP1, LIST_PENDING, LIST_PRIORITY_SHIFT,
    LIST_REGISTERS, LIST_SOURCE_SHIFT,
};

/// The list registers' content.
pub type List = [u64; LIST_REGISTERS];

/// ICH_VMCR_EL2.VENG0.
const GROUP0_ON: u64 = 1 << 0;
/// ICH_VMCR_EL2.VENG1.
const GROUP1_ON: u64 = 1 << 1;
/// ICH_VMCR_EL2.VPMR.
const MASK_SHIFT: u32 = 24;

/// The interrupts for the list registers, those that come first first.
struct Selection {
    /// 1 for pending ones, then priority, then INTID.
    keys: [u32; LIST_REGISTERS],
    count: usize,
    limit: usize,
    /// Some had no place.
    overflow: bool,
}

impl Selection {
    fn offer(&mut self, active: bool, priority: u8, intid: u32) {
        let key = u32::from(!active) << 24 | u32::from(priority) << 16 | intid;
        if self.count == self.limit {
            self.overflow = true;
            if key > self.keys[self.limit - 1] {
                return;
            }
            self.count -= 1;
        }
        let mut at = self.count;
        while at > 0 && self.keys[at - 1] > key {
            self.keys[at] = self.keys[at - 1];
            at -= 1;
        }
        self.keys[at] = key;
        self.count += 1;
    }
}

impl Gic {
    /// Takes back what the list registers of `vcpu` hold; `list` is their content now.
    pub fn fold(&mut self, vcpu: usize, list: &List) {
        if vcpu >= MAX_VCPUS {
            return;
        }
        let v2 = self.version == Version::V2;
        let slots = core::mem::replace(&mut self.private[vcpu].slots, [EMPTY; LIST_REGISTERS]);
        self.private[vcpu].before = slots;
        for (&intid, &value) in slots.iter().zip(list) {
            if intid == EMPTY {
                continue;
            }
            let Some(place) = Place::of(intid.into()) else {
                continue;
            };
            let (pending, active) = (value & LIST_PENDING != 0, value & LIST_ACTIVE != 0);
            self.bank(vcpu, place.bank).take_back(place.bit, pending, active);
            if v2 && intid < 16 {
                let private = &mut self.private[vcpu];
                let sgi = usize::from(intid);
                let source = (value >> LIST_SOURCE_SHIFT & 7) as u8;
                if private.bank.active & place.mask() != 0 {
                    private.active_source[sgi] = source;
                }
                // Pending as before, if nobody has cleared it meanwhile.
                if pending && private.bank.pending & place.mask() != 0 {
                    private.sources[sgi] |= 1 << source;
                }
            }
        }
    }

    /// Fills the list registers of `vcpu`, after a fold; returns what its interface is asked for (`GIC_*`).
    pub fn fill(&mut self, vcpu: usize, list: &mut List, kicks: &mut Kicks) -> u64 {
        *list = [0; LIST_REGISTERS];
        if vcpu >= self.vcpus {
            return 0;
        }
        let selection = self.select(vcpu);
        let chosen = &selection.keys[..selection.count];
        let intid_of = |key: u32| (key & 0xffff) as u16;
        // Where it was before, so that little changes.
        let mut slots = [EMPTY; LIST_REGISTERS];
        let before = self.private[vcpu].before;
        for (slot, old) in slots.iter_mut().zip(before) {
            if old != EMPTY && chosen.iter().any(|&key| intid_of(key) == old) {
                *slot = old;
            }
        }
        for &key in chosen {
            if !slots.contains(&intid_of(key))
                && let Some(free) =
                    slots[..self.list_registers].iter_mut().find(|slot| **slot == EMPTY)
            {
                *free = intid_of(key);
            }
        }
        let mut any_pending = false;
        for (slot, value) in slots.iter().zip(list.iter_mut()) {
            if *slot != EMPTY {
                *value = self.load(vcpu, (*slot).into(), selection.overflow);
                any_pending |= *value & LIST_PENDING != 0;
            }
        }
        self.private[vcpu].slots = slots;
        // Shared interrupts that are not here any more may be for others.
        for old in before {
            if let Some(place) = Place::of(old.into())
                && place.bank != 0
                && !slots.contains(&old)
            {
                self.affected(place.bank, place.mask(), kicks);
            }
        }
        if !selection.overflow {
            return 0;
        }
        if any_pending {
            return GIC_NO_PENDING;
        }
        // Active ones fill the list: the end of any makes room.
        for value in list.iter_mut().filter(|value| **value != 0) {
            *value |= LIST_EOI;
        }
        0
    }

    /// Whether an interrupt of `vcpu`'s list ends its wait: it is pending, and neither its group nor its priority is
    /// masked at the CPU interface.
    pub fn wakes(list: &List, vmcr: u64) -> bool {
        list.iter().any(|&value| {
            let group = if value & LIST_GROUP1 != 0 { GROUP1_ON } else { GROUP0_ON };
            value & LIST_PENDING != 0
                && vmcr & group != 0
                && value >> LIST_PRIORITY_SHIFT & 0xff < vmcr >> MASK_SHIFT & 0xff
        })
    }

    /// Interrupts of a group that the distributor forwards.
    fn forwarded(&self, group1: u32) -> u32 {
        let mut bits = 0;
        if self.groups & 1 != 0 {
            bits |= !group1;
        }
        if self.groups & 2 != 0 {
            bits |= group1;
        }
        bits
    }

    fn select(&self, vcpu: usize) -> Selection {
        let mut selection = Selection {
            keys: [0; LIST_REGISTERS],
            count: 0,
            limit: self.list_registers,
            overflow: false,
        };
        let private = &self.private[vcpu].bank;
        let own = core::iter::once((0, private));
        let shared = self.shared.iter().enumerate().map(|(i, b)| (i + 1, b));
        for (number, bank) in own.chain(shared) {
            let ready = bank.pending & bank.enabled & self.forwarded(bank.group1);
            let offered = (bank.active | ready) & !bank.loaded;
            for bit in ones(offered.into()) {
                let active = bank.active & 1 << bit != 0;
                let intid = number as u32 * 32 + bit;
                let ours = if number == 0 {
                    true
                } else if active {
                    usize::from(bank.holder[bit as usize]) == vcpu
                } else {
                    self.target((number - 1) * 32 + bit as usize) == Some(vcpu)
                };
                if ours {
                    selection.offer(active, bank.priority[bit as usize], intid);
                }
            }
        }
        selection
    }

    /// Puts an interrupt into a list register and returns its content. `overflow`: others had no place, so that
    /// one that is active does not become pending there before them.
    fn load(&mut self, vcpu: usize, intid: u32, overflow: bool) -> u64 {
        let Some(place) = Place::of(intid) else {
            return 0;
        };
        let sgi_of_v2 = self.version == Version::V2 && intid < 16;
        let mask = place.mask();
        let group1 = self.bank(vcpu, place.bank).group1;
        let forwarded = self.forwarded(group1);
        let bank = self.bank(vcpu, place.bank);
        let active = bank.active & mask != 0;
        let mut pending = bank.pending & bank.enabled & forwarded & mask != 0;
        let mut value =
            u64::from(intid) | u64::from(bank.priority[place.bit as usize]) << LIST_PRIORITY_SHIFT;
        if bank.group1 & mask != 0 {
            value |= LIST_GROUP1;
        }
        bank.loaded |= mask;
        bank.holder[place.bit as usize] = vcpu as u8;
        if sgi_of_v2 {
            let private = &mut self.private[vcpu];
            let sources = &mut private.sources[intid as usize];
            let mut source = private.active_source[intid as usize];
            if active {
                // Another vCPU's SGI is another interrupt: after this one.
                pending = false;
            } else if *sources != 0 {
                source = sources.trailing_zeros() as u8;
                *sources &= !(1 << source);
            }
            value |= u64::from(source & 7) << LIST_SOURCE_SHIFT;
            if *sources != 0 {
                value |= LIST_EOI;
            } else {
                private.bank.pending &= !mask;
            }
        } else if pending && active && overflow {
            pending = false;
            value |= LIST_EOI;
        } else if pending {
            bank.pending &= !mask;
        }
        if active {
            value |= LIST_ACTIVE;
        }
        if pending {
            value |= LIST_PENDING;
            self.bank(vcpu, place.bank).loaded_pending |= mask;
        }
        value
    }
}
