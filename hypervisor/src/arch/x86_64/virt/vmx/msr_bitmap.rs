//! Which MSRs guests access without an exit: one bitmap for all (Intel SDM 3C 25.6.9).

use x86::msr;

/// MSRs that VM entry and exit switch, or `SwitchedMsrs`, and that any value of is harmless.
const FREE: [u32; 7] = [
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_PAT,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GSBASE,
];
/// MSRs that guests read without an exit, but not write (see `SwitchedMsrs`).
const READABLE: [u32; 4] = [msr::IA32_STAR, msr::IA32_LSTAR, msr::IA32_CSTAR, msr::IA32_FMASK];

/// Reads of low and of high MSRs, writes of low and of high MSRs: a set bit exits.
#[repr(C, align(4096))]
pub(super) struct MsrBitmap([u8; 4096]);

const WRITES: usize = 2048;

impl MsrBitmap {
    const fn new() -> MsrBitmap {
        let mut map = MsrBitmap([0xff; 4096]);
        let mut i = 0;
        while i < FREE.len() {
            map.clear(0, FREE[i]);
            map.clear(WRITES, FREE[i]);
            i += 1;
        }
        let mut i = 0;
        while i < READABLE.len() {
            map.clear(0, READABLE[i]);
            i += 1;
        }
        map
    }

    const fn clear(&mut self, base: usize, number: u32) {
        let half = if number >= 0xc000_0000 { 1024 } else { 0 };
        let bit = number & 0x1fff;
        self.0[base + half + (bit / 8) as usize] &= !(1 << (bit % 8));
    }
}

pub(super) static MSR_BITMAP: MsrBitmap = MsrBitmap::new();

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(write: bool, number: u32) -> bool {
        let base = if write { WRITES } else { 0 } + if number >= 0xc000_0000 { 1024 } else { 0 };
        let bit = (number & 0x1fff) as usize;
        MSR_BITMAP.0[base + bit / 8] >> (bit % 8) & 1 != 0
    }

    #[test]
    fn only_harmless_msrs_are_free() {
        let (mut reads, mut writes) = (0, 0);
        for number in (0..0x2000).chain(0xc000_0000..0xc000_2000) {
            reads += u32::from(!exits(false, number));
            writes += u32::from(!exits(true, number));
        }
        assert_eq!((reads, writes), (11, 7));
        assert!(!exits(false, 0xc000_0102) && !exits(true, 0xc000_0102));
        assert!(!exits(false, 0xc000_0082) && exits(true, 0xc000_0082));
        assert!(exits(false, 0xc000_0080) && exits(true, 0xc000_0080));
        assert!(exits(true, 0x1b) && exits(true, 0x38f) && exits(true, 0xda0));
    }
}
