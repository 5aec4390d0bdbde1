//! x86-64.

use abi::boot::{BootInfo, ROOT_PORTS, ROOT_SPACE};
use abi::{Rights, Selector};
use core::arch::naked_asm;
use core::fmt::{self, Write};
use rt::arch::{Registers, port_in, port_out};
use rt::syscall::{self, MapParameters};

pub mod guest;
pub mod moves;

/// Flags of a thread that starts.
pub const FLAGS: u64 = 2;

/// Where the driver's second thread starts.
#[unsafe(naked)]
pub extern "C" fn watch_entry() -> ! {
    naked_asm!("and rsp, -16", "call {watch}", "ud2", watch = sym crate::driver::watch)
}

/// Where hostile threads start, and start anew after an exception. The stack pointer is that of their
/// [`crate::place::Control`].
#[unsafe(naked)]
pub extern "C" fn entry() -> ! {
    naked_asm!(
        "mov rdi, rsp",
        "sub rsp, 128",
        "and rsp, -16",
        "xor ebp, ebp",
        "cld",
        "call {main}",
        "ud2",
        main = sym crate::victim::main,
    )
}

/// Place of the register that keeps the tag among those of an exception ([`abi::utcb::exception`]).
pub const KEPT: usize = 15;

/// Any system call, and its tag again, as a register has kept it: the stack may have been somebody else's meanwhile. 0 for calls
/// and replies, where the kernel scrubs all registers.
#[inline(always)]
pub fn system_call(mut r: Registers) -> (Registers, u64) {
    let mut kept = r.tag;
    // SAFETY: as for `rt::arch::call_portal`.
    unsafe {
        rt::syscall!(
            ["push rbx", "push rbp", "syscall", "pop rbp", "pop rbx"],
            r,
            inlateout("r15") kept,
        )
    }
    (r, kept)
}

/// The UART's first port.
struct Uart(u16);

impl Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        const STATUS: u16 = 5;
        const EMPTY: u8 = 0x20;
        for byte in text.bytes() {
            // SAFETY: the device's ports are mapped, and the kernel has left it to this program.
            unsafe {
                while port_in(self.0 + STATUS) & EMPTY == 0 {}
                port_out(self.0, byte);
            }
        }
        Ok(())
    }
}

/// Makes the UART that the kernel wrote its log to ready for [`line`]; returns what that needs.
pub fn open_uart(info: &BootInfo, _mapping: Selector) -> u64 {
    info.uart_port
}

/// Prints one line. Ports are mapped for its duration only, so that the driver calls on the fast path.
pub fn line(uart: u64, mapping: Selector, text: fmt::Arguments<'_>) {
    let p = MapParameters { offset: uart, address: uart, size: 8, rights: Rights::RW };
    if syscall::map(ROOT_PORTS, ROOT_SPACE, mapping, &p).is_ok() {
        let _ = writeln!(Uart(uart as u16), "{text}\r");
        let _ = syscall::delete(mapping);
    }
}
