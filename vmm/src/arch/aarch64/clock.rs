//! The guest's time: the virtual counter and its timer.

/// CNTV_CTL_EL0.ENABLE.
const ENABLE: u64 = 1 << 0;
/// CNTV_CTL_EL0.IMASK.
const MASKED: u64 = 1 << 1;

/// Clock of a VM: its vCPUs have the same offset, so that their counters agree.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// CNTVOFF_EL2: the machine's counter when the guest's was 0.
    pub offset: u64,
    /// Ticks that a deadline comes after the timer, which comes by itself as long as it is loaded.
    slack: u64,
}

impl Clock {
    /// A clock that starts at 0 when the machine's counter, which ticks `hz` times a second, is `now`.
    pub fn new(now: u64, hz: u64) -> Clock {
        Clock {
            offset: now,
            slack: hz / 50_000,
        }
    }

    /// Whether the virtual timer's condition is met at the machine's time `now` (Arm ARM D12.2.4). CNTV_CTL_EL0.IMASK
    /// does not count: the kernel sets it when it reports the timer.
    pub fn timer_met(&self, control: u64, compare: u64, now: u64) -> bool {
        control & ENABLE != 0 && now.wrapping_sub(self.offset) >= compare
    }

    /// The deadline of a vCPU that waits, in the machine's time; `u64::MAX` without one. The kernel reports the virtual
    /// timer while the vCPU's registers are loaded; when another vCPU has taken their place, only the deadline
    /// wakes it.
    pub fn deadline(&self, control: u64, compare: u64) -> u64 {
        if control & (ENABLE | MASKED) != ENABLE {
            return u64::MAX;
        }
        compare
            .saturating_add(self.offset)
            .saturating_add(self.slack)
    }

    /// A millisecond from the machine's time `now`.
    pub fn soon(&self, now: u64) -> u64 {
        now.saturating_add(self.slack.saturating_mul(50))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_compares_with_the_guests_counter() {
        let clock = Clock::new(1000, 100_000);
        assert!(!clock.timer_met(1, 50, 1049));
        assert!(clock.timer_met(1, 50, 1050));
        assert!(clock.timer_met(3, 50, 1050));
        assert!(!clock.timer_met(0, 50, 1050));
        assert!(!clock.timer_met(1, u64::MAX, u64::MAX));
        assert_eq!(clock.deadline(1, 50), 1052);
        assert_eq!(clock.deadline(1, u64::MAX - 3), u64::MAX);
        assert_eq!(clock.deadline(3, 50), u64::MAX);
        assert_eq!(clock.deadline(0, 50), u64::MAX);
    }
}
