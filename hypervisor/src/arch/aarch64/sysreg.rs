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

pub(crate) use {read, write};

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

/// What was written before, entries of tables too, is seen by all CPUs before anything that follows.
#[inline(always)]
pub fn publish() {
    // SAFETY: a barrier.
    unsafe { core::arch::asm!("dsb ishst", options(nostack, preserves_flags)) };
}
