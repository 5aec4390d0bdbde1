//! The guest's time: the virtual counter.
//!
//! Its timer is the machine's. The kernel reports it once each time that it fires, halted vCPUs' too, and masks it
//! then as the guest would: so it is a rising edge here. A guest that sets it anew before it takes the interrupt gets
//! that nonetheless, and finds the timer's status clear.

/// Clock of a VM: its vCPUs have the same offset, so that their counters agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CNTVOFF_EL2: the machine's counter when the guest's was 0.
    pub offset: u64,
}

impl Clock {
    /// A clock that starts at 0 when the machine's counter is `now`.
    pub fn new(now: u64) -> Clock {
        Clock { offset: now }
    }
}
