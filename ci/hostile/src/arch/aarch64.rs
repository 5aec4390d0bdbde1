//! AArch64.

use abi::boot::{BootInfo, ROOT_MEMORY, ROOT_SPACE};
use abi::cap::MemoryKind;
use abi::{Rights, Selector};
use core::arch::naked_asm;
use core::fmt::{self, Write};
use rt::arch::Registers;
use rt::mmio::Mmio;
use rt::syscall::{self, MapParameters};

pub mod guest;
pub mod moves;

/// Flags of a thread that starts.
pub const FLAGS: u64 = 0;

/// Where the UART's registers are mapped.
const UART: u64 = 0x6100_0000;
const PAGE: u64 = abi::PAGE_SIZE as u64;

/// Where the driver's second thread starts.
#[unsafe(naked)]
pub extern "C" fn watch_entry() -> ! {
    naked_asm!("bl {watch}", "udf #0", watch = sym crate::driver::watch)
}

/// Where hostile threads start, and start anew after an exception. The stack pointer is that of their
/// [`crate::place::Control`].
#[unsafe(naked)]
pub extern "C" fn entry() -> ! {
    naked_asm!(
        "mov x0, sp",
        "sub x9, x0, #128",
        "and sp, x9, #-16",
        "mov x29, xzr",
        "bl {main}",
        "udf #0",
        main = sym crate::victim::main,
    )
}

/// Place of the register that keeps the tag among those of an exception ([`abi::utcb::exception`]).
pub const KEPT: usize = 20;

/// Any system call, and its tag again, as a register has kept it: the stack may have been somebody else's meanwhile.
#[inline(always)]
pub fn system_call(mut r: Registers) -> (Registers, u64) {
    let mut kept = r.tag;
    // SAFETY: as for `rt::arch::call_portal`.
    unsafe {
        rt::svc!(
            r,
            inlateout("x20") kept,
            lateout("x10") _,
            lateout("x11") _,
            lateout("x12") _,
            lateout("x13") _,
            lateout("x14") _,
            lateout("x15") _,
            lateout("x16") _,
            lateout("x17") _,
            lateout("x18") _,
            options(nostack),
        )
    }
    (r, kept)
}

/// A PL011's registers.
struct Uart(Mmio);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const DATA: usize = 0x00;
        const FLAGS: usize = 0x18;
        const FULL: u32 = 1 << 5;
        for byte in text.bytes() {
            while self.0.read(FLAGS).is_ok_and(|flags| flags & FULL != 0) {}
            let _ = self.0.write(DATA, byte.into());
        }
        Ok(())
    }
}

/// Makes the UART that the kernel wrote its log to ready for [`line`]; returns what that needs.
pub fn open_uart(info: &BootInfo, mapping: Selector) -> u64 {
    for (number, region) in (0..).zip(info.regions()) {
        let offset = info.uart_memory.wrapping_sub(region.base);
        if region.memory_kind() == Some(MemoryKind::Device) && offset < region.size {
            let p = MapParameters { offset, address: UART, size: PAGE, rights: Rights::RW };
            if syscall::map(ROOT_MEMORY.offset(number), ROOT_SPACE, mapping, &p).is_ok() {
                return UART;
            }
        }
    }
    0
}

/// Prints one line.
pub fn line(uart: u64, _mapping: Selector, text: fmt::Arguments<'_>) {
    if uart != 0 {
        // SAFETY: `open_uart` has mapped the page for ever; the kernel has left the device to this program.
        let registers = unsafe { Mmio::new(uart as usize, PAGE as usize) };
        let _ = writeln!(Uart(registers), "{text}\r");
    }
}
