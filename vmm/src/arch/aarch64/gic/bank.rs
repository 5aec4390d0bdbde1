//! State of 32 interrupts.
use crate::bits::ones;

/// 32 interrupts: one bit each.
#[derive(Debug)]
pub(super) struct Bank {
    pub enabled: u32,
    /// Pending, apart from what list registers hold.
    pub pending: u32,
    /// Active; for interrupts in a list register as far as known.
    pub active: u32,
    pub group1: u32,
    /// Configured as edge-triggered.
    pub edge: u32,
    /// In a list register.
    pub loaded: u32,
    /// In a list register and pending there, as far as known.
    pub loaded_pending: u32,
    /// What is to be done to interrupts in list registers of other vCPUs, when they are folded.
    pub orders: Orders,
    pub priority: [u8; 32],
    /// vCPU whose list register it is in or that it is active on; of shared interrupts.
    pub holder: [u8; 32],
}

/// Changes of state that wait for the holder.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub clear_pending: u32,
    pub clear_active: u32,
    pub set_active: u32,
}

impl Bank {
    pub fn new(enabled: u32, edge: u32) -> Bank {
        Bank {
            enabled,
            pending: 0,
            active: 0,
            group1: 0,
            edge,
            loaded: 0,
            loaded_pending: 0,
            orders: Orders::default(),
            priority: [0; 32],
            holder: [0; 32],
        }
    }

    /// What the guest reads as pending.
    pub fn seems_pending(&self) -> u32 {
        self.pending | self.loaded_pending
    }

    pub fn set_pending(&mut self, bits: u32) {
        self.pending |= bits;
    }

    pub fn clear_pending(&mut self, bits: u32) {
        self.pending &= !bits;
        self.loaded_pending &= !bits;
        self.orders.clear_pending |= bits & self.loaded;
    }

    pub fn set_active(&mut self, bits: u32, vcpu: usize) {
        let new = bits & !self.active & !self.loaded;
        self.active |= bits;
        self.orders.set_active |= bits & self.loaded;
        self.orders.clear_active &= !bits;
        for bit in ones(new.into()) {
            self.holder[bit as usize] = vcpu as u8;
        }
    }

    pub fn clear_active(&mut self, bits: u32) {
        self.active &= !bits;
        self.orders.clear_active |= bits & self.loaded;
        self.orders.set_active &= !bits;
    }

    /// An interrupt comes back from a list register with this state there.
    pub fn take_back(&mut self, bit: u32, mut pending: bool, mut active: bool) {
        let mask = 1 << bit;
        let orders = &mut self.orders;
        pending &= orders.clear_pending & mask == 0;
        active |= orders.set_active & mask != 0;
        active &= orders.clear_active & mask == 0;
        orders.clear_pending &= !mask;
        orders.set_active &= !mask;
        orders.clear_active &= !mask;
        self.loaded &= !mask;
        self.loaded_pending &= !mask;
        self.active = self.active & !mask | if active { mask } else { 0 };
        if pending {
            self.pending |= mask;
        }
    }
}
