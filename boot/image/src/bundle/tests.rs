//! A bundle survives the way through the writer and the reader; a damaged one is refused, never fatal.

use super::*;
use crate::pack::{FlatProgram, Packer};
use crate::system::*;
use proptest::prelude::*;

fn program(fill: u8) -> FlatProgram {
    let segment = |address, rights: abi::Rights| Segment {
        address,
        offset: 0,
        size: 4096,
        rights: rights.bits().into(),
    };
    FlatProgram {
        entry: 0x20_0010,
        segments: vec![
            (segment(0x20_0000, abi::Rights::RX), vec![fill; 4096]),
            (segment(0x20_1000, abi::Rights::RW), vec![0; 4096]),
        ],
    }
}

fn compartment(program: &str) -> Compartment {
    Compartment {
        program: name(program),
        cpu: Cpu::BOOT,
        priority: 10.try_into().unwrap(),
        quota: 256.try_into().unwrap(),
        memory: (1 << 20).try_into().unwrap(),
        fault_after_ms: None,
    }
}

fn name(text: &str) -> Name {
    Name::try_from(String::from(text)).unwrap()
}

fn system() -> System {
    System {
        name: name("test"),
        servers: vec![Server {
            name: name("serial"),
            compartment: compartment("console"),
            kind: ServerKind::Console { uart: Uart::COM1 },
        }],
        vms: vec![Vm {
            name: name("linux"),
            monitor: compartment("monitor"),
            memory: (128 << 20).try_into().unwrap(),
            memory_at: None,
            vcpus: vec![Cpu::BOOT].try_into().unwrap(),
            kernel: "kernel".into(),
            initrd: Some("initrd".into()),
            cmdline: String::from("console=ttyS0").try_into().unwrap(),
            console: Some(name("serial")),
            serial: Uart::COM1,
            on_reset: After::Restart,
            on_crash: After::Stop,
        }],
        natives: vec![],
    }
}

fn bundle() -> Vec<u8> {
    let mut packer = Packer::new(&program(1)).unwrap();
    packer.program("monitor", &program(2));
    packer.program("console", &program(3));
    packer.file("kernel", FileKind::Kernel, &[4; 10_000]);
    packer.file("initrd", FileKind::Initrd, &[5; 1]);
    packer.finish(system()).unwrap()
}

/// Puts another directory behind the bundle, with right checksums.
fn with_directory(change: impl FnOnce(&mut Directory)) -> Vec<u8> {
    let mut bytes = bundle();
    let mut directory = Bundle::open(&bytes).unwrap().directory;
    change(&mut directory);
    let raw = postcard::to_allocvec(&directory).unwrap();
    with_raw_directory(&mut bytes, &raw);
    bytes
}

fn with_raw_directory(bytes: &mut Vec<u8>, raw: &[u8]) {
    let mut head = Head::decode(bytes, bytes.len() as u64).unwrap();
    head.directory.offset = bytes.len() as u64;
    head.directory.size = raw.len() as u64;
    head.directory.checksum = checksum(raw);
    bytes.extend_from_slice(raw);
    head.total_size = bytes.len() as u64;
    bytes[..HEAD_SIZE].copy_from_slice(&head.encode());
}

#[test]
fn round_trip() {
    let bytes = bundle();
    let bundle = Bundle::open(&bytes).unwrap();
    bundle.check_contents().unwrap();
    assert_eq!(*bundle.system(), system());
    assert_eq!(bundle.file("kernel").unwrap().1, &[4; 10_000]);
    assert_eq!(bundle.program("console").unwrap().entry, 0x20_0010);
    assert_eq!(bundle.file("nothing").unwrap_err(), Error::Missing("nothing".into()));
}

#[test]
fn both_checksums_agree() {
    let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * i) as u8).collect();
    assert_eq!(checksum(&bytes), abi::bundle::checksum(&bytes));
}

#[test]
fn truncated_at_every_page() {
    let bytes = bundle();
    for end in (0..bytes.len()).step_by(1000) {
        assert!(Bundle::open(&bytes[..end]).is_err(), "{end} bytes");
    }
}

#[test]
fn damaged_contents_are_found_when_used() {
    let mut bytes = bundle();
    let (kernel, monitor) = {
        let bundle = Bundle::open(&bytes).unwrap();
        (
            bundle.file("kernel").unwrap().0.offset,
            bundle.program("monitor").unwrap().segments[0].offset,
        )
    };
    bytes[kernel as usize + 9_999] ^= 1;
    bytes[monitor as usize] ^= 1;
    let bundle = Bundle::open(&bytes).unwrap();
    assert_eq!(bundle.file("kernel").unwrap_err(), Error::BadChecksum("kernel".into()));
    assert_eq!(bundle.program("monitor").unwrap_err(), Error::BadChecksum("monitor".into()));
    bundle.file("initrd").unwrap();
}

#[test]
fn hostile_directories() {
    let refused = |change: fn(&mut Directory)| Bundle::open(&with_directory(change)).unwrap_err();
    assert_eq!(refused(|d| d.files[0].offset = u64::MAX - 100), Error::BadExtent("kernel".into()));
    assert_eq!(refused(|d| d.files[0].offset += 1), Error::BadExtent("kernel".into()));
    assert_eq!(refused(|d| d.files[0].size = 0), Error::BadExtent("kernel".into()));
    assert_eq!(refused(|d| d.files[0].size = u64::MAX), Error::BadExtent("kernel".into()));
    assert_eq!(refused(|d| d.files[0].offset = 0), Error::Overlap);
    assert_eq!(refused(|d| d.files[0].offset = d.programs[0].segments[1].offset), Error::Overlap);
    assert_eq!(refused(|d| d.programs[0].entry = 0), Error::BadExtent("monitor".into()));
    assert_eq!(refused(|d| d.programs[0].segments.clear()), Error::BadExtent("monitor".into()));
    assert_eq!(
        refused(|d| d.programs[0].segments[0].rights = 7),
        Error::BadExtent("monitor".into())
    );
    assert_eq!(refused(|d| d.programs[0].segments.swap(0, 1)), Error::BadExtent("monitor".into()));
    assert_eq!(
        refused(|d| d.programs[1].name = "monitor".into()),
        Error::Duplicate("monitor".into())
    );
    assert_eq!(refused(|d| d.files[1].name = "x".into()), Error::Missing("initrd".into()));
    assert_eq!(refused(|d| d.programs[1].name = "x".into()), Error::Missing("console".into()));
    let twice = |d: &mut Directory| d.system.servers.push(d.system.servers[0].clone());
    assert!(matches!(refused(twice), Error::System(SystemError::DuplicateName(_))));
    let mut trailing = bundle();
    let mut raw = postcard::to_allocvec(&Bundle::open(&trailing).unwrap().directory).unwrap();
    raw.push(0);
    with_raw_directory(&mut trailing, &raw);
    assert_eq!(Bundle::open(&trailing).unwrap_err(), Error::DirectoryFormat);
}

#[test]
fn a_guest_is_what_its_memory_holds() {
    let segment = |address, contents: Vec<u8>| {
        let segment = Segment { address, size: contents.len() as u64, ..Segment::default() };
        (segment, contents)
    };
    let program = FlatProgram {
        entry: 0x20_0000,
        segments: vec![segment(0x20_0000, vec![1; 4096]), segment(0x20_2000, vec![2; 4096])],
    };
    let expected = [[1; 4096], [0; 4096], [2; 4096]].concat();
    assert_eq!(program.memory(), expected);
}

#[test]
fn elf_of_this_test_is_refused() {
    let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    assert!(FlatProgram::from_elf(&bytes).is_err());
    assert!(FlatProgram::from_elf(b"#!/bin/sh").is_err());
}

proptest! {
    /// Any change of bytes is refused, or leaves a bundle that can be used without a panic.
    #[test]
    fn flipped_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = bundle();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Ok(bundle) = Bundle::open(&bytes) {
            let _ = bundle.check_contents();
        }
    }

    /// A directory of random bytes with a right checksum is refused.
    #[test]
    fn random_directory(raw in prop::collection::vec(any::<u8>(), 1..200)) {
        let mut bytes = bundle();
        with_raw_directory(&mut bytes, &raw);
        prop_assert!(Bundle::open(&bytes).is_err());
    }

    /// A directory with some bytes changed, its checksum made right, never makes the reader panic.
    #[test]
    fn changed_directory(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = bundle();
        let mut raw = postcard::to_allocvec(&Bundle::open(&bytes).unwrap().directory).unwrap();
        for (at, to) in changes {
            let at = at.index(raw.len());
            raw[at] = to;
        }
        with_raw_directory(&mut bytes, &raw);
        if let Ok(bundle) = Bundle::open(&bytes) {
            let _ = bundle.check_contents();
        }
    }

    /// No ELF header makes the packer panic.
    #[test]
    fn hostile_elf(mut raw in prop::collection::vec(any::<u8>(), 64..400), keep in any::<bool>()) {
        if keep {
            raw[..6].copy_from_slice(b"\x7fELF\x02\x01");
            raw[16..20].copy_from_slice(&[2, 0, 62, 0]);
            raw[32..40].copy_from_slice(&64u64.to_le_bytes());
            raw[54..58].copy_from_slice(&[56, 0, 2, 0]);
        }
        let _ = FlatProgram::from_elf(&raw);
    }
}
