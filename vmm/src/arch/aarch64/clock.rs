//! The guest's time: the virtual counter and its timer.

/// CNTV_CTL_EL0.ENABLE.
const ENABLE: u64 = 1 << 0;

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

    /// Whether the virtual timer's condition is met at the machine's time `now` (Arm ARM D12.2.4). CNTV_CTL_EL0.IMASK
    /// does not count: the kernel sets it when it reports the timer.
    pub fn timer_met(&self, control: u64, compare: u64, now: u64) -> bool {
        control & ENABLE != 0 && now.wrapping_sub(self.offset) >= compare
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_compares_with_the_guests_counter() {
        let clock = Clock::new(1000);
        assert!(!clock.timer_met(1, 50, 1049));
        assert!(clock.timer_met(1, 50, 1050));
        assert!(clock.timer_met(3, 50, 1050));
        assert!(!clock.timer_met(0, 50, 1050));
        assert!(!clock.timer_met(1, u64::MAX, u64::MAX));
    }
}
