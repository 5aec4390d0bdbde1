use super::*;
use Architecture::{Arm64, X86_64};

const MIB: u64 = 1 << 20;

/// The least that passes for a kernel: a header that says 16 KiB.
fn kernel() -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    bytes[0x1f1] = 3;
    bytes[0x1f4..0x1f8].copy_from_slice(&(14u32 << 10 >> 4).to_le_bytes());
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    bytes[0x236] = 1;
    bytes[0x258..0x260].copy_from_slice(&(16 * MIB).to_le_bytes());
    bytes[0x260..0x264].copy_from_slice(&(54u32 << 20).to_le_bytes());
    bytes
}

fn changed(at: usize, with: &[u8]) -> String {
    let mut bytes = kernel();
    bytes[at..at + with.len()].copy_from_slice(with);
    check_kernel(X86_64, &bytes, 512 * MIB).unwrap_err().message
}

#[test]
fn kernels() {
    assert_eq!(check_kernel(X86_64, &kernel(), 512 * MIB), Ok(Kernel { needs: 70 * MIB }));
    assert!(
        check_kernel(X86_64, &kernel(), 64 * MIB).unwrap_err().message.contains("needs 70 MiB")
    );
    assert!(
        check_kernel(X86_64, &kernel()[..9000], 512 * MIB)
            .unwrap_err()
            .message
            .contains("truncated")
    );
    assert!(
        check_kernel(X86_64, &kernel()[..0x210], 512 * MIB)
            .unwrap_err()
            .message
            .contains("truncated")
    );
    assert!(check_kernel(X86_64, b"", 512 * MIB).unwrap_err().message.contains("empty"));
    assert!(check_kernel(X86_64, b"hello", 512 * MIB).unwrap_err().message.contains("too short"));
    assert!(changed(0x202, b"HdrX").contains("no Linux kernel"));
    assert!(changed(0x38, b"ARM\x64").contains("arm64"));
    assert!(changed(0, b"\x7fELF").contains("ELF"));
    assert!(changed(0x206, &[0x0b, 2]).contains("2.11"));
    assert!(changed(0x236, &[0]).contains("32-bit"));
    assert!(changed(0x258, &[0xff; 8]).contains("needs"));
}

/// The least that passes for an arm64 kernel, which is a UEFI program too: one section that ends with the file.
fn arm64_kernel() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 10];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[16..24].copy_from_slice(&(30 * MIB).to_le_bytes());
    bytes[24] = 0b1010;
    bytes[0x38..0x40].copy_from_slice(b"ARM\x64\x40\0\0\0");
    bytes[0x40..0x44].copy_from_slice(b"PE\0\0");
    bytes[0x46] = 1;
    bytes[0x54] = 0xa0;
    let section = 0x40 + 24 + 0xa0;
    bytes[section + 16..section + 20].copy_from_slice(&(3u32 << 10).to_le_bytes());
    bytes[section + 20..section + 24].copy_from_slice(&(1u32 << 10).to_le_bytes());
    bytes
}

#[test]
fn arm64_kernels() {
    let check = |bytes: &[u8]| check_kernel(Arm64, bytes, 64 * MIB).map_err(|e| e.message);
    let good = arm64_kernel();
    assert_eq!(check(&good), Ok(Kernel { needs: 32 * MIB }));
    for end in [64, 100, 0x200, good.len() - 1] {
        assert!(check(&good[..end]).unwrap_err().contains("truncated"), "{end}");
    }
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        check(&bytes).unwrap_err()
    };
    assert!(changed(24, &[1]).contains("big-endian"));
    assert!(changed(16, &[0; 8]).contains("how much memory"));
    assert!(changed(16, &[0, 8, 0, 0]).contains("damaged"));
    assert!(changed(16, &[0xff; 8]).contains("needs"));
    assert!(changed(0, b"\x1f\x8b").contains("compressed"));
    assert!(changed(4, b"zimg").contains("compressed"));
    assert!(changed(0, b"\x7fELF").contains("ELF"));
    assert!(changed(0x38, b"arm").contains("no Linux kernel"));
    assert!(check(b"MZ").unwrap_err().contains("too short"));
    assert!(check(b"").unwrap_err().contains("empty"));
    assert!(check(&kernel()).unwrap_err().contains("kernel for x86-64"));
    let other = check_kernel(X86_64, &good, 64 * MIB).unwrap_err();
    assert!(other.message.contains("kernel for arm64") && other.help.contains("bzImage"));
}

#[test]
fn initial_ram_disks() {
    let mut cpio = Vec::new();
    for (name, size) in [("a", 5usize), ("TRAILER!!!", 0)] {
        let header = format!(
            "070701{}{:08x}{}{:08x}{}",
            "0".repeat(48),
            size,
            "0".repeat(32),
            name.len() + 1,
            "0".repeat(8)
        );
        cpio.extend_from_slice(header.as_bytes());
        cpio.extend_from_slice(name.as_bytes());
        cpio.push(0);
        cpio.resize(cpio.len().next_multiple_of(4) + size, 0);
        cpio.resize(cpio.len().next_multiple_of(4), 0);
    }
    let check = |bytes: &[u8]| check_initrd(bytes, None, 64 * MIB).map_err(|e| e.message);
    assert_eq!(check(&cpio), Ok(()));
    for end in 6..cpio.len() - 8 {
        assert!(check(&cpio[..end]).unwrap_err().contains("truncated"), "{end}");
    }
    assert_eq!(check(b"\x1f\x8b\x08 and so on"), Ok(()));
    assert!(check(b"").unwrap_err().contains("empty"));
    assert!(check(b"root:x:0:0").unwrap_err().contains("no initial RAM disk"));
    let mut large = vec![0; 33 << 20];
    large[..2].copy_from_slice(b"\x1f\x8b");
    assert!(check(&large).unwrap_err().contains("need at least"));
}
