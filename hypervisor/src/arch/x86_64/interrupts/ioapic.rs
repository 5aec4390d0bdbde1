//! I/O APICs: from interrupt lines to vectors of CPUs (Intel 82093AA data sheet, 3.0).

use bitflags::bitflags;
use spin::mutex::SpinMutex;
use x86::io::outb;

use super::super::firmware::madt::{ApicId, Gsi, IoApic, Line, Platform};
use crate::log;

use super::super::boot::BOOT_MEMORY_END;
use super::super::layout::window;
use super::super::start::platform;

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

/// Held while the two registers of an I/O APIC are used.
static REGISTERS: SpinMutex<()> = SpinMutex::new(());

impl IoApic {
    fn register(&self, offset: u64) -> *mut u32 {
        window(self.address.offset(offset)).0 as *mut u32
    }

    fn read(&self, index: u32) -> u32 {
        let _guard = REGISTERS.lock();
        // SAFETY: firmware says that the I/O APIC is there, the window maps it, and the lock keeps
        // other CPUs off the pair of registers. Reading has no side effects.
        unsafe {
            self.register(SELECT).write_volatile(index);
            self.register(DATA).read_volatile()
        }
    }

    fn write(&self, index: u32, value: u32) {
        let _guard = REGISTERS.lock();
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
pub fn init(platform: &mut Platform) {
    // SAFETY: these are the mask registers of the two 8259s on every PC, or unused ports.
    unsafe {
        outb(0x21, 0xff);
        outb(0xa1, 0xff);
    }
    for io_apic in platform.io_apics_mut() {
        let at = io_apic.address;
        if at.0 > BOOT_MEMORY_END.0 - SIZE || !at.is_aligned(16) {
            log::warning!("I/O APIC at {at:?} left out: out of reach");
            continue;
        }
        let version = io_apic.read(VERSION);
        if version == u32::MAX {
            log::warning!("I/O APIC at {at:?} left out: nothing there");
            continue;
        }
        // Bits 23:16 are the last pin.
        io_apic.pins = (version >> 16 & 0xff) + 1;
        for pin in 0..io_apic.pins {
            io_apic.write(entry(pin), Entry::MASKED.bits());
        }
    }
}

/// The I/O APIC and pin of a line.
fn find(gsi: Gsi) -> Option<(&'static IoApic, u32)> {
    platform().io_apics().iter().find_map(|io_apic| {
        let pin = gsi.0.wrapping_sub(io_apic.first.0);
        (pin < io_apic.pins).then_some((io_apic, pin))
    })
}

/// Number of lines: one more than the highest that exists.
pub fn lines() -> u32 {
    let there = platform().io_apics().iter().filter(|io_apic| io_apic.pins > 0);
    there.map(|io_apic| io_apic.first.0.saturating_add(io_apic.pins)).max().unwrap_or(0)
}

/// Sends `line` to `vector` of the CPU `to`, which has an APIC number below 256. It stays masked. `None`: no I/O APIC has it.
pub fn route(line: Line, vector: u8, to: ApicId) -> Option<()> {
    let (io_apic, pin) = find(line.gsi)?;
    let mut low = Entry::MASKED;
    low.set(Entry::LEVEL, line.is_level);
    low.set(Entry::ACTIVE_LOW, line.is_active_low);
    io_apic.write(entry(pin), low.bits() | u32::from(vector));
    io_apic.write(entry(pin) + 1, to.0 << 24);
    Some(())
}

/// Keeps the line, if it is there, from interrupting. An edge that comes meanwhile is lost, a level is not.
pub fn mask(line: u32) {
    set_masked(line, true);
}

/// Lets the line interrupt.
pub fn unmask(line: u32) {
    set_masked(line, false);
}

fn set_masked(line: u32, masked: bool) {
    if let Some((io_apic, pin)) = find(Gsi(line)) {
        let mut low = Entry::from_bits_retain(io_apic.read(entry(pin)));
        low.set(Entry::MASKED, masked);
        io_apic.write(entry(pin), low.bits());
    }
}
