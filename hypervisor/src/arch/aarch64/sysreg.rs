//! Access to system registers by name.

/// Reads a system register.
macro_rules! read {
    ($name:expr) => {{
        let value: u64;
        // SAFETY: reading the registers named in this crate has no side effects that Rust knows of.
        unsafe {
            core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags))
        };
        value
    }};
}

/// Writes a system register. What that does to the machine is the caller's responsibility, beside it in a comment
/// where it is not plain.
macro_rules! write {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the registers written in this crate configure EL1, EL0 or devices, or are EL2's own, whose
        // values are constants of the kernel.
        unsafe {
            core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags))
        };
    }};
}

/// Accesses (`read`, `write`) register `$number` (0 to 7) of those whose names differ in the last digit.
macro_rules! numbered {
    ($access:ident, $name:literal, $number:expr $(, $value:expr)?) => {
        match $number {
            0 => $access!(concat!($name, "0") $(, $value)?),
            1 => $access!(concat!($name, "1") $(, $value)?),
            2 => $access!(concat!($name, "2") $(, $value)?),
            3 => $access!(concat!($name, "3") $(, $value)?),
            4 => $access!(concat!($name, "4") $(, $value)?),
            5 => $access!(concat!($name, "5") $(, $value)?),
            6 => $access!(concat!($name, "6") $(, $value)?),
            _ => $access!(concat!($name, "7") $(, $value)?),
        }
    };
}

pub(crate) use {numbered, read, write};

/// Context synchronisation: what was written to system registers takes effect.
#[inline(always)]
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("isb", options(nostack, preserves_flags)) };
}

/// Completes all memory accesses, cache and TLB maintenance of this CPU.
#[inline(always)]
pub fn dsb() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb sy", options(nostack, preserves_flags)) };
}
