//! The generic timer: CNTPCT_EL0 as the machine's counter, the EL2 physical timer for deadlines (Arm ARM D12).

use super::sysreg::{isb, read, write};
use core::hint::spin_loop;

/// CNTHP_CTL_EL2: enabled, not masked.
const ENABLE: u64 = 1 << 0;

/// The counter.
#[inline(always)]
pub fn now() -> u64 {
    read!("cntpct_el0")
}

/// Frequency of the counter in Hz, as firmware has set it.
pub fn counter_hz() -> u64 {
    read!("cntfrq_el0") & 0xffff_ffff
}

/// Counter ticks in `micros` microseconds.
pub fn ticks(micros: u64) -> u64 {
    (u128::from(micros) * u128::from(counter_hz()) / 1_000_000) as u64
}

/// Waits until `done` or for `micros` microseconds; whether it was done.
pub fn wait_until(micros: u64, mut done: impl FnMut() -> bool) -> bool {
    let (start, limit) = (now(), ticks(micros));
    loop {
        if done() {
            return true;
        }
        isb();
        if now().wrapping_sub(start) >= limit {
            return false;
        }
        spin_loop();
    }
}

/// Sets this CPU's timer to fire at `deadline`; `u64::MAX`: never.
pub fn set_deadline(deadline: u64) {
    if deadline == u64::MAX {
        write!("cnthp_ctl_el2", 0);
    } else {
        write!("cnthp_cval_el2", deadline);
        write!("cnthp_ctl_el2", ENABLE);
    }
    isb();
}
