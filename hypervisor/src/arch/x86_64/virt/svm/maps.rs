//! What guests do without an exit: no port, and MSRs that VMLOAD, VMSAVE and VMRUN switch. One pair of maps
//! for all (AMD APM 2 15.10, 15.11).

use x86::msr;

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

/// I/O permission map: a set bit exits.
#[repr(C, align(4096))]
pub(super) struct PortMap([u8; 3 * 4096]);

pub(super) static PORT_MAP: PortMap = PortMap([0xff; 3 * 4096]);

/// MSR permission map: two bits an MSR, read and write; a set one exits.
#[repr(C, align(4096))]
pub(super) struct MsrMap([u8; 2 * 4096]);

pub(super) static MSR_MAP: MsrMap = MsrMap::new();

impl MsrMap {
    const fn new() -> MsrMap {
        let mut map = MsrMap([0xff; 2 * 4096]);
        let mut i = 0;
        while i < FREE.len() {
            let (byte, shift) = place(FREE[i]);
            map.0[byte] &= !(3 << shift);
            i += 1;
        }
        map
    }
}

/// Byte of the map and position in it of an MSR's two bits.
const fn place(number: u32) -> (usize, u32) {
    let base = if number >= 0xc000_0000 { 2048 } else { 0 };
    let index = number & 0x1fff;
    (base + (index / 4) as usize, 2 * (index % 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_msrs_are_free() {
        let clear: u32 = MSR_MAP.0.iter().map(|byte| byte.count_zeros()).sum();
        assert_eq!(clear, 2 * FREE.len() as u32);
        let bits = |number| {
            let (byte, shift) = place(number);
            MSR_MAP.0[byte] >> shift & 3
        };
        assert_eq!(bits(0xc000_0102), 0);
        assert_eq!(bits(0x277), 0);
        for number in [0x1b, 0xc000_0080, 0xc000_0103, 0x38f] {
            assert_eq!(bits(number), 3);
        }
        assert!(PORT_MAP.0.iter().all(|&byte| byte == 0xff));
    }
}
