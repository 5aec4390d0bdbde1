//! Vector registers. They are a guest's: threads have none, the kernel uses none.

use crate::arch::entry::pairs;
use crate::arch::sysreg::{read, write};
use core::arch::asm;

/// V0 to V31, FPSR (S3_3_C4_C4_1) and FPCR (S3_3_C4_C4_0).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub struct Fp {
    v: [[u64; 2]; 32],
    fpsr: u64,
    fpcr: u64,
}

/// Loads or stores all, in a row to whose start x0 points.
macro_rules! vectors {
    ($move:literal) => {
        pairs!(
            $move, "q", "x0", 0, 16, 0 1, 2 3, 4 5, 6 7, 8 9, 10 11, 12 13, 14 15, 16 17, 18 19,
            20 21, 22 23, 24 25, 26 27, 28 29, 30 31
        )
    };
}

impl Fp {
    /// Reads the registers.
    #[inline(never)]
    pub fn save(&mut self) {
        // SAFETY: fills the array.
        unsafe {
            asm!(".arch_extension fp", vectors!("stp"), in("x0") &mut self.v, options(nostack, preserves_flags))
        }
        self.fpsr = read!("S3_3_C4_C4_1");
        self.fpcr = read!("S3_3_C4_C4_0");
    }

    /// Writes the registers.
    #[inline(never)]
    pub fn load(&self) {
        // SAFETY: no code of the kernel or of threads has anything in these registers.
        unsafe {
            asm!(".arch_extension fp", vectors!("ldp"), in("x0") &self.v, options(nostack, preserves_flags))
        }
        write!("S3_3_C4_C4_1", self.fpsr);
        write!("S3_3_C4_C4_0", self.fpcr);
    }
}
