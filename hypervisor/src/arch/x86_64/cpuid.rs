//! What the CPU says of itself (Intel SDM 2A, CPUID).

use raw_cpuid::{CpuIdResult, cpuid};

/// Sub-leaf `sub` of leaf `number`; zeros if the CPU does not have the leaf. A leaf from 4000_0000h on means something only
/// under a hypervisor.
#[inline(never)]
pub fn leaf(number: u32, sub: u32) -> CpuIdResult {
    // Each range begins with a leaf that says which one is its last.
    let last = cpuid!(number & 0xf000_0000).eax;
    if number <= last {
        cpuid!(number, sub)
    } else {
        CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    }
}

/// Whether EBX of leaf 0 is that of AMD's CPUs and their kin: "Auth" or "Hygo".
pub fn is_amd(ebx: u32) -> bool {
    [*b"Auth", *b"Hygo"].map(u32::from_le_bytes).contains(&ebx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors() {
        assert!(is_amd(u32::from_le_bytes(*b"Auth")));
        assert!(!is_amd(u32::from_le_bytes(*b"Genu")));
    }

    #[test]
    fn leaves_that_are_not_there_are_zeros() {
        assert_ne!(leaf(1, 0).edx, 0);
        assert_eq!(leaf(0x0fff_ffff, 0).eax, 0);
    }
}
