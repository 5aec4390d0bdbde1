//! A monitor that answers exits with nonsense, and what its guest runs.

use crate::place::STATE;
use crate::random::Random;
use abi::vcpu::x86_64::{CONTROL_HALT, Groups, Segment, VcpuState};
use abi::vcpu::{EXIT_KINDS, ExitKind, exit_kind, instruction_length};

/// Distance of the guest's pieces of code.
const PIECE: u64 = 16;

/// What the guest runs, from address 0 on.
const CODE: &[[u8; PIECE as usize]] = &[
    *b"\xf4\xeb\xfd\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xeb\xee", // hlt
    *b"\x0f\x01\xd9\x0f\x01\xc1\x90\x90\x90\x90\x90\x90\x90\x90\xeb\xde", // vmmcall, vmcall
    *b"\x0f\xa2\x0f\xa2\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xeb\xce", // cpuid
    *b"\xec\xee\xe5\x10\xe7\x20\x6c\x6e\x90\x90\x90\x90\x90\x90\xeb\xbe", // in, out, ins, outs
    *b"\x0f\x32\x0f\x30\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xeb\xae", // rdmsr, wrmsr
    *b"\x0f\x20\xc0\x0f\x22\xd8\x0f\x06\x0f\x21\xc0\x0f\x23\xc0\xeb\x9e", // mov cr0, cr3, clts, mov dr0
    *b"\x0f\x0b\xcc\xf1\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xeb\x8e", // ud2, int3, icebp
    *b"\xa1\x00\x00\x00\x40\xa3\x00\x00\x00\x50\x90\x90\x90\x90\xeb\x00", // memory that is not there
    *b"\xf3\x90\xfb\xf4\xfa\xcd\x80\xcd\x02\x9c\x9d\xcf\x90\x90\x90\x90", // pause, sti, int, iret
    *b"\x0f\x57\xc0\xdb\xe3\x0f\x01\xd1\x0f\x01\xd0\x0f\x09\x0f\x08\x90", // xorps, fninit, xsetbv, wbinvd
    *b"\x0f\x01\xd8\x0f\x01\xda\x0f\x01\xdd\x0f\x01\xdc\x0f\xaa\x90\x90", // vmrun, vmload, clgi, stgi, rsm
    *b"\xeb\xfe\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", // an endless loop
];

/// The guest's code.
pub fn code() -> impl Iterator<Item = u8> {
    CODE.iter().flatten().copied()
}

fn initial() -> VcpuState {
    let data = Segment {
        selector: 16,
        access: 0xc093,
        limit: u32::MAX,
        ..Segment::default()
    };
    VcpuState {
        rflags: 2,
        cr0: 0x31,
        deadline: u64::MAX,
        xcr0: 1,
        dr7: 0x400,
        pat: 0x0007_0406_0007_0406,
        cs: Segment {
            selector: 8,
            access: 0xc09b,
            ..data
        },
        ss: data,
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ldtr: Segment {
            access: 0x1_0000,
            ..Segment::default()
        },
        tr: Segment {
            selector: 24,
            access: 0x8b,
            limit: 0x67,
            ..Segment::default()
        },
        ..VcpuState::default()
    }
}

const EFER_LME: u64 = 1 << 8;
const CR4_PAE: u64 = 1 << 5;

/// Answers the exit that `word` tells of; returns the groups that it says it changed.
pub fn answer(random: &mut Random, word: u64, now: u64) -> u64 {
    let page = STATE as *mut VcpuState;
    let words = STATE as *mut u64;
    let all = Groups::all().bits();
    let mut groups = match random.below(4) {
        0 => random.word(),
        1 => all & random.word(),
        _ => all,
    };
    // SAFETY: the kernel has mapped the state page there; if it has not, the handler faults, which is a move too.
    unsafe {
        let rip = &raw mut (*page).rip;
        if exit_kind(word) == Some(ExitKind::Startup) || random.one_in(6) {
            page.write_volatile(initial());
            rip.write_volatile(random.below(CODE.len() as u64) * PIECE);
        } else if random.one_in(2) {
            rip.write_volatile(rip.read_volatile() + instruction_length(word));
            groups = Groups::RIP.bits();
        } else {
            rip.write_volatile(random.below(CODE.len() as u64 * PIECE));
            (&raw mut (*page).deadline).write_volatile(now + random.below(100_000));
        }
        if random.one_in(3) {
            for _ in 0..random.below(4) {
                let at = words.add(random.below(size_of::<VcpuState>() as u64 / 8) as usize);
                at.write_volatile(match random.below(3) {
                    0 => random.edge(),
                    1 => at.read_volatile() ^ 1 << random.below(64),
                    _ => random.word(),
                });
            }
        }
        let controls = &raw mut (*page).controls;
        if random.one_in(8) {
            controls.write_volatile(random.word() & (7 | CONTROL_HALT));
        } else {
            controls.write_volatile(0);
        }
        // What ends QEMU 7.2, not the kernel: breakpoints where CS has a base, and long mode enabled without PAE.
        let dr7 = &raw mut (*page).dr7;
        dr7.write_volatile(dr7.read_volatile() & !0xff);
        let cr4 = &raw mut (*page).cr4;
        if (&raw const (*page).efer).read_volatile() & EFER_LME != 0 {
            cr4.write_volatile(cr4.read_volatile() | CR4_PAE);
            groups |= Groups::CONTROL.bits();
        }
    }
    groups
}

/// Groups that an exit of `kind` saves.
pub fn saved(random: &mut Random, kind: u32) -> u64 {
    debug_assert!(kind < EXIT_KINDS);
    if random.one_in(2) {
        Groups::RIP.bits()
    } else {
        random.word()
    }
}
