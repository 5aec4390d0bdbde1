use super::rules::ALL;
use super::*;

/// A machine that has everything.
fn everything(leaf: u32, sub: u32) -> Leaf {
    let ones = Leaf { eax: ALL, ebx: ALL, ecx: ALL, edx: ALL };
    match (leaf, sub) {
        (0, _) => Leaf { eax: 0x20, ..ones },
        (0x8000_0000, _) => Leaf { eax: 0x8000_0020, ..ones },
        (4, 3..) => Leaf::default(),
        (0xd, 2) => Leaf { eax: 256, ebx: 576, ..Leaf::default() },
        (0xd, 5) => Leaf { eax: 64, ebx: 1088, ..Leaf::default() },
        (0xd, 6) => Leaf { eax: 512, ebx: 1152, ..Leaf::default() },
        (0xd, 7) => Leaf { eax: 1024, ebx: 1664, ecx: 2, ..Leaf::default() },
        _ => ones,
    }
}

fn table(xcr0_mask: u64) -> Table {
    let parameters = Parameters { xcr0_mask, vcpus: 2, tsc_hz: 2_000_000_000 };
    Table::new(everything, &parameters)
}

const NOW: Dynamic = Dynamic { apic_id: 1, xcr0: 7, osxsave: true };

#[test]
fn what_is_not_virtualised_is_hidden() {
    let table = table(7);
    let basic = table.get(1, 0, &NOW);
    // MONITOR, VMX, PDCM.
    assert_eq!(basic.ecx & bits(&[3, 5, 15]), 0);
    assert_eq!(basic.ecx & bits(&[21, 24, 26, 27, 31]), bits(&[21, 24, 26, 27, 31]));
    assert_eq!(basic.ebx, 0x0102_ff00);
    let structured = table.get(7, 0, &NOW);
    // TSC_ADJUST, SGX, AVX512F; PKU, LA57; SPEC_CTRL, ARCH_CAPABILITIES.
    assert_eq!(structured.ebx & bits(&[1, 2, 16]), 0);
    assert_eq!(structured.ecx & bits(&[3, 16]), 0);
    assert_eq!(structured.edx & bits(&[26, 29]), 0);
    assert_eq!(table.get(7, 1, &NOW), Leaf::default());
    assert_eq!(table.get(0xa, 0, &NOW), Leaf::default());
    assert_eq!(table.get(0x8000_0001, 0, &NOW).ecx & bits(&[2, 10, 22]), 0);
    assert_eq!(table.get(0, 0, &NOW).eax, MAX_BASIC);
    assert_eq!(table.get(0x8000_0000, 0, &NOW).eax, MAX_EXTENDED);
    for leaf in [0xe, 0x14, 0x1f, 0x4000_0002, 0x8000_0009, 0x8000_001f, ALL] {
        assert_eq!(table.get(leaf, 0, &NOW), Leaf::default(), "{leaf:#x}");
    }
}

#[test]
fn state_components_decide_about_their_instructions() {
    let table = table(0xe7);
    assert_eq!(table.get(0xd, 0, &NOW), Leaf { eax: 0xe7, ebx: 832, ecx: 2688, edx: 0 });
    let all = Dynamic { xcr0: 0xe7, ..NOW };
    assert_eq!(table.get(0xd, 1, &all).ebx, 576 + 256 + 64 + 512 + 1024);
    assert_ne!(table.get(7, 0, &NOW).ebx & 1 << 16, 0);
    for (value, good) in [
        (1, true),
        (3, true),
        (7, true),
        (0xe7, true),
        (0, false),
        (5, false),
        (0x27, false),
        (0x207, false),
    ] {
        assert_eq!(table.allows_xcr0(value), good, "{value:#x}");
    }
    let none = super::Table::new(everything, &Parameters { xcr0_mask: 3, vcpus: 1, tsc_hz: 1 });
    assert!(!none.has_xsave());
    assert_eq!(none.get(1, 0, &NOW).ecx & NEEDS_XSAVE, 0);
    assert_eq!(none.get(0xd, 0, &NOW), Leaf::default());
}

#[test]
fn several_vcpus_are_cores_of_one_package() {
    let vendor = |name: &[u8; 4], vcpus| {
        let name = u32::from_le_bytes(*name);
        let host = move |leaf, sub| match everything(leaf, sub) {
            answer if leaf == 0 => Leaf { ebx: name, ..answer },
            answer => answer,
        };
        let parameters = Parameters { xcr0_mask: 7, vcpus, tsc_hz: 1 };
        let table = Table::new(host, &parameters);
        let leaf = |number| table.get(number, 0, &NOW);
        (
            leaf(1).edx & 1 << 28 != 0,
            leaf(4).eax >> 26,
            leaf(0x8000_0001).ecx & CMP_LEGACY != 0,
            leaf(0x8000_0008).ecx,
        )
    };
    assert_eq!(vendor(b"Auth", 1), (false, 0, false, 0));
    assert_eq!(vendor(b"Auth", 3), (true, 2, true, 0x2002));
    assert_eq!(vendor(b"Genu", 3), (true, 2, false, 0));
}

#[test]
fn kvm_and_topology() {
    let table = table(7);
    let signature = table.get(0x4000_0000, 0, &NOW);
    assert_eq!((signature.eax, signature.ebx), (0x4000_0010, u32::from_le_bytes(*b"KVMK")));
    assert_eq!(table.get(0x4000_0010, 0, &NOW).eax, 2_000_000);
    assert_eq!(table.get(0xb, 1, &NOW), Leaf { eax: 1, ebx: 2, ecx: 0x201, edx: 1 });
    assert_eq!(table.get(0xb, 2, &NOW), Leaf { ecx: 2, edx: 1, ..Leaf::default() });
}
