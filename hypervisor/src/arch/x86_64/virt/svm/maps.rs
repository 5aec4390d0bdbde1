//! What guests do without an exit: no port, and MSRs that VMLOAD, VMSAVE and VMRUN switch. One pair of maps
//! for all (AMD APM 2 15.10, 15.11).

use x86::msr;

use super::super::map::ExitMap;

/// MSRs that guests read and write without an exit.
const FREE: [u32; 11] = [
    msr::IA32_SYSENTER_CS,
    msr::IA32_SYSENTER_ESP,
    msr::IA32_SYSENTER_EIP,
    msr::IA32_PAT,
    msr::IA32_STAR,
    msr::IA32_LSTAR,
    msr::IA32_CSTAR,
    msr::IA32_FMASK,
    msr::IA32_FS_BASE,
    msr::IA32_GS_BASE,
    msr::IA32_KERNEL_GSBASE,
];

/// I/O permission map: three pages.
pub(super) static PORT_MAP: ExitMap<1536> = ExitMap::new();
/// MSR permission map: two pages, two bits an MSR, read and write.
pub(super) static MSR_MAP: ExitMap<1024> = ExitMap::new();

/// Fills both maps.
pub(super) fn fill() {
    PORT_MAP.fill(core::iter::empty());
    MSR_MAP.fill(
        FREE.iter()
            .flat_map(|&number| [place(number), place(number) + 1]),
    );
}

/// First of the two bits of an MSR.
fn place(number: u32) -> usize {
    let base = if number >= 0xc000_0000 { 2048 * 8 } else { 0 };
    base + 2 * (number & 0x1fff) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_msrs_are_free() {
        fill();
        let clear = (0..1024 * 64).filter(|&bit| !MSR_MAP.exits(bit)).count();
        assert_eq!(clear, 2 * FREE.len());
        let exits = |number| {
            (
                MSR_MAP.exits(place(number)),
                MSR_MAP.exits(place(number) + 1),
            )
        };
        assert_eq!(exits(0xc000_0102), (false, false));
        assert_eq!(exits(0x277), (false, false));
        for number in [0x1b, 0xc000_0080, 0xc000_0103, 0x38f] {
            assert_eq!(exits(number), (true, true));
        }
        assert!((0..1536 * 64).all(|bit| PORT_MAP.exits(bit)));
    }
}
