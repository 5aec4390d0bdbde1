//! Which MSRs guests access without an exit: one bitmap for all (Intel SDM 3C 25.6.9).

use x86::msr;

use super::super::map::ExitMap;

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
const READABLE: [u32; 4] = [
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
];

/// Reads of low and of high MSRs, writes of low and of high MSRs.
pub(super) static MSR_BITMAP: ExitMap<512> = ExitMap::new();

/// First bit of the half for writes.
const WRITES: usize = 2048 * 8;

/// Fills the bitmap.
pub(super) fn fill() {
    let writable = FREE.iter().map(|&number| WRITES + place(number));
    let readable = FREE.iter().chain(&READABLE).map(|&number| place(number));
    MSR_BITMAP.fill(writable.chain(readable));
}

fn place(number: u32) -> usize {
    let half = if number >= 0xc000_0000 { 1024 * 8 } else { 0 };
    half + (number & 0x1fff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_msrs_are_free() {
        fill();
        let exits =
            |write, number| MSR_BITMAP.exits(if write { WRITES } else { 0 } + place(number));
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
