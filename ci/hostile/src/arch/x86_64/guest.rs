//! What a guest runs, and its state.

use crate::random::Random;
use abi::vcpu::x86_64::{CONTROL_HALT, CONTROL_INTERRUPT_WINDOW, CONTROL_NMI_WINDOW};
pub use abi::vcpu::x86_64::{Groups, VcpuState};
use core::mem::offset_of;

/// The program counter's group.
pub const PC_GROUP: Groups = Groups::RIP;
/// Offset of the program counter in the state.
pub const PC: usize = offset_of!(VcpuState, rip);
/// The controls.
pub const CONTROLS: u64 = CONTROL_INTERRUPT_WINDOW | CONTROL_NMI_WINDOW | CONTROL_HALT;

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
    // An endless loop, with interrupts off but for a moment: Bochs 2.7, entered with them off, does not leave the guest for the
    // machine's interrupts before it has changed the flag. All other ways through the code come to an exit, and the guest
    // cannot change it.
    *b"\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90\xfb\xfa\xeb\xfc", // sti, cli
];

/// The guest's code.
pub fn code() -> impl Iterator<Item = u8> {
    CODE.iter().flatten().copied()
}

/// A state to start from, somewhere in the code.
pub fn initial(random: &mut Random) -> VcpuState {
    trial::initial_state(random.below(CODE.len() as u64) * PIECE)
}

/// An address in the code, or between its instructions.
pub fn anywhere(random: &mut Random) -> u64 {
    random.below(CODE.len() as u64 * PIECE)
}

const EFER_LME: u64 = 1 << 8;
const CR4_PAE: u64 = 1 << 5;

/// Takes out of the state what ends QEMU 7.2, not the kernel: breakpoints where CS has a base, and long mode enabled
/// without PAE. Returns the groups that have to be loaded for that.
///
/// # Safety
/// The state page is mapped at `page`, or the access ends in an exception.
pub unsafe fn spare_the_emulator(page: *mut VcpuState) -> Groups {
    // SAFETY: the caller's promise.
    unsafe {
        let dr7 = &raw mut (*page).dr7;
        dr7.write_volatile(dr7.read_volatile() & !0xff);
        if (&raw const (*page).efer).read_volatile() & EFER_LME == 0 {
            return Groups::empty();
        }
        let cr4 = &raw mut (*page).cr4;
        cr4.write_volatile(cr4.read_volatile() | CR4_PAE);
    }
    Groups::CONTROL
}
