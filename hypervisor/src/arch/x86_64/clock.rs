//! The TSC as the machine's counter: its frequency, and delays.

use core::arch::x86_64::_rdtsc;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use x86::io::{inb, inl, outb};

use super::cpuid::leaf;
use super::interrupts::apic;

static TSC_HZ: AtomicU64 = AtomicU64::new(0);

/// The counter.
#[inline]
pub fn now() -> u64 {
    // SAFETY: every 64-bit CPU has RDTSC.
    unsafe { _rdtsc() }
}

/// Frequency of the counter in Hz; 0 before [`calibrate`].
pub fn tsc_hz() -> u64 {
    TSC_HZ.load(Relaxed)
}

/// Counter ticks in `micros` microseconds, of which there are no more than a few millions.
pub fn ticks(micros: u64) -> u64 {
    micros.saturating_mul(tsc_hz()) / 1_000_000
}

/// Waits until `done` or for `micros` microseconds; whether it was done.
#[inline(never)]
pub fn wait_until(micros: u64, done: &dyn Fn() -> bool) -> bool {
    let (start, limit) = (now(), ticks(micros));
    loop {
        if done() {
            return true;
        }
        if now().wrapping_sub(start) >= limit {
            return false;
        }
        spin_loop();
    }
}

/// Waits for `micros` microseconds.
pub fn delay(micros: u64) {
    wait_until(micros, &|| false);
}

/// A counter of known frequency.
#[derive(Clone, Copy, Debug)]
struct Reference {
    /// I/O port of ACPI's power-management timer (ACPI 6.4, 4.8.2.1); `None`: [`PIT`].
    pm_timer: Option<u16>,
    /// Ticks in a second.
    hz: u64,
    /// Bits that all implementations have.
    mask: u32,
}

/// Channel 2 of the 8254 timer, whose gate is under software control and which interrupts nobody.
const PIT: Reference = Reference { pm_timer: None, hz: 1_193_182, mask: 0xffff };

/// Ports and commands of the 8254 (Intel 8254 data sheet) and its gate in the PC's system control port.
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
/// Channel 2 (bits 7:6), low then high byte (5:4), mode 0 (3:1): counts down once from the loaded value.
const PIT_ONE_SHOT: u8 = 0b1011_0000;
/// Channel 2 (bits 7:6): keep the count for reading (5:4).
const PIT_LATCH: u8 = 0b1000_0000;
const SYSTEM_CONTROL: u16 = 0x61;
const GATE_2: u8 = 1 << 0;
const SPEAKER: u8 = 1 << 1;

/// Length of one measurement, in microseconds: the 8254 counts 54 ms.
const WINDOW_MICROS: u64 = 10_000;
/// Measurements; the first good one ends the series.
const MAX_ROUNDS: u32 = 4;
/// Readings of which the fastest counts: the others were disturbed.
const READINGS: u32 = 16;
/// Good is an error below this fraction of the window.
const GOOD_FRACTION: u64 = 10_000;
/// Readings after which a reference that stands still is taken for absent.
const MAX_STANDSTILL: u32 = 100_000;

/// The three counters: at one moment, or from one to another.
#[derive(Clone, Copy)]
struct Reading {
    tsc: u64,
    timer: u32,
    reference: u32,
    /// TSC ticks between which the reference was read.
    uncertainty: u64,
}

impl Reference {
    fn start(self) {
        if self.pm_timer.is_none() {
            // SAFETY: these ports are the PC's timer and speaker; nobody else uses them during boot.
            unsafe {
                outb(SYSTEM_CONTROL, (inb(SYSTEM_CONTROL) & !SPEAKER) | GATE_2);
                outb(PIT_COMMAND, PIT_ONE_SHOT);
                outb(PIT_CHANNEL_2, 0xff);
                outb(PIT_CHANNEL_2, 0xff);
            }
        }
    }

    /// One reading; counts upwards.
    fn read(self) -> Reading {
        let before = now();
        let read = match self.pm_timer {
            // SAFETY: firmware says that the port is the timer's; reading has no side effects.
            Some(port) => Some(unsafe { inl(port) }),
            None => {
                // SAFETY: as in `start`. The latch keeps the count of this moment.
                unsafe { outb(PIT_COMMAND, PIT_LATCH) };
                None
            }
        };
        let timer = apic::counted();
        let uncertainty = now().wrapping_sub(before);
        let reference = read.unwrap_or_else(|| {
            // SAFETY: as in `start`.
            let count = unsafe { [inb(PIT_CHANNEL_2), inb(PIT_CHANNEL_2)] };
            u32::from(u16::MAX - u16::from_le_bytes(count))
        });
        Reading { tsc: before.wrapping_add(uncertainty / 2), timer, reference, uncertainty }
    }

    /// The least disturbed of several readings.
    fn read_well(self) -> Option<Reading> {
        (0..READINGS).map(|_| self.read()).min_by_key(|reading| reading.uncertainty)
    }

    /// What lies between two readings.
    const fn elapsed(self, from: Reading, to: Reading) -> Reading {
        Reading {
            tsc: to.tsc.wrapping_sub(from.tsc),
            timer: to.timer.wrapping_sub(from.timer),
            reference: to.reference.wrapping_sub(from.reference) & self.mask,
            uncertainty: from.uncertainty + to.uncertainty,
        }
    }

    /// Measures once; `None` if the reference stands still.
    fn measure(self) -> Option<Reading> {
        self.start();
        let first = self.read_well()?;
        let window = (self.hz * WINDOW_MICROS / 1_000_000) as u32;
        let mut standstill = 0;
        let mut last = first;
        loop {
            let reading = self.read();
            // The 8254 wraps after 54 ms; a jump that far is a disturbance.
            if self.elapsed(first, reading).reference >= window {
                return Some(self.elapsed(first, self.read_well()?));
            }
            standstill = if reading.reference == last.reference { standstill + 1 } else { 0 };
            if standstill > MAX_STANDSTILL {
                return None;
            }
            last = reading;
            spin_loop();
        }
    }

    /// The best of several measurements.
    fn measure_well(self) -> Option<Reading> {
        let mut best: Option<Reading> = None;
        for _ in 0..MAX_ROUNDS {
            let measured = self.measure()?;
            if best.is_none_or(|best| measured.uncertainty < best.uncertainty) {
                best = Some(measured);
            }
            if measured.uncertainty < measured.tsc / GOOD_FRACTION {
                break;
            }
        }
        best
    }
}

/// Finds the frequency of the TSC, and how fast the local APIC's timer is beside it, in 10 to 50 ms. `pm_timer` is the port
/// of ACPI's timer, used if there is no 8254. Returns whether it found them.
pub fn calibrate(pm_timer: Option<u16>) -> bool {
    apic::start_counting();
    let pm_timer = pm_timer.map(|_| Reference { pm_timer, hz: 3_579_545, mask: 0xff_ffff });
    let mut references = [Some(PIT), pm_timer].into_iter().flatten();
    let Some((hz, elapsed)) = references.find_map(|by| Some((by.hz, by.measure_well()?))) else {
        return false;
    };
    // A window has far fewer ticks than 64 bits can hold 3579545 times.
    let measured = elapsed.tsc.saturating_mul(hz) / u64::from(elapsed.reference).max(1);
    let tsc_hz = match reported_tsc_hz() {
        // Exact where it is right; some emulators report what real CPUs do, not what they do.
        Some(hz) if hz.abs_diff(measured) < measured / 100 => hz,
        _ => measured,
    };
    TSC_HZ.store(tsc_hz, Relaxed);
    apic::TIMER_RATIO
        .store(((u64::from(elapsed.timer) << 32) / elapsed.tsc.max(1)).max(1), Relaxed);
    tsc_hz != 0
}

/// The TSC's frequency as the hypervisor below (leaf 0x40000010, VMware's) or the CPU reports it (leaf
/// 0x15: crystal's frequency and ratio, Intel SDM 3A 18.7.3).
fn reported_tsc_hz() -> Option<u64> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    if leaf(1, 0).ecx & HYPERVISOR_PRESENT != 0 {
        let khz = leaf(0x4000_0010, 0).eax;
        if khz != 0 {
            return Some(u64::from(khz) * 1000);
        }
    }
    let ratio = leaf(0x15, 0);
    let hz = (u64::from(ratio.ecx) * u64::from(ratio.ebx)).checked_div(ratio.eax.into())?;
    (hz != 0).then_some(hz)
}
