//! The table of what is passed through.

/// Bits by number.
pub(super) const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut i = 0;
    while i < numbers.len() {
        mask |= 1 << numbers[i];
        i += 1;
    }
    mask
}

pub(super) const ALL: u32 = u32::MAX;

/// Leaf 1, ECX: SSE3, PCLMUL, SSSE3, FMA, CMPXCHG16B, PCID, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX,
/// F16C, RDRAND. Not: MONITOR, VMX and SMX (not virtualised), DTES64, DS-CPL, PDCM and xTPR (MSRs),
/// EIST and TM2 (power), SDBG, DCA.
pub(super) const BASIC_ECX: u32 = bits(&[0, 1, 9, 12, 13, 17, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
/// Leaf 1, ECX, always: x2APIC, TSC deadline (both emulated), hypervisor.
pub(super) const BASIC_ECX_SET: u32 = bits(&[21, 24, 31]);
/// Leaf 1, ECX: OSXSAVE.
pub(super) const OSXSAVE: u32 = 1 << 27;
/// Leaf 1, ECX: XSAVE, AVX, FMA and F16C, which need it.
pub(super) const NEEDS_XSAVE: u32 = bits(&[26, 28, 12, 29]);
/// Leaf 1, EDX. Not: MCE and MCA (no machine check reaches a guest, but Linux wants the pair: shown with
/// no banks), PSN, DS, ACPI and TM (thermal MSRs), SS, HTT (set with more than one vCPU), PBE.
pub(super) const BASIC_EDX: u32 =
    bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);

/// Leaf 7.0, EBX: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, INVPCID, AVX512F/DQ, RDSEED, ADX, SMAP, AVX512IFMA,
/// CLFLUSHOPT, CLWB, AVX512CD, SHA, AVX512BW/VL. Not: TSC_ADJUST (Linux then reads it whenever it idles), SGX,
/// HLE and RTM, RDT, MPX, PT.
pub(super) const STRUCTURED_EBX: u32 =
    bits(&[0, 3, 5, 7, 8, 9, 10, 16, 17, 18, 19, 20, 21, 23, 24, 28, 29, 30, 31]);
/// Leaf 7.0, ECX: AVX512_VBMI, UMIP, VBMI2, GFNI, VAES, VPCLMULQDQ, VNNI, BITALG, VPOPCNTDQ, RDPID. Not: PKU, LA57
/// (not tried), CET, key locker, bus-lock detection, ENQCMD.
pub(super) const STRUCTURED_ECX: u32 = bits(&[1, 2, 6, 8, 9, 10, 11, 12, 14, 22]);
/// Leaf 7.0, EDX: FSRM and MD_CLEAR. Not: what needs SPEC_CTRL, PRED_CMD, FLUSH_CMD, ARCH_CAPABILITIES or
/// CORE_CAPABILITIES, which are not passed through, nor AMX, CET and hybrid processors.
pub(super) const STRUCTURED_EDX: u32 = bits(&[4, 10]);

/// Leaf 8000_0001h, ECX: LAHF, ABM, SSE4A, misaligned SSE, 3DNowPrefetch, XOP, FMA4, TBM. CMP_LEGACY is set
/// for several vCPUs, as cores. Not: TOPOEXT, SVM, extended APIC, OSVW, IBS, SKINIT, WDT, LWP, perf counters, MWAITX.
pub(super) const EXTENDED_ECX: u32 = bits(&[0, 5, 6, 7, 8, 11, 16, 21]);
/// Leaf 8000_0001h, ECX: XOP and FMA4, which need XSAVE.
pub(super) const EXTENDED_NEEDS_XSAVE: u32 = bits(&[11, 16]);
/// Leaf 8000_0001h, EDX: SYSCALL, NX, MMX extensions, 1-GiB pages, RDTSCP, long mode, and the copies of leaf 1. Not: FXSR
/// optimisation, whose EFER bit is not the guest's on every machine.
pub(super) const EXTENDED_EDX: u32 = bits(&[
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 26, 27, 29, 30, 31,
]);
/// Leaf 8000_0008h, EBX: CLZERO, XSAVEERPTR. Not: IBPB, IBRS, STIBP and SSBD (MSRs), RDPRU.
pub(super) const SIZES_EBX: u32 = bits(&[0, 2]);

/// Which sub-leaves a rule is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sub {
    /// The leaf has none.
    None,
    /// This one.
    Exact(u32),
    /// The first ones, until EAX bits 0–4 are 0 (caches).
    UntilNull,
}

/// What of the machine's answer is shown: masks for EAX, EBX, ECX, EDX.
pub(super) struct Rule(pub u32, pub Sub, pub [u32; 4]);

/// What is passed through. The rest is made up by [`super::Table`], or 0: 3 (serial number), 5
/// (MONITOR), 9 (DCA), 0xA (no PMU), 0xF and 0x10 (RDT), 0x12 (SGX), 0x14 (PT), 0x15 and 0x16 (frequencies: the KVM
/// interface tells them).
pub(super) const RULES: &[Rule] = &[
    Rule(0, Sub::None, [ALL; 4]),
    Rule(1, Sub::None, [ALL, 0x0000_ff00, BASIC_ECX, BASIC_EDX]),
    Rule(2, Sub::None, [ALL; 4]),
    // Caches, without the number of CPUs that share them; of cores there are those of the guest.
    Rule(4, Sub::UntilNull, [0x0000_3fff, ALL, ALL, ALL]),
    Rule(7, Sub::Exact(0), [0, STRUCTURED_EBX, STRUCTURED_ECX, STRUCTURED_EDX]),
    Rule(0x8000_0000, Sub::None, [ALL; 4]),
    Rule(0x8000_0001, Sub::None, [ALL, 0, EXTENDED_ECX, EXTENDED_EDX]),
    Rule(0x8000_0002, Sub::None, [ALL; 4]),
    Rule(0x8000_0003, Sub::None, [ALL; 4]),
    Rule(0x8000_0004, Sub::None, [ALL; 4]),
    Rule(0x8000_0005, Sub::None, [ALL; 4]),
    Rule(0x8000_0006, Sub::None, [ALL; 4]),
    // Invariant TSC.
    Rule(0x8000_0007, Sub::None, [0, 0, 0, 1 << 8]),
    Rule(0x8000_0008, Sub::None, [0x0000_ffff, SIZES_EBX, 0, 0]),
];

/// Highest basic leaf.
pub(super) const MAX_BASIC: u32 = 0xd;
/// Highest extended leaf.
pub(super) const MAX_EXTENDED: u32 = 0x8000_0008;

/// Leaf 0xD.1, EAX: XSAVEOPT, XSAVEC, XGETBV of 1. Not XSAVES: there are no supervisor components.
pub(super) const COMPACTION: u32 = bits(&[0, 1, 2]);
