//! The local APIC's timer (Intel SDM 3A 11.5.4). Its clock is the guest's TSC, before the divider.

/// Timer mode: bits 17–18 of the timer's LVT entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Counts down once.
    #[default]
    OneShot,
    /// Counts down again and again.
    Periodic,
    /// Fires at a TSC value.
    Deadline,
    /// Reserved code: never fires.
    Reserved,
}

impl Mode {
    /// The mode in an LVT entry.
    pub const fn of(entry: u32) -> Mode {
        match entry >> 17 & 3 {
            0 => Mode::OneShot,
            1 => Mode::Periodic,
            2 => Mode::Deadline,
            _ => Mode::Reserved,
        }
    }
}

/// Timer state. All times are TSC values of the guest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timer {
    mode: Mode,
    initial: u32,
    /// Divide configuration register.
    divide: u32,
    /// When it fires next.
    next: Option<u64>,
}

impl Timer {
    /// When it fires.
    #[inline]
    pub fn next(&self) -> Option<u64> {
        self.next
    }

    /// Its mode.
    #[inline]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Divide configuration register.
    pub fn divide(&self) -> u32 {
        self.divide
    }

    /// Initial count register.
    pub fn initial(&self) -> u32 {
        self.initial
    }

    fn divisor_shift(&self) -> u32 {
        // Bits 3, 1, 0: 0 means 2, 6 means 128, 7 means 1.
        let code = self.divide >> 1 & 4 | self.divide & 3;
        (code + 1) & 7
    }

    fn period(&self) -> u64 {
        u64::from(self.initial) << self.divisor_shift()
    }

    /// Takes the mode of a new LVT entry. A change to or from deadline mode disarms the timer.
    pub fn set_mode(&mut self, mode: Mode, now: u64) {
        if mode == self.mode {
            return;
        }
        let counts = |mode| matches!(mode, Mode::OneShot | Mode::Periodic);
        if counts(mode) && counts(self.mode) {
            // A one-shot count that ended stays ended; what runs goes on with the new ending.
            if self.next.is_some() {
                let current = self.current(now);
                self.next = Some(now.saturating_add(u64::from(current) << self.divisor_shift()));
            }
        } else {
            self.initial = 0;
            self.next = None;
        }
        self.mode = mode;
    }

    /// Takes a new divide configuration; a running count starts again from its current value.
    pub fn set_divide(&mut self, divide: u32, now: u64) {
        let current = self.current(now);
        self.divide = divide & 0xb;
        if self.mode != Mode::Deadline && self.next.is_some() {
            self.next = Some(now.saturating_add(u64::from(current) << self.divisor_shift()));
        }
    }

    /// Starts a count; 0 stops it. Without effect in deadline mode.
    pub fn set_initial(&mut self, count: u32, now: u64) {
        if matches!(self.mode, Mode::Deadline | Mode::Reserved) {
            return;
        }
        self.initial = count;
        self.next = (count != 0).then(|| now.saturating_add(self.period()));
    }

    /// The guest has moved its TSC on by this much, which a running count does not take notice of.
    pub fn move_clock(&mut self, by: u64) {
        if self.mode != Mode::Deadline {
            self.next = self.next.map(|next| next.wrapping_add(by));
        }
    }

    /// IA32_TSC_DEADLINE: 0 disarms. Without effect in other modes.
    #[inline]
    pub fn set_deadline(&mut self, tsc: u64) {
        if self.mode == Mode::Deadline {
            self.next = (tsc != 0).then_some(tsc);
        }
    }

    /// IA32_TSC_DEADLINE as it reads: 0 when it is not armed or the mode is another.
    pub fn deadline(&self) -> u64 {
        match self.mode {
            Mode::Deadline => self.next.unwrap_or(0),
            _ => 0,
        }
    }

    /// Current count register.
    pub fn current(&self, now: u64) -> u32 {
        match (self.mode, self.next) {
            (Mode::OneShot | Mode::Periodic, Some(next)) => {
                let left = next.saturating_sub(now) >> self.divisor_shift();
                left.min(self.initial.into()) as u32
            }
            _ => 0,
        }
    }

    /// Whether it fires by `now`. A periodic timer then waits for the next period that is still to
    /// come: periods that passed unseen are not made up for.
    pub fn expire(&mut self, now: u64) -> bool {
        let Some(next) = self.next.filter(|&next| next <= now) else {
            return false;
        };
        self.next = match self.mode {
            Mode::Periodic if self.period() != 0 => {
                let missed = (now - next) / self.period();
                Some(next.saturating_add((missed + 1).saturating_mul(self.period())))
            }
            _ => None,
        };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_down_once_or_again_and_again() {
        let mut timer = Timer::default();
        timer.set_divide(0b0011, 0); // 16
        timer.set_initial(100, 1000);
        assert_eq!(timer.next(), Some(2600));
        assert_eq!((timer.current(1000), timer.current(1016), timer.current(9999)), (100, 99, 0));
        assert!(!timer.expire(2599));
        assert!(timer.expire(2600));
        assert!(!timer.expire(u64::MAX));
        timer.set_mode(Mode::Periodic, 3000);
        timer.set_divide(0b1011, 3000); // 1
        timer.set_initial(10, 3000);
        assert!(timer.expire(3035));
        assert_eq!(timer.next(), Some(3040));
        assert_eq!(timer.current(3035), 5);
        timer.set_initial(0, 3036);
        assert!(!timer.expire(u64::MAX));
    }

    #[test]
    fn periods_end_where_the_clock_ends() {
        let mut timer = Timer::default();
        timer.set_mode(Mode::Periodic, 0);
        timer.set_divide(0b1011, 0); // 1
        timer.set_initial(3_000_000_000, 0);
        timer.set_divide(0b1010, 2_999_999_999); // 128, for the rest and for later periods
        assert_eq!(timer.next(), Some(2_999_999_999 + 128));
        assert!(timer.expire(u64::MAX));
        assert_eq!(timer.next(), Some(u64::MAX));
    }

    #[test]
    fn deadlines_belong_to_their_mode() {
        let mut timer = Timer::default();
        timer.set_deadline(5);
        assert_eq!(timer.next(), None);
        timer.set_mode(Mode::Deadline, 0);
        timer.set_initial(7, 0);
        assert_eq!(timer.next(), None);
        timer.set_deadline(5);
        assert_eq!(timer.deadline(), 5);
        timer.set_deadline(0);
        assert!(!timer.expire(9));
        timer.set_deadline(u64::MAX);
        timer.set_mode(Mode::OneShot, 0);
        assert!(!timer.expire(u64::MAX));
    }
}
