//! The size of the kernel: code and constants, as every system has them.

use bulkhead::artifacts::Artifacts;
use configs::Architecture;
use elf::ElfBytes;
use elf::endian::LittleEndian;

/// Most bytes of the sections `.text` and `.rodata` together.
const BOUNDS: [(Architecture, u64); 2] = [
    (Architecture::X86_64, 96 << 10),
    (Architecture::Arm64, 80 << 10),
];

#[test]
fn the_kernel_stays_small() {
    for (architecture, most) in BOUNDS {
        let kernel = Artifacts::build(architecture).unwrap().kernel_elf();
        let bytes = std::fs::read(kernel).unwrap();
        let file = ElfBytes::<LittleEndian>::minimal_parse(&bytes).unwrap();
        let size = |name| file.section_header_by_name(name).unwrap().unwrap().sh_size;
        let (text, constants) = (size(".text"), size(".rodata"));
        eprintln!("{architecture}: {text} bytes of text, {constants} of constants");
        assert!(text + constants <= most, "{architecture}: more than {most}");
    }
}
