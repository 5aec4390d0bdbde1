//! AArch64: SVC, entry points, the physical counter, caches. There are no I/O ports.
use super::{Registers, bulkhead_main};
use core::arch::{asm, naked_asm};
use core::ops::Range;

/// SVC with these registers; the operands that follow say what else the kernel changes.
#[macro_export]
macro_rules! svc {
    ($r:ident, $($more:tt)*) => {
        ::core::arch::asm!(
            "svc #0",
            inlateout("x0") $r.tag,
            inlateout("x1") $r.first,
            inlateout("x2") $r.words[0],
            inlateout("x3") $r.words[1],
            inlateout("x4") $r.words[2],
            inlateout("x5") $r.words[3],
            inlateout("x6") $r.words[4],
            inlateout("x7") $r.words[5],
            inlateout("x8") $r.words[6],
            inlateout("x9") $r.words[7],
            $($more)*
        )
    };
}

/// A system call other than `Call` and `ReplyWait`.
#[inline(always)]
pub fn system_call(mut r: Registers) -> Registers {
    // SAFETY: the kernel changes only the registers named here (abi: register table). What an operation
    // does to this program's address space is bounded by the capabilities that the program holds.
    unsafe { svc!(r, options(nostack, preserves_flags)) }
    r
}

/// A portal call: as [`system_call`], but the kernel scrubs `x10` to `x18` too and leaves the flags undefined.
#[inline(always)]
pub fn call_portal(mut r: Registers) -> Registers {
    // SAFETY: as in `system_call`.
    unsafe {
        svc!(
            r,
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
    r
}

/// Entry point of a program. The root task's `x1` is the address of the boot information.
#[unsafe(naked)]
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "mov x9, sp",
        "and sp, x9, #-16",
        "mov x0, x1",
        "bl {main}",
        "udf #0",
        main = sym bulkhead_main,
    )
}

/// Entry point of handler threads. They start here with their first call: registers as after
/// `ReplyWait`, and at the top of the stack the address of a [`crate::handler::Context`].
#[unsafe(naked)]
pub extern "C" fn handler_entry() -> ! {
    // The frame of 80 bytes is a `Registers`; `sp` stays 16-byte aligned.
    naked_asm!(
        "sub sp, sp, #80",
        "2:",
        "stp x0, x1, [sp]",
        "stp x2, x3, [sp, #16]",
        "stp x4, x5, [sp, #32]",
        "stp x6, x7, [sp, #48]",
        "stp x8, x9, [sp, #64]",
        "ldr x0, [sp, #80]",
        "mov x1, sp",
        "bl {dispatch}",
        "ldp x0, x1, [sp]",
        "ldp x2, x3, [sp, #16]",
        "ldp x4, x5, [sp, #32]",
        "ldp x6, x7, [sp, #48]",
        "ldp x8, x9, [sp, #64]",
        "svc #0",
        "b 2b",
        dispatch = sym crate::handler::dispatch,
    )
}

/// Entry point of threads with a scheduling context: at the top of the stack lies the address of a
/// [`crate::thread::Start`].
#[unsafe(naked)]
pub extern "C" fn thread_entry() -> ! {
    naked_asm!(
        "mov x29, xzr",
        "mov x30, xzr",
        "ldr x0, [sp]",
        "bl {run}",
        "udf #0",
        run = sym crate::thread::run,
    )
}

/// The machine's counter (CNTPCT_EL0).
#[inline(always)]
pub fn counter() -> u64 {
    let value;
    // SAFETY: only reads the counter, which the kernel leaves open to user programs. Without the barrier the
    // read could be executed early.
    unsafe {
        asm!("isb", "mrs {}, cntpct_el0", out(reg) value, options(nostack, preserves_flags));
    }
    value
}

/// Ends the thread with an exception, which its exception portal reports.
pub fn crash() -> ! {
    // SAFETY: UDF is undefined for ever and has no other effect.
    unsafe { asm!("udf #0", options(noreturn, nomem, nostack)) }
}

/// Cache properties (CTR_EL0; Arm ARM, D19.2.34).
#[derive(Clone, Copy)]
struct CacheType(u64);

impl CacheType {
    fn read() -> CacheType {
        let value;
        // SAFETY: only reads the register, which the kernel leaves open to user programs.
        unsafe { asm!("mrs {}, ctr_el0", out(reg) value, options(nomem, nostack, preserves_flags)) }
        CacheType(value)
    }

    /// Smallest line of the data caches in bytes.
    fn data_line(self) -> usize {
        4 << (self.0 >> 16 & 0xf)
    }

    /// Smallest line of the instruction caches in bytes.
    fn instruction_line(self) -> usize {
        4 << (self.0 & 0xf)
    }

    /// Instruction fetches see the data caches (IDC).
    fn fetches_see_data(self) -> bool {
        self.0 & 1 << 28 != 0
    }

    /// Instruction caches follow writes (DIC).
    fn instructions_follow(self) -> bool {
        self.0 & 1 << 29 != 0
    }
}

/// Addresses of the cache lines that overlap `range`.
fn lines(range: &Range<usize>, line: usize) -> impl Iterator<Item = usize> + use<> {
    (range.start & !(line - 1)..range.end).step_by(line)
}

/// Makes code that was written to these addresses visible to instruction fetches on whatever CPU: at these addresses, and at whatever
/// others it is mapped executable after this. The range is mapped readable; a page that is not ends the program.
pub fn make_executable(range: Range<usize>) {
    let caches = CacheType::read();
    if !caches.fetches_see_data() {
        for line in lines(&range, caches.data_line()) {
            // SAFETY: changes no contents; what is not mapped raises an exception.
            unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack, preserves_flags)) }
        }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack, preserves_flags)) }
    if !caches.instructions_follow() {
        for line in lines(&range, caches.instruction_line()) {
            // SAFETY: as above.
            unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack, preserves_flags)) }
        }
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) }
}

/// Writes what the caches hold of these addresses back to memory (point of coherency) and forgets it, for others
/// that read and write there with their caches off. The range is mapped readable; a page that is not ends the program.
pub fn clean_to_memory(range: Range<usize>) {
    for line in lines(&range, CacheType::read().data_line()) {
        // SAFETY: changes no contents; what is not mapped raises an exception.
        unsafe { asm!("dc civac, {}", in(reg) line, options(nostack, preserves_flags)) }
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) }
}

/// Reads an I/O port: there is none, so as if nothing were there.
///
/// # Safety
/// None here; see the x86 version.
pub unsafe fn port_in(_port: u16) -> u8 {
    0xff
}

/// Writes an I/O port: without effect.
///
/// # Safety
/// None here; see the x86 version.
pub unsafe fn port_out(_port: u16, _value: u8) {}
