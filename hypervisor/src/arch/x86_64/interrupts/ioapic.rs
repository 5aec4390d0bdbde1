//! I/O APICs: from interrupt lines to vectors of CPUs (Intel 82093AA data sheet, 3.0).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use bitflags::bitflags;
use spin::mutex::SpinMutex;
use x86::io::outb;

use super::super::firmware::madt::{ApicId, Gsi, Line, MAX_IO_APICS, Platform, Polarity, Trigger};
use crate::log;

use super::super::boot::BOOT_MEMORY_END;
use super::super::layout::window;

/// Index and data register in the I/O APIC's page, and the registers behind them.
const SELECT: u64 = 0x00;
const DATA: u64 = 0x10;
const VERSION: u32 = 1;
const FIRST_ENTRY: u32 = 0x10;
/// Bytes of registers.
const SIZE: u64 = 0x20;

bitflags! {
    /// Low half of a redirection entry (3.2.4); 7:0 is the vector, delivery to one CPU by its number.
    #[derive(Clone, Copy)]
    struct Entry: u32 {
        const ACTIVE_LOW = 1 << 13;
        const LEVEL = 1 << 15;
        const MASKED = 1 << 16;
    }
}

/// One I/O APIC; its two registers are used under the lock.
struct IoApic {
    base: AtomicU64,
    first: AtomicU32,
    /// 0 until the others are valid.
    pins: AtomicU32,
    lock: SpinMutex<()>,
}

/// A line that no I/O APIC has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchLine;

static IO_APICS: [IoApic; MAX_IO_APICS] = [const {
    IoApic {
        base: AtomicU64::new(0),
        first: AtomicU32::new(0),
        pins: AtomicU32::new(0),
        lock: SpinMutex::new(()),
    }
}; MAX_IO_APICS];

impl IoApic {
    fn register(&self, offset: u64) -> *mut u32 {
        (self.base.load(Relaxed) + offset) as *mut u32
    }

    fn read(&self, index: u32) -> u32 {
        let _guard = self.lock.lock();
        // SAFETY: firmware says that the I/O APIC is there, the window maps it, and the lock keeps
        // other CPUs off the pair of registers. Reading has no side effects.
        unsafe {
            self.register(SELECT).write_volatile(index);
            self.register(DATA).read_volatile()
        }
    }

    fn write(&self, index: u32, value: u32) {
        let _guard = self.lock.lock();
        // SAFETY: as in `read`; the registers that are written reach no memory.
        unsafe {
            self.register(SELECT).write_volatile(index);
            self.register(DATA).write_volatile(value);
        }
    }
}

/// Index of the low half of a pin's redirection entry; the high half follows.
const fn entry(pin: u32) -> u32 {
    FIRST_ENTRY + 2 * pin
}

/// Finds all I/O APICs and masks all lines, those of the two 8259s included.
pub fn init(platform: &Platform) {
    // SAFETY: these are the mask registers of the two 8259s on every PC, or unused ports.
    unsafe {
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
    }
    for (io_apic, info) in IO_APICS.iter().zip(platform.io_apics()) {
        let at = info.address;
        if at.0 > BOOT_MEMORY_END.0 - SIZE || !at.is_aligned(16) {
            log::warning!("I/O APIC at {at:?} left out: out of reach");
            continue;
        }
        io_apic.base.store(window(at).0, Relaxed);
        io_apic.first.store(info.first.0, Relaxed);
        let version = io_apic.read(VERSION);
        if version == u32::MAX {
            log::warning!("I/O APIC at {at:?} left out: nothing there");
            continue;
        }
        // Bits 23:16 are the last pin.
        let pins = (version >> 16 & 0xff) + 1;
        for pin in 0..pins {
            io_apic.write(entry(pin), Entry::MASKED.bits());
        }
        io_apic.pins.store(pins, Relaxed);
    }
}

/// The I/O APIC and pin of a line.
fn find(gsi: Gsi) -> Result<(&'static IoApic, u32), NoSuchLine> {
    for io_apic in &IO_APICS {
        let pin = gsi.0.wrapping_sub(io_apic.first.load(Relaxed));
        if pin < io_apic.pins.load(Relaxed) {
            return Ok((io_apic, pin));
        }
    }
    Err(NoSuchLine)
}

/// Number of lines: one more than the highest that exists.
pub fn lines() -> u32 {
    let mut lines = 0;
    for io_apic in &IO_APICS {
        let pins = io_apic.pins.load(Relaxed);
        if pins > 0 {
            lines = io_apic.first.load(Relaxed).saturating_add(pins).max(lines);
        }
    }
    lines
}

/// Sends `line` to `vector` of the CPU `to`, which has an APIC number below 256. It stays masked.
pub fn route(line: Line, vector: u8, to: ApicId) -> Result<(), NoSuchLine> {
    let (io_apic, pin) = find(line.gsi)?;
    let mut low = Entry::MASKED;
    low.set(Entry::LEVEL, line.trigger == Trigger::Level);
    low.set(Entry::ACTIVE_LOW, line.polarity == Polarity::Low);
    io_apic.write(entry(pin), low.bits() | u32::from(vector));
    io_apic.write(entry(pin) + 1, to.0 << 24);
    Ok(())
}

/// Keeps the line from interrupting. An edge that comes meanwhile is lost, a level is not.
pub fn mask(gsi: Gsi) -> Result<(), NoSuchLine> {
    let (io_apic, pin) = find(gsi)?;
    io_apic.write(entry(pin), io_apic.read(entry(pin)) | Entry::MASKED.bits());
    Ok(())
}

/// Lets the line interrupt.
pub fn unmask(gsi: Gsi) -> Result<(), NoSuchLine> {
    let (io_apic, pin) = find(gsi)?;
    io_apic.write(entry(pin), io_apic.read(entry(pin)) & !Entry::MASKED.bits());
    Ok(())
}
